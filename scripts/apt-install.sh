#!/usr/bin/env bash
# Installs Debian packages where that is possible (root on Debian or Ubuntu), and otherwise says
# exactly what to install.    usage: apt-install.sh PURPOSE PACKAGE...
set -euo pipefail
purpose=$1
shift
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    {
        echo "missing: $purpose"
        if command -v apt-get >/dev/null; then
            echo "install it with: sudo apt-get install $*"
        else
            echo "install what your system calls: $*"
        fi
    } >&2
    exit 1
fi
echo "installing $* ($purpose)" >&2
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# The lists may be missing or stale: fetch them, and then install.
if ! { apt-get update && apt-get install -y --no-install-recommends "$@"; } >"$log" 2>&1 </dev/null; then
    tail -20 "$log" >&2
    exit 1
fi
