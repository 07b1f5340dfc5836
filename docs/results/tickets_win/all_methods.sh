#!/bin/sh
# All methods of the study in trainings of 300 steps, with the encoder of docs/results/universal (1,000 steps, float32).
# Usage, in a checkout: sh docs/results/tickets_win/all_methods.sh MINILM_MLM WIKIPEDIA GLUE OUT. Runs that were stopped resume.
set -e
encoder=$1 wikipedia=$2 glue=$3 out=$4 here=$(dirname "$0")
study() { # verb of `tickets study`, more options
    verb=$1; shift
    tickets study "$verb" "$here/study.yaml" --scale small --store "$out/store" \
        --set encoder="$encoder" --set before=builtin:minilm --set corpus="$wikipedia" --set data_dir="$glue" \
        --set first_steps=150 --set steps=30 --set search_tokens=512 --set batch_size=16 --set tasks=[sst2,stsb] \
        --set 'train_sizes={sst2: "4800", stsb: "4800"}' --set 'epochs={sst2: 1, stsb: 1}' "$@"
}
run() { study run --workers 2 "$@"; }
best="fine_tuning=without dropout"
run --where stage=dense --where "$best"
for sparsity in 0.7 0.5 0.8; do
    run --set sparsities=[$sparsity] --where stage=transfer --where sparsity=$sparsity --where method=TAMT-KD,IMP,OMP --where "$best"
done
run --set sparsities=[0.6] --where stage=transfer --where sparsity=0.6 --where method=TAMT-KD --where "$best"
for methods in Rand,TAMT-MLM TAMT-MLM+KD "released IMP"; do
    run --set sparsities=[0.7] --where stage=transfer --where sparsity=0.7 --where "method=$methods" --where "$best"
done
run --where stage=losses --where sparsity=0.7 --where "method=TAMT-KD,TAMT-MLM,TAMT-MLM+KD,IMP,released IMP,OMP,Rand"
run --where stage=dense-losses
study report --set sparsities=[0.5,0.6,0.7,0.8] --out "$out/all_methods"
