#!/usr/bin/env bash
# Install the environment into .venv. Does nothing, quickly, when it is already complete.
#
#   bash scripts/setup.sh        the CPU stack, requirements-cpu.txt: Python 3.10, 3.11 or 3.12
#   bash scripts/setup.sh gpu    the GPU stack, requirements.txt: Python 3.11 or 3.12
#
# PYTHON=/path/to/python chooses the interpreter of a new environment. pip's own settings (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL,
# pip.conf) are honoured. Delete .venv to start from nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case " $* " in
    *" --help "* | *" -h "*)
        sed -n '2,/^set /{ /^set /d; s/^# \{0,1\}//; p; }' scripts/setup.sh
        exit 0
        ;;
esac

VENV=.venv
STAMP=$VENV/ccpo-setup # marks a .venv as made here: "installing", then "KIND CHECKSUM-OF-THE-REQUIREMENTS"
LOG=$VENV/install.log

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

stage() { # stage TEXT COMMAND...: one line with the seconds; on failure the end of pip's log
    local text=$1 start=$SECONDS
    shift
    printf '%s ... ' "$text"
    if ! "$@" >>"$LOG" 2>&1; then
        printf 'failed\n'
        grep -v '^WARNING' "$LOG" | tail -n 15 >&2 || true
        fail "$text did not work. The whole log: $LOG. Start this script again once the cause is mended"
    fi
    printf '%d s\n' $((SECONDS - start))
}

usable() { # of one of the Pythons that fit, with what makes environments
    "$1" -c 'import sys, venv, ensurepip; sys.exit("%d.%d" % sys.version_info[:2] not in sys.argv[1:])' "${pythons[@]}" >/dev/null 2>&1
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        usable "$PYTHON" || fail "PYTHON=$PYTHON is $("$PYTHON" --version 2>/dev/null || echo 'no Python that starts'), and $needed"
        echo "$PYTHON"
        return
    fi
    local candidate
    for candidate in "${pythons[@]/#/python}" python3 python; do
        if usable "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "$needed: none was found; install one (on Debian and Ubuntu with its -venv package) or name it:" \
        "PYTHON=/path/to/python bash scripts/setup.sh $kind"
}

kind=${1:-cpu}
state=$(cat "$STAMP" 2>/dev/null || true)
if [ "$kind" = cpu ] && [ "${state%% *}" = gpu ]; then
    kind=gpu # the GPU stack does all that the CPU stack does
fi
case $kind in # the best tested Python first
    cpu)
        requirements=requirements-cpu.txt pythons=(3.11 3.12 3.10)
        needed="verl 0.9.1 needs Python 3.10, 3.11 or 3.12 with venv and pip"
        ;;
    gpu)
        requirements=requirements.txt pythons=(3.12 3.11)
        needed="the GPU stack needs Python 3.11 or 3.12 with venv and pip (numpy, pandas and others have no build of its versions for 3.10)"
        ;;
    *) fail "unknown environment '$kind'; choose cpu or gpu" ;;
esac
[ -f "$requirements" ] || fail "$requirements is missing"

wanted="$kind $(cksum <"$requirements" | tr -d ' ')"
if [ "$state" = "$wanted" ] && [ -x "$VENV/bin/python" ]; then
    exit 0
fi

if [ -e "$VENV" ] && [ ! -f "$STAMP" ] && ! rmdir "$VENV" 2>/dev/null; then
    fail "$VENV exists, but this script didn't make it, so it stays as it is; move it away," \
        "or install $requirements into it yourself"
fi
if [ "${state%% *}" != "$kind" ] || ! usable "$VENV/bin/python"; then
    # New, interrupted, broken, of another Python, or the other stack: a half-installed package can look whole to pip, so all is made anew.
    python=$(find_python)
    rm -rf "$VENV"
    mkdir "$VENV"
    echo installing >"$STAMP"
    : >"$LOG"
    stage "making $VENV with $("$python" --version)" "$python" -m venv "$VENV"
else
    echo installing >"$STAMP"
    : >"$LOG"
fi
stage "installing $requirements (some minutes, once; log: $LOG)" \
    "$VENV/bin/python" -m pip install --disable-pip-version-check --no-input -r "$requirements"
echo "$wanted" >"$STAMP.new"
mv "$STAMP.new" "$STAMP"
