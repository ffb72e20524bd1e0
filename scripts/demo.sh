#!/usr/bin/env bash
# Search real data that lives in PostgreSQL:  demo.sh [FILE.jsonl]
#
# Starts a private PostgreSQL in a temporary folder, loads this machine's Debian package catalogue
# (or a file of JSON objects, one a line), starts Egret following it, and says what to try. Ctrl-C
# ends everything and removes the folder.
#
#   EGRET_BIN   an egret to run instead of building one
#   LISTEN      where it listens (127.0.0.1:9200, or any free port where that one is taken)
#   DEMO_ONCE   non-empty: do the three things instead of proposing them, and exit
set -euo pipefail
data=${1:+$(realpath "$1")}
cd "$(dirname "$0")/.."
work='' server='' egret='' address=''

say() { printf '%s\n' "$*"; }
fail() {
    say "$*" >&2
    exit 1
}

# Ends a child of ours: signal, then after ten seconds without mercy.
finish() {
    local pid=$1 signal=$2
    kill "-$signal" "$pid" 2>/dev/null || return 0
    for _ in $(seq 100); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
}

cleanup() {
    trap - EXIT INT TERM HUP
    if [ -n "$egret" ]; then finish "$egret" TERM; fi
    if [ -n "$server" ]; then finish "$server" INT; fi
    if [ -n "$work" ]; then rm -rf "$work"; fi
}
trap cleanup EXIT
trap 'say; say "stopping"; exit 130' INT TERM HUP

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# --- PostgreSQL ---------------------------------------------------------------------------------

as_owner() {
    if [ "$(id -u)" = 0 ]; then
        exec setpriv --reuid "$owner" --regid "$(id -g "$owner")" --clear-groups "$@"
    fi
    exec "$@"
}

start_postgres() {
    binaries=$(scripts/find-postgres.sh)
    owner=$(id -un)
    if [ "$(id -u)" = 0 ]; then
        # PostgreSQL refuses to run as root.
        owner=postgres
        id "$owner" >/dev/null 2>&1 || owner=nobody
    fi
    password=$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')
    install -d -m 700 -o "$owner" "$work/postgres"
    printf '%s' "$password" >"$work/postgres/password"
    chown "$owner" "$work/postgres/password"
    (cd "$work/postgres" && as_owner "$binaries/initdb" -D data --username=postgres \
        --pwfile=password --auth=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8) \
        >"$work/initdb.log" 2>&1 || fail "initdb failed: $(cat "$work/initdb.log")"
    for _ in $(seq 20); do
        port=$((20000 + RANDOM % 12000))
        listens "$port" && continue
        (cd "$work/postgres" && as_owner "$binaries/postgres" -D data -p "$port" \
            -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c wal_level=logical) \
            >>"$work/postgres.log" 2>&1 </dev/null &
        server=$!
        for _ in $(seq 600); do
            if [ "$(sed -n '8s/ *$//p' "$work/postgres/data/postmaster.pid" 2>/dev/null)" = ready ]; then
                return
            fi
            kill -0 "$server" 2>/dev/null || break
            sleep 0.1
        done
        finish "$server" INT
        server=''
    done
    fail "PostgreSQL did not start: $(tail -n 20 "$work/postgres.log")"
}

admin() { psql --quiet --no-psqlrc -v ON_ERROR_STOP=1 "postgres://postgres:$password@127.0.0.1:$port/$1" "${@:2}"; }
ask() { psql --quiet --no-psqlrc -v ON_ERROR_STOP=1 -At "$url" -c "$1"; }

load() {
    admin postgres -c "CREATE ROLE egret LOGIN REPLICATION PASSWORD '$password'" \
        -c "CREATE DATABASE demo OWNER egret"
    local table
    url="postgres://egret:$password@127.0.0.1:$port/demo"
    if [ -n "$data" ]; then
        tables=(documents)
        psql --quiet --no-psqlrc -v ON_ERROR_STOP=1 "$url" -f scripts/demo/load-jsonl.sql <"$data"
        key=$(ask "SELECT attname FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0] WHERE indrelid = 'documents'::regclass AND indisprimary")
        column=$(ask "SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = 'documents'::regclass AND attnum > 0 AND atttypid = 'text'::regtype AND attname <> '$key' ORDER BY attname IN ('title', 'name', 'summary', 'text', 'body') DESC, attnum LIMIT 1")
        [ -n "$column" ] || fail "the objects have no text to search: give them a key whose values are strings"
        word=egret
        change="UPDATE documents SET $column = 'an egret follows an elephant' WHERE $key = (SELECT $key FROM documents ORDER BY $key LIMIT 1)"
    else
        tables=(packages package_tags)
        psql --quiet --no-psqlrc -v ON_ERROR_STOP=1 "$url" -f scripts/demo/debian-catalogue.sql
        scripts/demo/debian-catalogue.sh packages >"$work/packages.copy"
        scripts/demo/debian-catalogue.sh tags >"$work/tags.copy"
        psql --quiet --no-psqlrc -v ON_ERROR_STOP=1 "$url" -c '\copy packages FROM pstdin' <"$work/packages.copy"
        psql --quiet --no-psqlrc -v ON_ERROR_STOP=1 "$url" -c '\copy package_tags FROM pstdin' <"$work/tags.copy"
        rm "$work/packages.copy" "$work/tags.copy"
        word=bird
        change="UPDATE packages SET summary = 'a white bird that follows elephants' WHERE name = 'bash'"
    fi
    for table in "${tables[@]}"; do
        ask "ANALYZE $table"
    done
}

