#!/usr/bin/env bash
# One model per depth, all trained alike: CORE and bits per byte against FLOPs and hours, in one CSV and one
# plot. A change is an improvement where it moves the whole curve. Run again, it goes on.
#   bash runs/miniseries.sh                     DEPTHS="10 12" are fewer, WANDB_RUN=name logs to wandb
#   SMOKE=1 bash runs/miniseries.sh             toys through the same lines on a CPU, offline
set -euo pipefail
source "$(dirname "$0")/_env.sh"
need_gpus
if [ -n "${SMOKE:-}" ]; then DEPTHS="${DEPTHS:-1 2}"; fi
DEPTHS="${DEPTHS:-10 12 14 16 18 20}" OUT="$NANOCHAT_BASE_DIR/miniseries"
python -m scripts.tok_train --source=climbmix --num-shards=8 --vocab-size=32768 --max-chars=2000000000 \
  $TOY_TOKENIZER
# d10 2.8e17, d12 6.7e17, d14 1.5e18, d16 3.0e18, d18 5.7e18, d20 1.0e19 FLOPs: together 3/4 of one d24
TAGS=""
for depth in $DEPTHS; do
  tag="mini_d$depth" TAGS="$TAGS mini_d$depth"
  launch scripts.base_train --resume --model-tag="$tag" --depth="$depth" --source=climbmix \
    --target-param-data-ratio=8 --eval-every=-1 --sample-every=-1 --core-metric-every=-1 \
    ${WANDB_RUN:+--run="$WANDB_RUN-$tag"} $TOY_BASE
  launch scripts.base_eval --resume --model-tag="$tag" --eval=bpb,core --eval-tokens=41943040 $TOY_EVAL
done
python -m nanochat.report --model-tag $TAGS --out="$OUT" --csv="$OUT/miniseries.csv"
python -m dev.sweep "$OUT/miniseries.csv"
