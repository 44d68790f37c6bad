#!/usr/bin/env bash
# The form of the code and who imports whom, then all tests, the quick ones first.
# Arguments go to pytest and leave the former out: bash scripts/test.sh -k credit
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh cpu
if [ $# -eq 0 ]; then # with arguments it stays quick
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    .venv/bin/lint-imports
fi
tiers=()
for tier in unit golden verifier contract integration e2e; do
    if [ -d "tests/$tier" ]; then tiers+=("tests/$tier"); fi
done
limit=()
if command -v timeout >/dev/null; then
    limit=(timeout --kill-after=30 25m) # a hung test must not hang the job
fi
exec ${limit[@]+"${limit[@]}"} .venv/bin/python -m pytest --durations=10 "${tiers[@]}" "$@"
