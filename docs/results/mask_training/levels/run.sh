#!/usr/bin/env bash
# One search with several sparsity levels (docs/explanation/mask_engine.md), compared with the separate searches of ../run.sh.
# Usage: DATA=<folder with wikitext-2/> OUT=<folder for the runs> bash docs/results/mask_training/levels/run.sh
set -u
export DATA=${DATA:?} OUT=${OUT:?} OMP_NUM_THREADS=1
TRAIN="--method mask-training --objective kd --corpus $DATA/wikitext-2 --batch-tokens 2048 --seed 0 --quiet --json"
measure() { # name, ticket
  tickets evaluate "$2" --objective kd --corpus "$DATA/wikitext-2" --segments packed:128 --max-tokens 60000 --quiet \
    --json > "$OUT/$1.wikitext.json"
}
# shellcheck disable=SC2086
tickets search builtin:minilm $TRAIN --bf16 --sparsity 0.5,0.6,0.7,0.8,0.9 --steps 240 --rung-steps 120 --out "$OUT/ladder-240-120"
# shellcheck disable=SC2086
tickets search builtin:minilm $TRAIN --bf16 --sparsity 0.9 --steps 240 --out "$OUT/kd240-90-bf16"
for s in 50 60 70 80 90; do measure ladder-$s "$OUT/ladder-240-120/sparsity-0.$s"; done
measure kd240-90-bf16 "$OUT/kd240-90-bf16"
