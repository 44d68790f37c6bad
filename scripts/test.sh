#!/usr/bin/env bash
# The form of the code and who imports whom, then all tests, a few at a time.
# Arguments go to pytest and leave the former out: bash scripts/test.sh -k credit
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case " $* " in
    *" --help "* | *" -h "*)
        sed -n '2,/^set /{ /^set /d; s/^# \{0,1\}//; p; }' scripts/test.sh
        exit 0
        ;;
esac
bash scripts/setup.sh cpu
longest=3h # what -m slow may take on a busy machine
if [ $# -eq 0 ]; then # with arguments it stays quick
    longest=25m
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    .venv/bin/lint-imports
fi
# Jobs first: they take longest, one at a time (tests/conftest.py), and leave room for the other tests beside them.
tiers=()
for tier in e2e integration contract verifier golden unit; do
    if [ -d "tests/$tier" ]; then tiers+=("tests/$tier"); fi
done
# --no-loadscope-reorder keeps this order. Every worker imports torch and verl, so more than a few cost more than they save; one more than
# there are cores works while the jobs wait (456 s for 491 on two).
cores=$(.venv/bin/python -c 'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')
# A worker that dies fails the run at once: with a new one in its place xdist would run the same test again, and wait for ever.
beside=(-n $((cores < 4 ? cores + 1 : 4)) --dist loadfile --no-loadscope-reorder --max-worker-restart=0)
export OMP_NUM_THREADS=1 # of torch: workers and jobs share the cores
export PYTHONDONTWRITEBYTECODE= # or every worker would compile all tests, and every process of a job all modules, again
limit=()
if command -v timeout >/dev/null; then
    limit=(timeout --kill-after=30 "$longest") # a hung test must not hang the job
fi
exec ${limit[@]+"${limit[@]}"} .venv/bin/python -m pytest --durations=10 "${beside[@]}" "${tiers[@]}" "$@"
