#!/usr/bin/env bash
# Train N voters, whose plurality is the answer, on the GPUs of this machine.
#
#   bash scripts/setup.sh gpu
#   python -m data_preprocess.logiqa --out data/logiqa              (.venv/bin/python; any maths set can be voted on: TASK=gsm8k)
#   bash recipe/run_ccpo_vote.sh                       any verl override may follow: data.train_batch_size=32
#
# The same command after an interruption goes on from the last checkpoint. DRY_RUN=1 only prints the command.
# Afterwards: .venv/bin/python scripts/report.py $OUT
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

MODEL=${MODEL:-Qwen/Qwen2.5-1.5B-Instruct} # a hub id or a folder
TASK=${TASK:-logiqa}                         # prompts and lengths: a file of recipe/config/task
DATA=${DATA:-data/$TASK}                   # folder with train.parquet and test.parquet
N_VOTERS=${N_VOTERS:-3}                    # 2 to 64
N_GPUS=${N_GPUS:-1}
SEED=${SEED:-0}
OUT=${OUT:-outputs/vote$N_VOTERS-$(basename "$MODEL")-$(basename "$DATA")-seed$SEED} # checkpoints, metrics.jsonl, curves.png

PYTHON=.venv/bin/python
[ -x "$PYTHON" ] || PYTHON=python3

command=(
    "$PYTHON" recipe/main_ccpo.py --config-name ccpo_vote profile=gpu "task=$TASK"
    "actor_rollout_ref.model.path=$MODEL"
    "data.train_files=$DATA/train.parquet"
    "data.val_files=$DATA/test.parquet"
    "ccpo.vote.n_voters=$N_VOTERS"
    "trainer.n_gpus_per_node=$N_GPUS"
    "trainer.default_local_dir=$OUT"
    "data.seed=$SEED"
    "actor_rollout_ref.rollout.seed=$SEED"
    "actor_rollout_ref.actor.data_loader_seed=$SEED"
    "actor_rollout_ref.actor.fsdp_config.seed=$SEED"
    "$@" # last, so that it wins
)
if [ -n "${DRY_RUN:-}" ]; then
    printf '%q ' "${command[@]}"
    echo
    exit 0
fi
if [ ! -f "$DATA/train.parquet" ]; then
    echo "error: $DATA/train.parquet is missing; make it with: $PYTHON -m data_preprocess.$TASK --out $DATA" >&2
    exit 1
fi
PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} exec "${command[@]}"
