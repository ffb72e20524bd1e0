#!/usr/bin/env bash
# Makes sure that Chromium and its driver are here, for the tests of the search page.
set -euo pipefail
if ! command -v chromedriver >/dev/null || ! command -v chromium >/dev/null; then
    "$(dirname "$0")/apt-install.sh" "Chromium and its driver" chromium chromium-driver
fi
