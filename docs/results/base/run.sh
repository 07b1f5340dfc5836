#!/bin/sh
# sh run.sh MODEL WIKITEXT GLUE STORE: the runs of two tasks, and the report in STORE/report; can be interrupted and run again
set -e
settings="--scale small --set model=$1 --set corpus=$2 --set data_dir=$3 --store $4"
tickets study run docs/results/base/study.yaml $settings --bf16 --workers "${WORKERS:-12}" --where task=mrpc,rte
tickets study report docs/results/base/study.yaml $settings --where task=mrpc,rte --out "$4/report"
