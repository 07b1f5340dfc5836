#!/bin/sh
# The study on five tasks at full length, with a masked language model of 3,000 steps, everything in bfloat16.
# Usage, in a checkout: sh docs/results/tickets_win/five_tasks.sh WIKIPEDIA GLUE OUT. Runs that were stopped resume.
set -e
wikipedia=$1 glue=$2 out=$3 here=$(dirname "$0")
mkdir -p "$out"
OMP_NUM_THREADS=2 tickets fit-head builtin:minilm --corpus "$wikipedia" --train-encoder --bf16 --encoder-learning-rate 6e-4 \
    --steps 3000 --eval-steps 500 --max-tokens 60000 --checkpoint-seconds 120 --out "$out/minilm-mlm"
export OMP_NUM_THREADS=1
study() { # verb of `tickets study`, more options
    verb=$1; shift
    tickets study "$verb" "$here/study.yaml" --scale small --store "$out/store" --bf16 \
        --set encoder="$out/minilm-mlm" --set before=builtin:minilm --set corpus="$wikipedia" --set data_dir="$glue" \
        --set searched=[0.5,0.6,0.7] --set searched_by_imp=[0.1,0.2,0.3,0.4,0.5,0.6,0.7] "$@"
}
best="fine_tuning=without dropout"
run() { study run --workers 2 --where "$best" "$@"; }
for task in sst2,stsb mrpc,mnli cola; do
    run --where stage=dense --where task=$task
    for methods in TAMT-KD,OMP IMP; do
        run --where stage=transfer --where sparsity=0.7 --where method=$methods --where task=$task
    done
done
