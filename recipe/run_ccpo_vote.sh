#!/usr/bin/env bash
# Train N voters, whose plurality is the answer, on the GPUs of this machine.
#
#   bash scripts/setup.sh gpu
#   python -m data_preprocess.logiqa --out data/logiqa              (.venv/bin/python; any maths set can be voted on: TASK=gsm8k)
#   bash recipe/run_ccpo_vote.sh                       any verl override may follow: data.train_batch_size=32
#
# N_VOTERS (3; 2 to 64), MODEL, TASK (logiqa), DATA, N_GPUS, SEED and OUT are those of run_ccpo.sh.
# The same command after an interruption goes on from the last checkpoint. DRY_RUN=1 only prints the command.
# Afterwards: .venv/bin/python scripts/report.py $OUT
set -euo pipefail
export TEAM=vote TASK=${TASK:-logiqa} USAGE_OF=recipe/run_ccpo_vote.sh
exec bash "$(dirname "${BASH_SOURCE[0]}")/run_ccpo.sh" "$@"
