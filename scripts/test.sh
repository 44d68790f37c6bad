#!/usr/bin/env bash
# All tests, the quick ones first. Arguments go to pytest: bash scripts/test.sh -k credit
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh cpu
tiers=()
for tier in unit golden contract integration e2e; do
    if [ -d "tests/$tier" ]; then tiers+=("tests/$tier"); fi
done
limit=()
if command -v timeout >/dev/null; then
    limit=(timeout --kill-after=30 25m) # a hung test must not hang the job
fi
exec ${limit[@]+"${limit[@]}"} .venv/bin/python -m pytest --durations=10 "${tiers[@]}" "$@"
