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

# 850,000 conversations once (SmolTalk, MMLU, GSM8K, spelling), and a thousand on who it is, twice
python -m dev.gen_identity --name=nanochat --count=1000 --out="$NANOCHAT_BASE_DIR/identity.jsonl"
launch scripts.mid_train --resume --model-tag="d$DEPTH" --mixture=web-mid --run="$RUN" \
  --conversations="$NANOCHAT_BASE_DIR/identity.jsonl" --repeat=2
# 23,000 conversations once, about 32 of them in 16,384 tokens. The rates shrink with the root of the batch:
# .16 x sqrt(16,384 / 1,048,576) = .02 of those of pretraining
launch scripts.chat_sft --resume --model-tag="d$DEPTH" --mixture=web-sft --run="$RUN" \
  --conversations="$NANOCHAT_BASE_DIR/identity.jsonl" \
  --device-batch-size=1 --total-batch-size=16384 --init-lr-frac=0.16
# 7,473 problems once, 16 a step, 16 answers to each
launch scripts.chat_rl --resume --model-tag="d$DEPTH" --tasks=gsm8k --eval-every=60 \
  --device-batch-size=16 --run="$RUN"

for stage in mid sft; do
  launch scripts.chat_eval --resume --model-tag="d$DEPTH" -i "$stage" --tasks=chatcore --max-questions=0 \
    --allow-missing
done
launch scripts.chat_eval --resume --model-tag="d$DEPTH" -i rl --tasks=gsm8k --max-questions=0
python -m nanochat.report --model-tag="d$DEPTH"
echo "talk to it: source .venv/bin/activate; python -m scripts.chat_web --model-tag=d$DEPTH"
