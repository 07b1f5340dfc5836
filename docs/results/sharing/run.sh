#!/usr/bin/env bash
# Single-task, MT-DNN and Ticket-Share with MiniLM on four tasks, each with single-task fine-tuning afterwards. See README.md.
# Usage: DATA=<folder with glue/> OUT=<folder for the runs> FULL=<folder with dense-rte ... of ../super_tickets/run.sh> bash run.sh
# Finished runs are not done again, so it can be stopped and started. Two runs at a time, one thread each.
set -u
export DATA=${DATA:?} OUT=${OUT:?} FULL=${FULL:?} OMP_NUM_THREADS=1
mkdir -p "$OUT"
two_at_a_time() { xargs -P 2 -I{} sh -c '{} --data-dir $DATA/glue --bf16 --quiet --json > /dev/null'; }
TASKS="rte mrpc cola stsb"
SIZE="--train-size 1000 --batch-size 32 --max-length 96 --learning-rate 1e-4 --warmup-ratio 0.1 --weight-decay 0.01"
TUNE="--train-size 1000 --batch-size 32 --max-length 96 --learning-rate 5e-5 --warmup-ratio 0.1 --weight-decay 0.01 --epochs 1 --eval-steps 5000"
for task in $TASKS; do
  echo "tickets search builtin:minilm --method importance --importance-from $FULL/dense-$task --level 30% --train-size 1000 --out $OUT/ticket-$task"
done | xargs -P 2 -I{} sh -c '{} --quiet --json > /dev/null'
TICKETS=$(for task in $TASKS; do printf '%s,' "$OUT/ticket-$task"; done | sed 's/,$//')
for seed in 0 1; do
  echo "tickets share --model builtin:minilm --tasks rte,mrpc,cola,stsb $SIZE --epochs 3 --seeds $seed --dropout model --out $OUT/mtdnn-s$seed"
  echo "tickets share --tasks rte,mrpc,cola,stsb --tickets $TICKETS $SIZE --epochs 3 --seeds $seed --dropout model --out $OUT/shared-s$seed"
done | two_at_a_time
for seed in 0 1; do for task in $TASKS; do
  echo "tickets transfer builtin:minilm --task $task $SIZE --epochs 3 --dropout model --eval-steps 5000 --seeds $seed --out $OUT/single-$task-s$seed"
  echo "tickets transfer $OUT/mtdnn-s$seed --task $task $TUNE --dropout model --seeds $seed --out $OUT/mtdnn-tuned-$task-s$seed"
  echo "tickets transfer $OUT/shared-s$seed --task $task $TUNE --dropout model --seeds $seed --out $OUT/shared-tuned-$task-s$seed"
done; done | two_at_a_time
TICKET_LIST=$(for task in $TASKS; do printf '%s ' "$OUT/ticket-$task"; done)
tickets analyse sharing $TICKET_LIST --names rte,mrpc,cola,stsb --out "$OUT/pies" > /dev/null
tickets analyse cards --tasks rte,mrpc,cola,stsb,sst2 --data-dir "$DATA/glue" --out "$OUT/cards" > /dev/null
