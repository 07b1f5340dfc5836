#!/usr/bin/env bash
# An MLM head for MiniLM on WikiText-2, with the encoder frozen and with it trained; see ../README.md.
# Usage: DATA=<folder with wikitext-2/> OUT=<folder for the runs> bash docs/results/transfer/fit_head.sh
set -u
export DATA=${DATA:?} OUT=${OUT:?} OMP_NUM_THREADS=1
FIT="tickets fit-head builtin:minilm --corpus $DATA/wikitext-2 --max-tokens 60000 --bf16 --quiet --json"
$FIT --steps 800 --learning-rate 2e-3 --out "$OUT/minilm-head"
$FIT --steps 500 --train-encoder --learning-rate 1e-3 --encoder-learning-rate 3e-4 --out "$OUT/minilm-mlm"
