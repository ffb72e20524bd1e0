#!/usr/bin/env bash
# Makes sure that .cache/python holds a Python with the real Elasticsearch and OpenSearch clients,
# at the versions pinned in clients/requirements.txt. Prints the path of the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
environment=$PWD/.cache/python
pins=scripts/clients/requirements.txt
mkdir -p .cache
exec 9>.cache/python.lock
flock 9
if ! cmp -s "$pins" "$environment/pins.txt"; then
    if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
        scripts/apt-install.sh "Python 3 with venv" python3 python3-venv
    fi
    rm -rf "$environment"
    python3 -m venv "$environment"
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check \
        --requirement "$pins" >&2
    cp "$pins" "$environment/pins.txt"
fi
echo "$environment/bin/python"
