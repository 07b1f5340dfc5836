#!/usr/bin/env bash
# Iterative pruning on one task (MRPC) against the magnitude and the KD ticket of the same sparsity; see ../README.md.
# Usage: DATA=<folder with glue/> OUT=<folder for the runs> bash task.sh; the other tickets' runs: ../run.sh
set -u
export DATA=${DATA:?} OUT=${OUT:?} OMP_NUM_THREADS=1
tickets search builtin:minilm --method imp --objective task --task mrpc --data-dir "$DATA/glue" --sparsity 0.3,0.5,0.6,0.7 \
  --round-epochs 2 --learning-rate 1e-4 --seed 0 --bf16 --quiet --json --out "$OUT/imp-mrpc" > /dev/null
transfer() {
  echo "tickets transfer $OUT/imp-mrpc/sparsity-0.70 --task $1 $3 --dropout model --data-dir $DATA/glue --eval-steps 5000 --batch-size 32" \
    "--learning-rate 1e-4 --bf16 --seeds $2 --quiet --json --out $OUT/$1-impmrpc-70-s$2 > /dev/null"
}
{
  for seed in 0 1 2; do
    transfer mrpc $seed "--epochs 4"
    transfer sst2 $seed "--epochs 2 --train-size 4000"
  done
  transfer stsb 0 "--epochs 3"
} | xargs -P 2 -I{} sh -c '{}'
