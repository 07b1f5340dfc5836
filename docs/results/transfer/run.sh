#!/usr/bin/env bash
# Fine-tunes the dense MiniLM and its tickets on several tasks, and measures what the tickets preserve; see README.md.
# Usage: DATA=<folder with glue/ and wikitext-2/> TICKETS=<OUT of ../mask_training/run.sh> HEAD=<minilm-head of
#        fit_head.sh> OUT=<folder for the runs> bash run.sh
# Finished runs are not done again, so it can be stopped and started. Two runs at a time, one thread each.
set -u
export DATA=${DATA:?} TICKETS=${TICKETS:?} HEAD=${HEAD:?} OUT=${OUT:?} OMP_NUM_THREADS=1
MORE=${MORE-"tuned-80 magnitude-50 random-70"} # more tickets, for the correlations
mkdir -p "$OUT"
two_at_a_time() { xargs -P 2 -I{} sh -c '{}'; }

folder() {
  case $1 in dense) echo builtin:minilm ;; mlm-70 | mlmkd-70) echo "$OUT/search-$1" ;; *) echo "$TICKETS/$1" ;; esac
}
transfer() { # task, name, seed
  local size="--epochs 4"
  [ "$1" = sst2 ] && size="--epochs 2 --train-size 4000"
  [ "$1" = stsb ] && size="--epochs 3"
  echo "tickets transfer $(folder "$2") --task $1 --dropout model --data-dir $DATA/glue $size --eval-steps 5000 --batch-size 32" \
    "--learning-rate 1e-4 --bf16 --seeds $3 --quiet --json --out $OUT/$1-$2-s$3 > /dev/null"
}
measure() { # name
  echo "tickets evaluate $(folder "$1") --base $HEAD --mlm-head base --objective kd,mlm --corpus $DATA/wikitext-2" \
    "--max-tokens 60000 --quiet --json > $OUT/$1.wikitext.json"
  echo "tickets evaluate $(folder "$1") --objective kd,similarity --task stsb --corpus task:stsb --data-dir $DATA/glue" \
    "--segments lines --max-tokens 60000 --quiet --json > $OUT/$1.stsb.json"
}
for objective in mlm mlm+kd; do
  echo "tickets search $HEAD --objective $objective --corpus $DATA/wikitext-2 --batch-tokens 2048 --sparsity 0.7 --steps 240" \
    "--seed 0 --bf16 --quiet --json --out $OUT/search-${objective/+/}-70 > /dev/null"
done | two_at_a_time
{
  for seed in 0 1 2; do for name in magnitude-70 tuned-70; do
    for task in sst2 mrpc stsb; do transfer $task $name $seed; done
  done; done
  for name in dense magnitude-60 tuned-60; do for task in sst2 mrpc stsb; do transfer $task $name 0; done; done
  for name in mlm-70 mlmkd-70 $MORE; do for task in sst2 stsb; do transfer $task $name 0; done; done
  for name in magnitude-70 tuned-70 magnitude-60 tuned-60 mlm-70 mlmkd-70 $MORE; do measure "$name"; done
} | two_at_a_time

runs() { for seed in $2; do for task in sst2 mrpc stsb; do echo "$OUT/$task-$1-s$seed"; done; done; }
tickets analyse gain $(runs tuned-70 "0 1 2") --baseline $(runs magnitude-70 "0 1 2") --dense $(runs dense 0) \
  --allow-missing --json > "$OUT/gain-70.json"
tickets analyse gain $(runs tuned-60 0) --baseline $(runs magnitude-60 0) --dense $(runs dense 0) --json > "$OUT/gain-60.json"
