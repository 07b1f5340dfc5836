#!/bin/sh
# MiniLM trained on as a masked language model. Usage, in a checkout: sh docs/results/encoder/run.sh CORPUS OUT
# CORPUS is a folder with a training and a validation text. A run that was stopped resumes.
set -e
corpus=$1 out=$2
fit() {
    name=$1; shift
    tickets fit-head builtin:minilm --corpus "$corpus" --train-encoder --bf16 --checkpoint-seconds 300 --quiet \
        --out "$out/$name" "$@" > "$out/$name.txt"
}
mkdir -p "$out"
# Learning rate of the encoder and batch size, by the loss on held-out articles after equal numbers of tokens.
for rate in 1e-4 3e-4 6e-4; do
    fit "rate-$rate" --steps 150 --encoder-learning-rate "$rate" --max-tokens 60000
done
fit batch-4096 --steps 75 --batch-tokens 4096 --encoder-learning-rate 3e-4 --max-tokens 60000
# The encoder: 10,000 steps of 2,048 tokens, with the rate that was best.
fit minilm-mlm --steps 10000 --encoder-learning-rate "${RATE:-3e-4}" --eval-steps 500
