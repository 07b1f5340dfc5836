#!/usr/bin/env bash
# Phase transition and super tickets of MiniLM on RTE, MRPC, CoLA and STS-B, and the latency of their exports; see README.md.
# Usage: DATA=<folder with glue/> OUT=<folder for the runs> bash run.sh
# Finished runs are not done again, so it can be stopped and started. Two runs at a time, one thread each; the last part alone.
set -u
export DATA=${DATA:?} OUT=${OUT:?} OMP_NUM_THREADS=1
mkdir -p "$OUT"
two_at_a_time() { xargs -P 2 -I{} sh -c '{} --data-dir $DATA/glue --learning-rate 1e-4 --bf16 --quiet --json > /dev/null'; }
for task in rte mrpc cola stsb; do
  echo "tickets transfer builtin:minilm --task $task --epochs 3 --dropout model --batch-size 32 --max-length 128 --seeds 0 --save-model --out $OUT/dense-$task"
done | two_at_a_time
# RTE once more with a higher rate: does MiniLM learn it at all?
tickets transfer builtin:minilm --task rte --epochs 3 --dropout model --data-dir "$DATA/glue" --eval-steps 5000 --batch-size 16 --learning-rate 3e-4 \
  --warmup-ratio 0.1 --max-length 96 --bf16 --seeds 0 --quiet --json --out "$OUT/pilot-rte-3e-4" > /dev/null
super() { # task, examples for the importances, the rest
  echo "tickets super builtin:minilm --task $1 --dropout model --importance-from $OUT/dense-$1 --importance-train-size $2 --level 10,20,40,60,80 ${*:3} --out $OUT/super-$1"
}
{
  super rte 1000 --seeds 0,1,2 --steps 60 --eval-steps 30 --batch-size 16 --max-length 96
  super cola 2000 --seeds 0 --epochs 2 --eval-steps 5000 --batch-size 32 --max-length 64
  super mrpc 1000 --seeds 0 --steps 90 --eval-steps 5000 --batch-size 32 --max-length 96
  super stsb 1000 --seeds 0 --steps 120 --eval-steps 5000 --batch-size 32 --max-length 64
} | two_at_a_time
# One thread, which is what the tables show.
for task in rte mrpc cola stsb; do
  tickets export "$OUT/super-$task/super-ticket" --format compact --out "$OUT/compact-$task" --json > /dev/null
  tickets measure "$OUT/compact-$task" --batch 1,8 --length 32,128 --repeats 10 --json > "$OUT/measure-$task.json"
done
