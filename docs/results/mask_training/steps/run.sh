#!/usr/bin/env bash
# How many steps `tuned`, `paper` and `code` need for the same KD loss, on the first three layers; see ../README.md.
# Usage: DATA=<folder with wikitext-2/> OUT=<folder for the runs> bash docs/results/mask_training/steps/run.sh
# The searches of paper and code were stopped (Ctrl-C) after 1,000 and 800 steps: their tickets on the way are what counts.
set -u
export DATA=${DATA:?} OUT=${OUT:?} OMP_NUM_THREADS=1
mkdir -p "$OUT"
# When these searches ran, profile paper ranked absolute scores; since then it ranks signed ones.
search() { # profile, steps, steps at which tickets are saved, more options
  tickets search builtin:minilm --layers 3 --seed 0 --bf16 --corpus "$DATA/wikitext-2" --objective kd --profile "$1" \
    --scope encoder+embeddings --sparsity 0.6 --batch-tokens 512 --steps "$2" --save-at "$3" "${@:4}" --quiet --json \
    --out "$OUT/steps-$1"
}
search tuned 100 10,25,50
search paper 4000 100,400,800,1000,1500,2000,3000 --rank-by absolute
search code 4000 100,400,800,1000,1500,2000,3000
tickets search builtin:minilm --layers 3 --method magnitude --sparsity 0.6 --scope encoder+embeddings --quiet --json --out "$OUT/steps-magnitude"
for ticket in tuned/step-000010 tuned/step-000025 tuned/step-000050 tuned paper/step-000100 paper/step-000400 \
  paper/step-000800 paper/step-001000 code/step-000400 code/step-000800 magnitude; do
  tickets evaluate "$OUT/steps-$ticket" --objective kd --corpus "$DATA/wikitext-2" --segments packed:128 --max-tokens 20000 \
    --quiet --json > "$OUT/ev-steps-${ticket/\//-}.json"
done
