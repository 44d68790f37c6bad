# What the recipes share about the names that a user gives: sourced by run_ccpo.sh and run_sft_roles.sh.

override() { # NAME VALUE: an override whose value is the text as it stands, whatever Hydra would read it as
    # In its quotes, a quote needs a backslash, and so does every backslash before a quote.
    printf "%s='%s'" "$1" "$(printf %s "$2" | sed -zE "s/(\\\\*)'/\1\1\\\\'/g; s/(\\\\+)\$/\1\1/")"
}

refuse_references() { # NAME...: ends where one would be read as a reference
    local value
    for value in "$@"; do
        if [[ $value == *'${'* ]]; then
            echo "error: $value: a name with \${ cannot be used, verl puts another value in its place; rename it" >&2
            exit 1
        fi
    done
}
