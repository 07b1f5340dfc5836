#!/usr/bin/env bash
# Signed and absolute ranking of mask scores at the horizon of the paper, in few steps; see ../README.md.
# Usage: DATA=<folder with wikitext-2/> OUT=<folder for the runs> bash docs/results/mask_training/ranking/run.sh
# The paper finds 70 % tickets in 17,000 of the 27,920 steps of its decay. Here STEPS of PASS = STEPS * 27,920 / 17,000
# steps have rates with the same sum: 0.591 for mlm (5e-5 in the paper) and 0.236 for kd (2e-5).
set -eu
export DATA=${DATA:?} OUT=${OUT:?} OMP_NUM_THREADS=1
STEPS=240 PASS=394
mkdir -p "$OUT"
TEXT="--corpus $DATA/wikitext-2 --segments packed:128"
measure() { # name, ticket, objectives
  # shellcheck disable=SC2086
  tickets evaluate "$2" --objective "$3" --mlm-head base $TEXT --max-tokens 20000 --quiet --json > "$OUT/$1.json"
}
# shellcheck disable=SC2086
tickets fit-head builtin:minilm --layers 3 $TEXT --steps 200 --batch-tokens 2048 --max-tokens 40000 --quiet --json --out "$OUT/head" > "$OUT/head.json"
tickets search "$OUT/head" --method magnitude --sparsity 0.7 --quiet --json --out "$OUT/magnitude" > /dev/null
measure magnitude "$OUT/magnitude" kd,mlm
for seed in 0 1; do
  for objective in kd mlm; do
    rate=1.414e-3
    test $objective = kd || rate=3.54e-3
    for rank in signed absolute; do
      name=$objective-$rank-$seed
      # shellcheck disable=SC2086
      tickets search "$OUT/head" --method mask-training --objective $objective --profile paper --sparsity 0.7 --rank-by $rank $TEXT \
        --batch-tokens 512 --steps $STEPS --schedule-steps $PASS --learning-rate $rate --seed $seed --quiet --json \
        --out "$OUT/$name" > "$OUT/$name.search.json"
      measure $name "$OUT/$name" $objective
    done
  done
done
