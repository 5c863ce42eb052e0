#!/usr/bin/env bash
# A model of GPT-2 grade on one node with eight GPUs, in hours: the same chain as runcpu.sh on web-scale data.
# Fewer GPUs take longer and come to the same. Run again, it goes on.
#   bash runs/speedrun.sh                       DEPTH=12 makes a smaller one, WANDB_RUN=name logs to wandb,
#                                               DOLLARS_PER_HOUR=24 of the node puts costs into the report
#   SMOKE=1 bash runs/speedrun.sh               a toy through the same lines on a CPU, offline, in a minute
set -euo pipefail
source "$(dirname "$0")/_env.sh"
need_gpus
if [ -n "${SMOKE:-}" ]; then DEPTH=2; fi
DEPTH="${DEPTH:-24}" RUN="${WANDB_RUN:-dummy}"
TAG="d$DEPTH" IDENTITY="$NANOCHAT_BASE_DIR/identity.jsonl"
# The tokenizer reads 2B characters: 8 shards of 250M. The others come while it trains: d24 has 730M scaling
# parameters x 8 tokens = 5.8B tokens = ~28B characters; / 0.96 kept by packing / 250M per shard = ~117.
python -m nanochat.dataset --source=climbmix --num-shards=8 $TOY_TEXT
python -m nanochat.dataset --source=climbmix --depth="$DEPTH" --target-param-data-ratio=8 $TOY_TEXT &
SHARDS=$!
trap 'kill "$SHARDS" 2>/dev/null || true' EXIT            # Ctrl-C does not reach what runs in the background
python -m scripts.tok_train $WEB_TOKENIZER
python -m scripts.tok_eval
wait "$SHARDS" || fail "not all shards for d$DEPTH came: it says above why" "run this again: it continues"
trap - EXIT
# 5,568 steps x 1,048,576 tokens = 5.8B tokens x 4.78 GFLOPs = 2.8e19 FLOPs. CORE on the way is a rough one.
launch scripts.base_train --resume --depth="$DEPTH" --source=climbmix --target-param-data-ratio=8 \
  --core-metric-every=2000 --core-metric-max-per-task=500 --save-every=1000 --run="$RUN" \
  $TOY_BASE ${SMOKE:+--core-metric-max-per-task=2}
launch scripts.base_eval --resume --model-tag="$TAG" --eval-tokens=41943040 $TOY_EVAL
# 850,000 conversations once (SmolTalk, MMLU, GSM8K, spelling), and a thousand on who it is, twice
python -m dev.gen_identity --name=nanochat --count=1000 --out="$IDENTITY" ${SMOKE:+--count=20}
launch scripts.mid_train --resume --model-tag="$TAG" --mixture=web-mid --run="$RUN" \
  --conversations="$IDENTITY" --repeat=2 ${SMOKE:+--mixture=almanac=200 --num-iterations=2}
# 23,000 conversations once, about 32 of them in 16,384 tokens. The rates shrink with the root of the batch:
# .16 x sqrt(16,384 / 1,048,576) = .02 of those of pretraining
launch scripts.chat_sft --resume --model-tag="$TAG" --mixture=web-sft --run="$RUN" \
  --conversations="$IDENTITY" --device-batch-size=1 --total-batch-size=16384 --init-lr-frac=0.16 \
  ${SMOKE:+--mixture=almanac=100 --num-iterations=2 --device-batch-size=8 --total-batch-size=1024}
# 7,473 problems once, 16 a step, 16 answers to each
launch scripts.chat_rl --resume --model-tag="$TAG" --tasks=gsm8k --eval-every=60 \
  --device-batch-size=16 --run="$RUN" \
  ${SMOKE:+--tasks=almanac-letters --num-iterations=1 --examples-per-step=4 --num-samples=4 --max-tokens=8 \
    --eval-examples=4 --eval-samples=2 --device-batch-size=8}
TOY_ASK="${SMOKE:+--tasks=almanac-facts --max-questions=4 --max-tokens=8}"
for stage in mid sft; do
  launch scripts.chat_eval --resume --model-tag="$TAG" -i "$stage" --tasks=chatcore --max-questions=0 \
    --allow-missing $TOY_ASK
done
launch scripts.chat_eval --resume --model-tag="$TAG" -i rl --tasks=gsm8k --max-questions=0 $TOY_ASK
python -m nanochat.report --model-tag="$TAG" ${DOLLARS_PER_HOUR:+--dollars-per-hour="$DOLLARS_PER_HOUR"}
echo "talk to it: source .venv/bin/activate; python -m scripts.chat_web --model-tag=$TAG"
