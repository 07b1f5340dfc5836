#!/usr/bin/env bash
# Searches and evaluations of the first two sections of README.md: MiniLM, WikiText-2, steps of 2,048 tokens.
# Usage: DATA=<folder with wikitext-2/ and glue/> OUT=<folder for the runs> bash docs/results/mask_training/run.sh
# Finished runs are not done again, so it can be stopped and started. Two runs at a time, one thread each.
set -u
export DATA=${DATA:?} OUT=${OUT:?} OMP_NUM_THREADS=1
WIKI=$DATA/wikitext-2
mkdir -p "$OUT"

search() { # name, options
  local name=$1; shift
  echo "tickets search builtin:minilm --seed 0 --quiet --json --out $OUT/$name $*"
}
measure() { # name, target
  echo "tickets evaluate $2 --objective kd --corpus $WIKI --segments packed:128 --max-tokens 60000 --quiet --json > $OUT/$1.wikitext.json"
  echo "tickets evaluate $2 --objective kd,similarity --corpus task:stsb --task stsb --data-dir $DATA/glue --segments lines --quiet --json > $OUT/$1.stsb.json"
}
TRAIN="--method mask-training --objective kd --corpus $WIKI --batch-tokens 2048"
CUT="--segments packed:128"
# When these searches ran, profile paper ranked absolute scores; since then it ranks signed ones.
{
  search tuned-60-60steps $TRAIN --sparsity 0.6 --steps 60
  search tuned-60 $TRAIN --sparsity 0.6 --steps 240
  search tuned-70 $TRAIN --sparsity 0.7 --steps 240
  search tuned-50 $TRAIN --sparsity 0.5 --steps 240
  search tuned-80 $TRAIN --sparsity 0.8 --steps 240
  search rank-60-60steps $TRAIN --sparsity 0.6 --steps 60 --score-init rank
  search plateau-60-60steps $TRAIN --sparsity 0.6 --steps 60 --score-init plateau
  search plateau-60-lr1e-3-60steps $TRAIN --sparsity 0.6 --steps 60 --score-init plateau --learning-rate 1e-3
  search randominit-60-60steps $TRAIN --sparsity 0.6 --steps 60 --score-init random
  search paper-60-60steps $TRAIN --sparsity 0.6 --steps 60 --profile paper --rank-by absolute $CUT
  search code-60-60steps $TRAIN --sparsity 0.6 --steps 60 --profile code $CUT
  for s in 50 60 70 80; do
    search magnitude-$s --method magnitude --sparsity 0.$s
    search random-$s --method random --sparsity 0.$s
  done
} > "$OUT/searches.txt"
{
  measure dense builtin:minilm
  for s in 50 60 70 80; do for m in random magnitude tuned; do measure $m-$s "$OUT/$m-$s"; done; done
  measure tuned-60-60steps "$OUT/tuned-60-60steps"
  for m in rank-60 plateau-60 plateau-60-lr1e-3 randominit-60 paper-60 code-60; do
    measure $m-60steps "$OUT/$m-60steps"
  done
} > "$OUT/evaluations.txt"

xargs -P 2 -I{} sh -c '{} > /dev/null' < "$OUT/searches.txt"
xargs -P 2 -I{} sh -c '{}' < "$OUT/evaluations.txt"
