#!/bin/sh
# The study with a masked language model of 1,000 steps, float32: TAMT-KD and IMP with fewer examples of four tasks, and at
# full length; there with the dense model on SST-2 and STS-B, and tickets of 60 % on SST-2.
# Usage, in a checkout: sh docs/results/tickets_win/short_encoder.sh WIKIPEDIA GLUE OUT. Runs that were stopped resume.
set -e
export OMP_NUM_THREADS=1
wikipedia=$1 glue=$2 out=$3 here=$(dirname "$0")
mkdir -p "$out"
tickets fit-head builtin:minilm --corpus "$wikipedia" --train-encoder --encoder-learning-rate 6e-4 --steps 1000 \
    --eval-steps 250 --max-tokens 60000 --checkpoint-seconds 120 --out "$out/minilm-mlm"
study() { # verb of `tickets study`, more options
    verb=$1; shift
    tickets study "$verb" "$here/study.yaml" --scale small --store "$out/store" \
        --set encoder="$out/minilm-mlm" --set before=builtin:minilm --set corpus="$wikipedia" --set data_dir="$glue" \
        --set searched=[0.5,0.6,0.7] --set searched_by_imp=[0.1,0.2,0.3,0.4,0.5,0.6,0.7] "$@"
}
short() { # the same with fewer examples
    study "$@" --set tasks=[sst2,mrpc,stsb,mnli] \
        --set 'train_sizes={mnli: "6000", sst2: "4000", stsb: "2500", mrpc: "2000"}' \
        --set 'epochs={mnli: 1, sst2: 2, stsb: 3, mrpc: 3}'
}
set -- --where "fine_tuning=without dropout"
short run --where method=TAMT-KD,IMP --where sparsity=0.7 "$@"
short run --where stage=losses --where method=TAMT-KD,IMP,OMP --where sparsity=0.7
# For comparison: the dense model and magnitude tickets with one seed.
short run --set all_seeds=[0] --where method=Full --where task=sst2,stsb,mrpc "$@"
short run --set all_seeds=[0] --where method=OMP --where task=sst2,stsb,mrpc --where sparsity=0.7 "$@"
short report --out "$out/short_trainings"
# At full length
long() { study "$@" --set tasks=[sst2,mrpc,stsb,mnli]; }
long run --where method=TAMT-KD,IMP --where sparsity=0.7 "$@"
long run --where method=Full --where task=sst2,stsb "$@"
long run --set sparsities=[0.6,0.7] --where method=TAMT-KD --where sparsity=0.6 --where task=sst2 "$@"
long report --set sparsities=[0.6,0.7] --out "$out/long_trainings"
