#!/usr/bin/env bash
# How large should a model be, and how long trained, for what there is to spend? Models of several depths for
# each budget of FLOPs, and how the best size grows (IsoFLOP profiles, arXiv 2203.15556). Run again, it goes on.
#   bash runs/scaling_laws.sh                   FLOPS="1e17 3e17 1e18" DEPTHS="4 6 8 10" are others,
#                                               WANDB_RUN=name logs to wandb
#   SMOKE=1 bash runs/scaling_laws.sh           toys through the same lines on a CPU, offline
set -euo pipefail
source "$(dirname "$0")/_env.sh"
need_gpus
if [ -n "${SMOKE:-}" ]; then FLOPS="${FLOPS:-2e9 6e9}" DEPTHS="${DEPTHS:-1 2}"; fi
FLOPS="${FLOPS:-1e18 2.15e18 4.64e18 1e19}" DEPTHS="${DEPTHS:-8 10 12 14 16 18 20}"
OUT="$NANOCHAT_BASE_DIR/scaling_laws"
python -m scripts.tok_train $WEB_TOKENIZER
# 7 depths x (1 + 2.15 + 4.64 + 10)e18 = 1.2e20 FLOPs, 4.5 times a d24. The smallest model of the largest
# budget reads the most: 1e19 / 0.296 GFLOPs (d8) = 34B tokens = ~680 shards.
for flops in $FLOPS; do
  for depth in $DEPTHS; do member "scale_${flops}_d$depth" bpb --depth="$depth" --target-flops="$flops"; done
done
python -m nanochat.report --model-tag $TAGS --out="$OUT" --csv="$OUT/scaling_laws.csv"
python -m dev.sweep "$OUT/scaling_laws.csv" --budgets $FLOPS
