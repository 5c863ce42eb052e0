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
python -m scripts.tok_train $WEB_TOKENIZER
# d10 2.8e17, d12 6.7e17, d14 1.5e18, d16 3.0e18, d18 5.7e18, d20 1.0e19 FLOPs: together 3/4 of one d24
for depth in $DEPTHS; do member "mini_d$depth" bpb,core --depth="$depth" --target-param-data-ratio=8; done
python -m nanochat.report --model-tag $TAGS --out="$OUT" --csv="$OUT/miniseries.csv"
python -m dev.sweep "$OUT/miniseries.csv"
