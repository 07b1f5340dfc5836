#!/usr/bin/env bash
# Random, magnitude, iterative pruning with and without rewinding, and mask training, at equal steps; see ../README.md.
# Usage: DATA=<folder with glue/ and wikitext-2/> MODEL=<minilm-mlm of fit_head.sh> OUT=<folder for the runs> bash docs/results/transfer/equal_steps.sh
# Finished runs are not done again, so it can be stopped and started. Two runs at a time, one thread each.
set -u
export DATA=${DATA:?} MODEL=${MODEL:?} OUT=${OUT:?} OMP_NUM_THREADS=1
mkdir -p "$OUT"
two_at_a_time() { xargs -P 2 -I{} sh -c '{}'; }
SEARCH="tickets search $MODEL --seed 0 --quiet --json"
TEXT="--bf16 --corpus $DATA/wikitext-2 --batch-tokens 2048 --segments mixed"
RUNGS="--sparsity 0.5,0.6,0.7,0.8"
{
  echo "$SEARCH --method random $RUNGS --out $OUT/random > /dev/null"
  echo "$SEARCH --method magnitude $RUNGS --out $OUT/magnitude > /dev/null"
  # 150, 180, 210 and 240 steps in all. The KD loss is a hundred times smaller than the MLM loss: a plain sum is MLM.
  for pair in mlm=mlm kd=kd mlmkd=mlm+kd:30; do
    echo "$SEARCH $TEXT --objective ${pair#*=} $RUNGS --steps 150 --rung-steps 30 --out $OUT/tamt-${pair%%=*} > /dev/null"
  done
  echo "$SEARCH $TEXT --objective mlm --sparsity 0.7 --steps 80 --save-at 5,10,20,40 --out $OUT/tamt-mlm-steps > /dev/null"
  # 30 steps for each ten points: 150, 180, 210 and 240 steps at the same sparsities.
  IMP="$SEARCH $TEXT --method imp --objective mlm --sparsity 0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8 --round-steps 30"
  echo "$IMP --learning-rate 3e-4 --out $OUT/imp > /dev/null"
  echo "$IMP --learning-rate 3e-4 --rewind none --out $OUT/imp-none > /dev/null"
} | two_at_a_time
EVALUATE="tickets evaluate --corpus $DATA/wikitext-2 --max-tokens 30000 --quiet --json"
{
  echo "$EVALUATE $MODEL --objective mlm > $OUT/dense.json"
  for name in random magnitude imp imp-none tamt-mlm tamt-kd tamt-mlmkd; do for s in 50 60 70 80; do
    echo "$EVALUATE $OUT/$name/sparsity-0.$s --mlm-head base --objective kd,mlm > $OUT/$name-$s.json"
  done; done
  for step in 000005 000010 000020 000040; do
    echo "$EVALUATE $OUT/tamt-mlm-steps/step-$step --mlm-head base --objective kd,mlm > $OUT/tamt-mlm-steps-step-$step.json"
  done
  echo "$EVALUATE $OUT/tamt-mlm-steps --mlm-head base --objective kd,mlm > $OUT/tamt-mlm-steps-step-000080.json"
} | two_at_a_time
