#!/usr/bin/env bash
# A model of GPT-2 grade on one node with eight GPUs, in hours: the same chain as runcpu.sh on web-scale data.
#   bash runs/speedrun.sh                       WANDB_RUN=name logs to wandb, DEPTH=12 makes a smaller one
set -euo pipefail
source "$(dirname "$0")/_env.sh"
if [ "$GPUS" -eq 0 ]; then
  echo "error: no NVIDIA GPU here; speedrun.sh is for a node with eight of them" >&2
  echo "  hint: bash runs/runcpu.sh does the same on two CPU cores, small, in minutes" >&2
  exit 2
fi
DEPTH="${DEPTH:-24}" RUN="${WANDB_RUN:-dummy}"

# d24: 730M scaling parameters x 8 tokens = 5.8B tokens = ~28B characters; / 0.96 kept by packing / 250M
# per shard = ~117 shards
python -m nanochat.dataset --source=climbmix --num-shards=120
python -m scripts.tok_train --source=climbmix --num-shards=120 --vocab-size=32768 --max-chars=2000000000
python -m scripts.tok_eval

launch scripts.base_train --resume --depth="$DEPTH" --source=climbmix --num-shards=120 \
  --target-param-data-ratio=8 --save-every=1000 --run="$RUN"
launch scripts.base_eval --model-tag="d$DEPTH"
# a conversation has ~50 tokens: 10 steps x 1M tokens see 200,000 of them once
launch scripts.mid_train --resume --model-tag="d$DEPTH" --num-conversations=200000 \
  --num-iterations=10 --run="$RUN"
launch scripts.chat_sft --resume --model-tag="d$DEPTH" --num-conversations=60000 \
  --num-iterations=3 --run="$RUN"
python -m scripts.chat_eval --model-tag="d$DEPTH" -i sft
python -m nanochat.report --model-tag="d$DEPTH"
echo "talk to it: source .venv/bin/activate; python -m scripts.chat_web --model-tag=d$DEPTH"
