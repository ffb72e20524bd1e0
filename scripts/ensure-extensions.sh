#!/usr/bin/env bash
# Makes sure that the tests have what types of a database depend on besides PostgreSQL itself: the
# extension PostGIS, and a locale whose money is not written as that of C.
set -euo pipefail
cd "$(dirname "$0")"
locale=de_DE.UTF-8
has_locale() {
    locale -a | tr -d - | grep -ix "${locale//-/}" >/dev/null
}
share=$("$(./find-postgres.sh)/pg_config" --sharedir 2>/dev/null || true)
# Other PostgreSQLs than the installed one are tested without extensions that they lack.
if [ -z "${EGRET_PG_BIN:-}" ] && [ ! -e "$share/extension/postgis.control" ]; then
    ./apt-install.sh "PostGIS for PostgreSQL" postgresql-postgis ||
        echo "without it, its types are not tested" >&2
fi
if ! has_locale; then
    command -v localedef >/dev/null && [ -e /usr/share/i18n/locales/de_DE ] ||
        ./apt-install.sh "the locale $locale" locales
    localedef -i de_DE -f UTF-8 "$locale"
fi
has_locale || {
    echo "missing: the locale $locale, which tests of money need" >&2
    exit 1
}
