#!/usr/bin/env bash
# Prints the folder of PostgreSQL's server programs (EGRET_PG_BIN, Debian's folders newest first,
# PATH), or fails silently. Older versions than 14 lack what logical replication needs here.
set -euo pipefail
candidates() {
    if [ -n "${EGRET_PG_BIN:-}" ]; then
        echo "$EGRET_PG_BIN"
        return
    fi
    ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -t/ -k5 -rn || true
    tr : '\n' <<<"$PATH"
}
while read -r folder; do
    if [ -x "$folder/initdb" ] && [ -x "$folder/postgres" ]; then
        version=$("$folder/postgres" --version | sed 's/^[^0-9]*\([0-9]*\).*/\1/')
        if [ "$version" -ge 14 ]; then
            echo "$folder"
            exit 0
        fi
    fi
done < <(candidates)
exit 1
