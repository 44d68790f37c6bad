#!/usr/bin/env bash
# From a clone to a trained team on a CPU: environment, embedded task, verl's trainer, report. No GPU, no account.
#
#   bash scripts/quickstart.sh                                  Ctrl-C stops; the same command goes on from a checkpoint
#   bash scripts/quickstart.sh --rule shared --seed 1           another credit rule, another seed
#   bash scripts/quickstart.sh --team vote                      three voters instead of a Think-Reason dyad
#   bash scripts/quickstart.sh --team examples/panel.py:Panel   a team of your own, from a file
#   bash scripts/quickstart.sh --team vote --compare            unequal voters, one run per credit rule, and a picture
#   bash scripts/quickstart.sh --help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case " $* " in
    *" --help "* | *" -h "*) # all options are the program's to list; nothing is installed to read them
        if [ -e .venv/ccpo-setup ] && .venv/bin/python scripts/quickstart.py --help 2>/dev/null; then exit 0; fi
        sed -n '2,/^set /{ /^set /d; s/^# \{0,1\}//; p; }' scripts/quickstart.sh
        exit 0
        ;;
esac
bash scripts/setup.sh cpu
exec .venv/bin/python scripts/quickstart.py "$@"
