#!/bin/sh
# The study on five tasks at full length with a masked language model of 3,000 steps, in bfloat16: the dense model, TAMT-KD,
# IMP and OMP at 70 %, TAMT-KD at 60 %; on MNLI and CoLA also TAMT-MLM, TAMT-MLM+KD, the released IMP and random tickets,
# and TAMT-KD and IMP at 50 %.
# Usage, in a checkout: sh docs/results/tickets_win/five_tasks.sh WIKIPEDIA GLUE OUT. Runs that were stopped resume.
set -e
wikipedia=$1 glue=$2 out=$3 here=$(dirname "$0")
mkdir -p "$out"
OMP_NUM_THREADS=2 tickets fit-head builtin:minilm --corpus "$wikipedia" --train-encoder --bf16 --encoder-learning-rate 6e-4 \
    --steps 3000 --eval-steps 500 --max-tokens 60000 --checkpoint-seconds 120 --out "$out/minilm-mlm"
tickets evaluate "$out/minilm-mlm" --objective similarity --task stsb --data-dir "$glue" --json > "$out/similarity.json"
export OMP_NUM_THREADS=1
study() { # verb of `tickets study`, more options; MNLI and CoLA with the rate that was better for the dense model
    verb=$1; shift
    tickets study "$verb" "$here/study.yaml" --scale small --store "$out/store" \
        --set encoder="$out/minilm-mlm" --set before=builtin:minilm --set corpus="$wikipedia" --set data_dir="$glue" \
        --set searched=[0.5,0.6,0.7] --set searched_by_imp=[0.1,0.2,0.3,0.4,0.5,0.6,0.7] \
        --set 'best_rates={mnli: 1.0e-4, sst2: 2.0e-4, stsb: 2.0e-4, mrpc: 2.0e-4, cola: 1.0e-4}' "$@"
}
run() { study run --bf16 --workers 2 "$@"; }
best="fine_tuning=without dropout"
run --where stage=dense --where "$best"
for methods in TAMT-KD,IMP OMP; do
    run --where stage=transfer --where sparsity=0.7 --where method=$methods --where "$best"
done
run --set sparsities=[0.6,0.7] --where stage=transfer --where sparsity=0.6 --where method=TAMT-KD --where "$best"
run --where stage=losses --where sparsity=0.7 --where method=TAMT-KD,IMP,OMP
study report --set sparsities=[0.6,0.7] --out "$out/five_tasks"
# the same with rate 2e-4 on all tasks: MNLI and CoLA are new
higher='best_rates={mnli: 2.0e-4, sst2: 2.0e-4, stsb: 2.0e-4, mrpc: 2.0e-4, cola: 2.0e-4}'
other() { run --set "$higher" --where task=mnli,cola --where "$best" "$@"; }
other --where stage=dense
for methods in TAMT-KD,IMP OMP; do
    other --where stage=transfer --where sparsity=0.7 --where method=$methods
done
other --set sparsities=[0.6,0.7] --where stage=transfer --where sparsity=0.6 --where method=TAMT-KD
other --set sparsities=[0.5,0.7] --where stage=transfer --where sparsity=0.5 --where method=TAMT-KD,IMP
# the other objectives and controls on these two tasks
for methods in TAMT-MLM Rand "released IMP" TAMT-MLM+KD; do
    other --where stage=transfer --where sparsity=0.7 --where "method=$methods"
done
run --set "$higher" --where stage=losses --where sparsity=0.7 --where "method=TAMT-MLM,Rand,released IMP,TAMT-MLM+KD"
run --where stage=before --where task=mnli,cola # MiniLM before the MLM training; its scores are on the page of the encoder
study report --set "$higher" --set sparsities=[0.5,0.6,0.7] --out "$out/five_tasks_higher_rate"
python "$here/curves.py" "$out/store" > "$out/curves-five-tasks.json"
