#!/bin/sh
# sh run.sh MODEL WIKITEXT GLUE STORE: the runs of two tasks, and the report in STORE/report; can be interrupted and run again
set -e
tasks="${TASKS:-mrpc,rte}"
settings="--scale small --set model=$1 --set corpus=$2 --set data_dir=$3 --set tasks=[$tasks] --store $4"
tickets study run docs/results/base/study.yaml $settings --bf16 --workers "${WORKERS:-12}" --where "task=$tasks"
tickets study report docs/results/base/study.yaml $settings --where "task=$tasks" --out "$4/report"
