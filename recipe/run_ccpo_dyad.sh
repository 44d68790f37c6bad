#!/usr/bin/env bash
# Train a Think-Reason dyad on the GPUs of this machine.
#
#   bash scripts/setup.sh gpu
#   python -m data_preprocess.math --out data/math --skip-bad     (.venv/bin/python; or gsm8k, TASK=gsm8k)
#   bash recipe/run_ccpo_dyad.sh                       any verl override may follow: data.train_batch_size=32
#
# MODEL, TASK (math), DATA, N_GPUS, SEED and OUT are those of run_ccpo.sh.
# The same command after an interruption goes on from the last checkpoint. DRY_RUN=1 only prints the command.
# Afterwards: .venv/bin/python scripts/report.py $OUT
set -euo pipefail
export TEAM=dyad USAGE_OF=recipe/run_ccpo_dyad.sh
exec bash "$(dirname "${BASH_SOURCE[0]}")/run_ccpo.sh" "$@"
