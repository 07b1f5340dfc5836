#!/usr/bin/env bash
# Super tickets on tasks that the dense model learns, without and with a recovery of the encoder before fine-tuning.
# Usage: DATA=<folder with glue/> OUT=<folder for the runs> bash recover.sh
# A training stops after an epoch without a better score on half of the dev set; scores are those of the other half.
# Finished runs are not done again, so it can be stopped and started. One thread.
set -eu
export OMP_NUM_THREADS=1
for task in stsb mrpc; do
  for steps in 0 200; do
    levels=20,40
    [ "$task-$steps" != mrpc-200 ] || levels=40 # 20 % loses nothing that could be recovered
    tickets super builtin:minilm --task "$task" --dropout model --data-dir "$DATA/glue" --level $levels --selections winning --seeds 0,1,2 \
      --importance-train-size 1000 --recover "$steps" --epochs 4 --patience 1 --select-on 0.5 --learning-rate 1e-4 --bf16 \
      --quiet --out "$OUT/$task-recover-$steps"
  done
done
