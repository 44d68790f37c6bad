#!/usr/bin/env bash
# Train a team on the GPUs of this machine.
#
#   bash scripts/setup.sh gpu
#   python -m data_preprocess.math --out data/math --skip-bad     (.venv/bin/python; or gsm8k, TASK=gsm8k)
#   bash recipe/run_ccpo.sh                            the Think-Reason dyad; TEAM=vote: N_VOTERS voters
#   TEAM=my_team.py:MyTeam bash recipe/run_ccpo.sh     any verl override may follow: data.train_batch_size=32
#
# TEAM is dyad, vote, path/to/file.py:Class or package.module:Class. Paths are seen from the repository's root.
# MODEL, TASK, DATA, N_GPUS, SEED and OUT are environment variables. OUT is the folder of the run: without it, one below outputs/ that is
# called after team, rule, policies, model, data and seed, and is printed at the start.
# The same command after an interruption goes on from the last checkpoint. DRY_RUN=1 only prints the command.
# Afterwards: .venv/bin/python scripts/report.py $OUT
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case " $* " in
    *" --help "* | *" -h "*)
        sed -n '2,/^set /{ /^set /d; s/^# \{0,1\}//; p; }' "${USAGE_OF:-recipe/run_ccpo.sh}"
        exit 0
        ;;
esac

TEAM=${TEAM:-dyad}
MODEL=${MODEL:-Qwen/Qwen2.5-1.5B-Instruct} # a hub id or a folder
TASK=${TASK:-math}                         # prompts and lengths: a file of recipe/config/task
DATA=${DATA:-data/$TASK}                   # folder with train.parquet and test.parquet
N_GPUS=${N_GPUS:-1}
SEED=${SEED:-0}

source recipe/names.sh

case $TEAM in
    dyad) team=(--config-name ccpo_dyad) ;;
    vote)
        N_VOTERS=${N_VOTERS:-3} # 2 to 64
        team=(--config-name ccpo_vote "ccpo.team_kwargs.n_voters=$N_VOTERS")
        ;;
    *) team=(--config-name ccpo "$(override ccpo.team "$TEAM")") ;;
esac

refuse_references "$TEAM" "$MODEL" "$DATA" "${OUT:-}"

PYTHON=.venv/bin/python
[ -x "$PYTHON" ] || PYTHON=python3

command=(
    "$PYTHON" recipe/main_ccpo.py "${team[@]}" profile=gpu "task=$TASK"
    "$(override actor_rollout_ref.model.path "$MODEL")"
    "$(override data.train_files "$DATA/train.parquet")"
    "$(override data.val_files "$DATA/test.parquet")"
    "trainer.n_gpus_per_node=$N_GPUS"
    "seed=$SEED"
    ${OUT:+"$(override trainer.default_local_dir "$OUT")"} # checkpoints, metrics.jsonl, sessions.jsonl, report.html
    "$@" # last, so that it wins
)
if [ -n "${DRY_RUN:-}" ]; then
    printf '%q ' "${command[@]}"
    echo
    exit 0
fi
if [ ! -f "$DATA/train.parquet" ]; then
    task=recipe/config/task/$TASK.yaml
    tasks=$(cd recipe/config/task && printf '%s ' *.yaml)
    if [ ! -f "$task" ]; then
        echo "error: TASK=$TASK: there is no such task (prompts and lengths; a file of recipe/config/task): set one of ${tasks//.yaml/}and," \
            "for other data, DATA; $PYTHON -m data_preprocess.benchmarks --out data/benchmarks makes sets to evaluate on" >&2
    elif ! made=$(grep -om1 'data_preprocess\.[a-z0-9_]* --out data/[a-z0-9_]*\( --[a-z-]*\( [a-z0-9.]*[a-z0-9]\)*\)*' "$task"); then
        echo "error: $DATA/train.parquet is missing, and $task names no command that makes it: set DATA to a folder with train.parquet and" \
            "test.parquet" >&2
    else
        options=${made#* --out data/}
        options=${options#"${options%% *}"}
        own=
        [ "$DATA" = "data/$TASK" ] || own=" your own data come from $PYTHON -m data_preprocess.custom (docs/your_own.md); for those of TASK=$TASK"
        echo "error: $DATA/train.parquet is missing;$own make it with: $PYTHON -m ${made%% *} --out $(printf %q "$DATA")$options" >&2
    fi
    exit 1
fi
PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} exec "${command[@]}"
