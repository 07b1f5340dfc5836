#!/usr/bin/env bash
# Fine-tunes the dense MiniLM, its magnitude ticket and its mask-trained ticket on several tasks; see README.md.
# Usage: DATA=<folder with glue/> TICKETS=<OUT of ../mask_training/run.sh> OUT=<folder for the runs> bash run.sh
# Finished runs are not done again, so it can be stopped and started. Two runs at a time, one thread each.
set -u
export DATA=${DATA:?} TICKETS=${TICKETS:?} OUT=${OUT:?} OMP_NUM_THREADS=1
SEEDS=${SEEDS:-"0 1 2"}
NAMES=${NAMES:-"magnitude-70 tuned-70 dense"}
mkdir -p "$OUT"

transfer() { # task, name, seed, options
  local task=$1 name=$2 seed=$3 target; shift 3
  target=$TICKETS/$name; [ "$name" = dense ] && target=builtin:minilm
  echo "tickets transfer $target --task $task --data-dir $DATA/glue $* --eval-steps 5000 --batch-size 32" \
    "--learning-rate 1e-4 --bf16 --seeds $seed --quiet --json --out $OUT/$task-$name-s$seed"
}
for seed in $SEEDS; do
  for name in $NAMES; do
    transfer sst2 "$name" "$seed" --epochs 2 --train-size 4000
    transfer mrpc "$name" "$seed" --epochs 4
    transfer stsb "$name" "$seed" --epochs 3
  done
done > "$OUT/transfers.txt"
xargs -P 2 -I{} sh -c '{} > /dev/null' < "$OUT/transfers.txt"

runs() { for seed in $SEEDS; do for task in sst2 mrpc stsb; do echo "$OUT/$task-$1-s$seed"; done; done; }
tickets analyse gain $(runs tuned-70) --baseline $(runs magnitude-70) --dense $(runs dense) --json > "$OUT/gain-70.json"
