#!/usr/bin/env bash
# Teach a model the roles of teams, before reinforcement learning.
#
#   bash scripts/setup.sh gpu
#   .venv/bin/python -m data_preprocess.sft_roles --out data/gsm8k_roles --teams dyad vote
#   bash recipe/run_sft_roles.sh                                  SmolLM2-135M-Instruct; any verl override may follow:
#   bash recipe/run_sft_roles.sh trainer.total_epochs=2 optim.lr=1e-4
#   MODEL=data_preprocess/last_digit_model bash recipe/run_sft_roles.sh profile=cpu     without a GPU
#
# MODEL, DATA, N_GPUS and OUT are environment variables. DATA is the folder that data_preprocess.sft_roles wrote, OUT that of the job. The
# taught model is OUT/model, and the command that goes on with it is printed. Nothing is written over a taught model; what was interrupted
# begins anew. DRY_RUN=1 only prints the command.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case " $* " in
    *" --help "* | *" -h "*)
        sed -n '2,/^set /{ /^set /d; s/^# \{0,1\}//; p; }' recipe/run_sft_roles.sh
        exit 0
        ;;
esac

DATA=${DATA:-data/gsm8k_roles} # folder with sft_train.parquet and sft_val.parquet
N_GPUS=${N_GPUS:-1}
OUT=${OUT:-outputs/taught}

source recipe/names.sh

refuse_references "${MODEL:-}" "$DATA" "$OUT"

PYTHON=.venv/bin/python
[ -x "$PYTHON" ] || PYTHON=python3

command=(
    "$PYTHON" recipe/main_sft.py
    ${MODEL:+"$(override model.path "$MODEL")"} # without it, the profile's
    "$(override data.train_files "$DATA/sft_train.parquet")"
    "$(override data.val_files "$DATA/sft_val.parquet")"
    "trainer.n_gpus_per_node=$N_GPUS"
    "$(override trainer.default_local_dir "$OUT")"
    "$@" # last, so that it wins
)
if [ -n "${DRY_RUN:-}" ]; then
    printf '%q ' "${command[@]}"
    echo
    exit 0
fi
PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} exec "${command[@]}"
