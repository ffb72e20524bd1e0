#!/usr/bin/env bash
# Makes sure that Chromium, Node.js and the pinned playwright-core are here, for the test of the
# search page (tests/page).
set -euo pipefail
cd "$(dirname "$0")/.."
missing=()
command -v chromium >/dev/null || command -v chromium-browser >/dev/null ||
    command -v google-chrome >/dev/null || missing+=(chromium)
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)
if [ ${#missing[@]} -gt 0 ]; then
    scripts/apt-install.sh "Chromium and Node.js, for the test of the search page" "${missing[@]}"
fi
cd tests/page
if ! cmp -s package.json node_modules/installed.json; then
    npm install --no-audit --no-fund --no-package-lock --silent >&2
    cp package.json node_modules/installed.json
fi
