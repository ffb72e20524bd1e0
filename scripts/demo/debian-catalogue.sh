#!/usr/bin/env bash
# Prints this machine's Debian package catalogue as PostgreSQL's COPY text.
#   usage: debian-catalogue.sh packages|tags
# From apt's package lists, with the long descriptions where the lists carry them; where the lists
# are missing, from dpkg's status file.
set -euo pipefail
lists=/var/lib/apt/lists

stanzas() {
    local available
    if command -v apt-cache >/dev/null && compgen -G "$lists/*_Packages*" >/dev/null; then
        apt-cache dumpavail
    elif [ -r /var/lib/dpkg/status ]; then
        cat /var/lib/dpkg/status
    else
        echo "this machine has no Debian package catalogue: use make demo DATA=file.jsonl" >&2
        return 1
    fi
}

# Long descriptions stand in lists of their own, under the MD5 of the description.
translations() {
    local file
    for file in "$lists"/*_Translation-en*; do
        if [ -r "$file" ]; then
            /usr/lib/apt/apt-helper cat-file "$file"
            echo
        fi
    done
}

{
    if [ "$1" = packages ]; then translations; fi
    printf '\n%%%% packages\n\n'
    stanzas
} | LC_ALL=C awk -v table="$1" '
function escape(text) {
    gsub(/\\/, "&&", text)
    gsub(/\t/, "\\t", text)
    gsub(/\r/, "\\r", text)
    gsub(/\n/, "\\n", text)
    return text
}
function words(name) { return (name in field) ? escape(field[name]) : "\\N" }
function number(name) { return (field[name] ~ /^[0-9]+$/) ? field[name] : "\\N" }
function maintainer(   name) {
    name = field["Maintainer"]
    sub(/ *<.*/, "", name)
    return name == "" ? "\\N" : escape(name)
}
# The body of a description: " ." is an empty line, and one leading blank is markup.
function unfold(text) {
    gsub(/\n \.(\n|$)/, "\n\n", text)
    gsub(/\n /, "\n", text)
    sub(/^\n+/, "", text)
    sub(/\n+$/, "", text)
    return text
}
function flush_stanza(   name, summary, description, at, tags, count) {
    name = field["Package"]
    if (!in_packages) {
        if (("Description-md5" in field) && ("Description-en" in field)) {
            description = field["Description-en"]
            at = index(description, "\n")
            if (at) long_text[field["Description-md5"]] = unfold(substr(description, at))
        }
    } else if (name != "" && !(name in seen)) {
        seen[name] = 1
        if (table == "packages") {
            summary = ("Description" in field) ? field["Description"] : field["Description-en"]
            at = index(summary, "\n")
            description = at ? unfold(substr(summary, at)) : long_text[field["Description-md5"]]
            if (at) summary = substr(summary, 1, at - 1)
            print escape(name) "\t" words("Version") "\t" words("Section") "\t" words("Priority") \
                "\t" words("Architecture") "\t" maintainer() "\t" number("Installed-Size") \
                "\t" number("Size") "\t" words("Homepage") "\t" words("Depends") \
                "\t" escape(summary) "\t" (description == "" ? "\\N" : escape(description))
        } else {
            gsub(/\n/, " ", field["Tag"])
            count = split(field["Tag"], tags, /, */)
            for (at = 1; at <= count; at++) {
                gsub(/^ +| +$/, "", tags[at])
                if (tags[at] != "" && !((name, tags[at]) in tagged)) {
                    tagged[name, tags[at]] = 1
                    print escape(name) "\t" escape(tags[at])
                }
            }
        }
    }
    split("", field)
    last = ""
}
/^%% packages$/ { in_packages = 1; next }
/^[ \t]*$/ { flush_stanza(); next }
/^[ \t]/ { if (last != "") field[last] = field[last] "\n" $0; next }
{
    at = index($0, ":")
    last = substr($0, 1, at - 1)
    field[last] = substr($0, at + 1)
    sub(/^ +/, "", field[last])
}
END { flush_stanza() }
'
