#!/usr/bin/env bash
# Recipes at scale small with MiniLM, made smaller. See README.md.
# Usage: OUT=<folder with models/minilm-mlm (of ../transfer/fit_head/run.sh), data/wikitext-2 and data/glue> bash run.sh [run|report|plan]
# Finished runs are not done again, so it can be stopped and started; two of it at a time share the runs.
set -eu
cd "${OUT:?}"
DO=${1:-run}
study() {
  name=$1; shift
  more=()
  [ "$DO" = run ] && more=(--bf16 --quiet --workers "${WORKERS:-1}")
  [ "$DO" = report ] && more=(--out "reports/$name" --formats md,csv,svg,html)
  tickets study "$DO" "$name" --scale small --store store --set data_dir=data/glue "${more[@]}" "$@"
}
MLM=(--set corpus=data/wikitext-2 --set model=models/minilm-mlm --set encoder=models/minilm-mlm --set fit_head=false --set batch_tokens=1024)
TAMT=("${MLM[@]}" --set tasks=stsb,sst2 --set 'search_seeds=[0]' --set 'seeds=[0]' --set fine_tuning_steps=120 --set 'save_at=[20, 60]' --set round_steps=20)
study tamt-figure-5 "${TAMT[@]}" --set trained_steps=120 --set 'sparsities=[0.5, 0.7]'
study tamt-figure-8 "${TAMT[@]}" --set trained_steps=120
study tamt-figure-6 "${TAMT[@]}" --set trained_steps=120 --set 'imp_steps={60: {round_steps: 20}, 120: {round_steps: 40}}'
study tamt-figure-7 "${TAMT[@]}" --set trained_steps=120
study bert-tickets-figure-10 "${MLM[@]}" --set 'sparsities=[0.3, 0.5, 0.7]' --set round_steps=40 --set mlm_round_steps=40
