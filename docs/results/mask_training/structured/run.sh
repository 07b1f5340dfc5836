#!/usr/bin/env bash
# Gates of heads and of neurons: trained with KD, by importance, at random; MiniLM, WikiText-2. See ../README.md.
# Usage: DATA=<folder with wikitext-2/> OUT=<folder for the runs> bash docs/results/mask_training/structured/run.sh
# Finished runs are not done again, so it can be stopped and started. One run at a time, one thread.
set -u
export DATA=${DATA:?} OUT=${OUT:?} OMP_NUM_THREADS=1
mkdir -p "$OUT"
WIKI=$DATA/wikitext-2
TEXT="--objective kd --corpus $WIKI --batch-tokens 2048 --segments mixed --steps 60 --bf16"
IMPORTANCE="--method importance $TEXT"
RANDOM_UNITS="--method importance --selection random"
TRAINED="--method mask-training $TEXT"

search() { # name, options
  tickets search builtin:minilm --level 30%,50% "${@:2}" --quiet --json --out "$OUT/$1" > /dev/null
}
measure() { # name of the search
  for level in 30 50; do
    local file=$OUT/$1-$level.json
    [ -s "$file" ] || tickets evaluate "$OUT/$1/level-$level" --objective kd --corpus "$WIKI" --max-tokens 20000 --quiet --json > "$file"
  done
}

for units in heads neurons; do
  search $units-trained-2e-4 $TRAINED --units $units --learning-rate 2e-4
  measure $units-trained-2e-4
  search $units-importance $IMPORTANCE --units $units
  measure $units-importance
  search $units-random $RANDOM_UNITS --units $units
  measure $units-random
done
# Adam with a large epsilon moves a score in proportion to its gradient, instead of all by about the learning rate.
echo "adam_epsilon: 0.01" > "$OUT/epsilon.yaml"
search heads-trained-epsilon $TRAINED --units heads --learning-rate 2e-3 --config "$OUT/epsilon.yaml"
measure heads-trained-epsilon
