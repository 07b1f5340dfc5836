#!/bin/sh
# MiniLM trained on as a masked language model. Usage, in a checkout: sh docs/results/encoder/run.sh WIKIPEDIA WIKITEXT GLUE OUT
# WIKIPEDIA and WIKITEXT are folders with a training and a validation text. A run that was stopped resumes. One thread.
set -e
export OMP_NUM_THREADS=1
wikipedia=$1 wikitext=$2 glue=$3 out=$4 here=$(dirname "$0")
fit() {
    name=$1; shift
    tickets fit-head builtin:minilm --corpus "$wikipedia" --train-encoder --bf16 --checkpoint-seconds 300 --quiet \
        --max-tokens 60000 --out "$out/$name" "$@" > "$out/$name.txt"
}
mkdir -p "$out"
# The encoder's learning rate and the batch size, by the loss on held-out articles after 307,200 tokens.
for rate in 1e-4 3e-4 6e-4 1e-3; do
    fit "rate-$rate" --steps 150 --encoder-learning-rate "$rate"
done
fit batch-4096 --steps 75 --batch-tokens 4096 --encoder-learning-rate 6e-4
# The encoder: 10,000 steps of 2,048 tokens.
python "$here/by_step.py" keep "$out/minilm-mlm" "$out/steps" &
fit minilm-mlm --steps 10000 --encoder-learning-rate 6e-4 --eval-steps 500
wait
# By step on another text, and the similarity of sentences without fine-tuning before and after.
python "$here/by_step.py" measure "$out/minilm-mlm" "$out/steps" "$wikitext" > "$out/wikitext-2.json"
for model in builtin:minilm "$out/minilm-mlm"; do
    tickets evaluate "$model" --objective similarity --task stsb --data-dir "$glue" --json > "$out/similarity-$(basename "$model").json"
done
