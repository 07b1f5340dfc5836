#!/usr/bin/env bash
# Usage: MODEL=FOLDER DATA=FOLDER bash docs/results/shrink/base.sh, with absolute paths; MODEL is all-mpnet-base-v2, whose
# model.safetensors has SHA-256 78c0197b...5658; DATA as in run.sh. Finished runs are kept, stopped ones resume.
set -e
cd "$(dirname "$0")"
export OMP_NUM_THREADS=1
python nli.py $DATA nli.txt
for out in "base --speedup 2,3" "base-depth-2 --choice depth --speedup 2"; do
    tickets shrink $MODEL --corpus nli.txt --segments lines --task stsb --data-dir $DATA/glue --bf16 --steps 300 \
        --importance-batches 24 --out $out
done
python speed.py "dense=$MODEL" "2x=base/speedup-2/model" "3x=base/speedup-3/model" "2x, whole layers=base-depth-2/model" \
    --threads 1 --passes 20 --int8 --glue $DATA/glue > raw/base-speed.json
