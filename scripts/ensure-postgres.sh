#!/usr/bin/env bash
# Makes sure that PostgreSQL's server programs (14 or newer), psql and curl are here. Quick when
# they are. Starts no server: tests and the demo start private ones.
set -euo pipefail
cd "$(dirname "$0")"
if ! command -v curl >/dev/null; then
    ./apt-install.sh "curl" curl ca-certificates
fi
if ./find-postgres.sh >/dev/null && command -v psql >/dev/null; then
    exit 0
fi
if [ -n "${EGRET_PG_BIN:-}" ]; then
    echo "EGRET_PG_BIN=$EGRET_PG_BIN has no initdb and postgres of version 14 or newer" >&2
    exit 1
fi
settings=/etc/postgresql-common/createcluster.conf
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && [ ! -e "$settings" ]; then
    # Debian's package would also make and start a server of its own, which nobody asked for.
    ./apt-install.sh "PostgreSQL's cluster settings" postgresql-common
    sed -i 's/^#* *create_main_cluster *=.*/create_main_cluster = false/' "$settings"
fi
./apt-install.sh "PostgreSQL 14 or newer: server programs and psql" postgresql postgresql-client
./find-postgres.sh >/dev/null || {
    echo "PostgreSQL was installed, but initdb and postgres of version 14 or newer were not found" >&2
    exit 1
}