# --- Egret --------------------------------------------------------------------------------------

start_egret() {
    : >"$work/egret.out"
    "$program" serve --data "$work/egret" --listen "$listen" --postgres "$url" --tables '*' \
        >"$work/egret.out" 2>>"$work/egret.log" </dev/null &
    egret=$!
    for _ in $(seq 600); do
        address=$(sed -n 's/.*egret listening on http:\/\///p' "$work/egret.out")
        if [ -n "$address" ]; then
            listen=$address
            return
        fi
        kill -0 "$egret" 2>/dev/null || fail "egret ended: $(tail -n 20 "$work/egret.out" "$work/egret.log")"
        sleep 0.1
    done
    fail "egret does not listen after a minute: $(tail -n 20 "$work/egret.log")"
}

count_of() { curl -s "http://$address/$1/_count" | sed -n 's/.*"count" *: *\([0-9]*\).*/\1/p'; }

# Waits until every table's rows are searchable, and says how far it is.
wait_for_copy() {
    local table rows count before begin=$SECONDS
    for table in "${tables[@]}"; do
        rows=$(ask "SELECT count(*) FROM $table")
        before=''
        while :; do
            count=$(count_of "$table")
            if [ "$count" != "$before" ]; then
                if [ -t 1 ]; then printf '\r'; fi
                printf '  %s: %s of %s rows' "$table" "${count:-0}" "$rows"
                if [ ! -t 1 ]; then printf '\n'; fi
                before=$count
            fi
            [ "$count" = "$rows" ] && break
            kill -0 "$egret" 2>/dev/null || fail "egret ended: $(tail -n 20 "$work/egret.out" "$work/egret.log")"
            [ $((SECONDS - begin)) -lt 600 ] || fail "the copy takes more than ten minutes: $(curl -s "http://$address/_cdc")"
            sleep 0.2
        done
        if [ -t 1 ]; then printf '\n'; fi
    done
}

search() { curl -s "http://$address/${tables[0]}/_search?q=$word&size=3"; }
found() { search | sed -n 's/.*"total" *: *{ *"value" *: *\([0-9]*\).*/\1/p'; }

propose() {
    cat <<TEXT

  Search page:  http://$address/#index=${tables[0]}

  Three things to try, in another terminal:

  1. Search.
       curl 'http://$address/${tables[0]}/_search?q=$word&size=3'
  2. Change a row, and search again: the change is there.
       psql '$url' -c "$change"
  3. Kill Egret without warning. It is started again here, and goes on where it was.
       kill -9 $egret

  Ctrl-C ends everything.
TEXT
}

# Egret was killed: start it again on the same folder and address.
revive() {
    local begin=$EPOCHREALTIME rows
    wait "$egret" 2>/dev/null || true
    start_egret
    rows=$(count_of "${tables[0]}")
    say "egret was killed; it is back after $(((${EPOCHREALTIME/./} - ${begin/./}) / 1000)) ms with $rows rows, as process $egret"
}

# Does the three things, and fails where one does not come out.
once() {
    local before after
    before=$(found)
    [ -n "$before" ] || fail "the search found nothing to count: $(search)"
    say "1. a search for \"$word\" finds $before"
    ask "$change"
    await_found $((before + 1))
    say "2. after the update it finds $((before + 1))"
    kill -9 "$egret"
    revive
    await_found $((before + 1))
    after=$(count_of "${tables[0]}")
    [ "$after" = "$(ask "SELECT count(*) FROM ${tables[0]}")" ] || fail "rows are missing: $after"
    say "3. after kill -9 and a restart it still finds $((before + 1)) among $after"
}

await_found() {
    for _ in $(seq 300); do
        [ "$(found)" = "$1" ] && return
        sleep 0.1
    done
    fail "expected $1 results, but: $(search)"
}

# --- The demo -----------------------------------------------------------------------------------

[ -z "$data" ] || [ -r "$data" ] || fail "cannot read $data"
scripts/ensure-postgres.sh
program=${EGRET_BIN:-}
if [ -z "$program" ]; then
    say "building egret"
    cargo build --release --locked --workspace --bin egret
    program=${CARGO_TARGET_DIR:-target}/release/egret
fi
listen=${LISTEN:-}
if [ -z "$listen" ]; then
    listen=127.0.0.1:9200
    if listens 9200; then listen=127.0.0.1:0; fi
fi
work=$(mktemp -d "${TMPDIR:-/tmp}/egret-demo-XXXXXX")
chmod 711 "$work"
say "starting a private PostgreSQL in $work"
start_postgres
what="this machine's Debian package catalogue"
say "loading ${data:-$what}"
load
say "starting egret"
start_egret
wait_for_copy
if [ -n "${DEMO_ONCE:-}" ]; then
    once
    exit 0
fi
propose
while :; do
    status=0
    wait "$egret" 2>/dev/null || status=$?
    # 137: ended by signal 9, as proposed.
    [ "$status" = 137 ] || fail "egret ended with status $status: $(tail -n 20 "$work/egret.log")"
    revive
done
