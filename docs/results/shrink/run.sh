#!/usr/bin/env bash
# For version 0.1.0: `--choice gates` and compare.py use what later versions no longer have.
# Usage: DATA=FOLDER bash docs/results/shrink/run.sh, with an absolute path; runs are written beside this file.
# DATA has folders glue, snli and wikipedia (wiki.train.txt, wiki.valid.txt). Finished runs are kept, stopped ones resume.
set -e
cd "$(dirname "$0")"

# Pieces of Wikipedia, the default of --segments for a corpus.
common="--corpus $DATA/wikipedia --task stsb --data-dir $DATA/glue --speedup 2 --eval-steps 25 --repeats 3"
tickets shrink builtin:minilm $common --importance-batches 32 --steps 150 --out importance
tickets shrink builtin:minilm $common --importance-batches 32 --steps 0 --out no-recovery
tickets shrink builtin:minilm $common --choice depth --importance-batches 1 --steps 150 --out whole-layers
python speed.py builtin:minilm importance/model whole-layers/model > raw/speed.json

# Sentences: one row for each choice, text, loss and number of steps; rows can be named.
python compare.py $DATA rows
pip install torch-pruning==1.6.1
python peer.py $DATA rows
python speed.py builtin:minilm rows/importance/model --int8 --glue $DATA/glue > raw/int8.json

tickets shrink builtin:minilm --corpus rows/nli.txt --segments lines:64 --task stsb --data-dir $DATA/glue --speedup 2 \
    --choice gates --steps 80 --warmup-steps 10 --batch-tokens 1024 --importance-batches 24 --out gates

OMP_NUM_THREADS=1 tickets shrink builtin:minilm --corpus rows/nli.txt --segments lines --task stsb --data-dir $DATA/glue \
    --speedup 2 --minutes 15 --formats onnx,int8 --out quarter-of-an-hour
python speed.py builtin:minilm quarter-of-an-hour/model --passes 40 > raw/speed-quarter-of-an-hour.json

# As long as half an hour lets it: rows/nli.txt is written by compare.py.
tickets shrink builtin:minilm --corpus rows/nli.txt --segments lines --task stsb --data-dir $DATA/glue --speedup 2 \
    --minutes 30 --formats onnx,int8 --out half-an-hour

# Fine-tuned models.
fast="--by flops --speedup 2.4 --data-dir $DATA/glue --steps 800 --eval-steps 100 --importance-batches 24 --repeats 5 --bf16"
for seed in 0 1 2; do
    tickets transfer builtin:minilm --task mrpc --epochs 4 --dropout model --learning-rate 1e-4 --data-dir $DATA/glue --seeds $seed --save-model \
        --out mrpc-$seed
    tickets transfer builtin:minilm --task sst2 --train-size 10000 --train-size-seed 0 --epochs 2 --dropout model --learning-rate 1e-4 \
        --data-dir $DATA/glue --seeds $seed --save-model --out sst2-$seed
    tickets shrink mrpc-$seed $fast --out mrpc-$seed-fast
    tickets shrink sst2-$seed $fast --out sst2-$seed-fast
    tickets transfer mrpc-$seed-fast/model --task mrpc --dropout model --data-dir $DATA/glue --teacher mrpc-$seed --epochs 2 \
        --learning-rate 5e-5 --bf16 --seeds $seed --out mrpc-$seed-taught
done
python speed.py builtin:minilm {mrpc,sst2}-{0,1,2}-fast/model --passes 30 > raw/speed-fine-tuned.json

# MRPC at exactly twice the speed: on its own texts, and on more pairs without labels.
python pairs.py $DATA/glue pairs.csv
two="--by flops --speedup 2.1 --data-dir $DATA/glue --eval-steps 100 --patience 12 --importance-batches 24 --repeats 5 --bf16"
for seed in 0 1 2; do
    tickets shrink mrpc-$seed $two --steps 1200 --out mrpc-$seed-two
    tickets shrink mrpc-$seed $two --steps 800 --train-file pairs.csv --out mrpc-$seed-pairs
done
python speed.py builtin:minilm mrpc-{0,1,2}-two/model mrpc-{0,1,2}-pairs/model --passes 30 > raw/speed-fine-tuned-mrpc.json
