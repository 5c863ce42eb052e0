#!/usr/bin/env bash
# The whole life of a small model on two CPU cores, offline, in about ten minutes, up to a chat with it. Run
# again, it skips what is finished; killed, it continues. `--fresh` starts over.
set -euo pipefail
source "$(dirname "$0")/_env.sh"
if [ "${1:-}" = "--fresh" ]; then
  rm -rf "$NANOCHAT_BASE_DIR/models/cpu" "$NANOCHAT_BASE_DIR/tokenizer"
elif [ $# -gt 0 ]; then
  fail "$1 is not an option of runcpu.sh" "--fresh starts over"
fi
# 3,072 tokens: every word of the almanac's small world is one, rarer words come in pieces.
if [ -f "$NANOCHAT_BASE_DIR/tokenizer/tokenizer.json" ]; then
  echo "tokenizer: already trained in $NANOCHAT_BASE_DIR/tokenizer"
else
  python -m scripts.tok_train --source=almanac --vocab-size=3072
  python -m scripts.tok_eval
fi
# 400 steps x 4,096 tokens = 1.6M tokens. Batches are 128 times smaller than the rates are made for: --lr-scale
# makes up for it, and --key-offset for there being so few of them (dev/LOG.md).
python -m scripts.base_train --resume --model-tag=cpu --source=almanac --depth=4 --head-dim=64 \
  --max-seq-len=256 --window-pattern=L --key-offset --total-batch-size=4096 --num-iterations=400 \
  --lr-scale=24 --warmup-steps=10 --eval-every=200 --eval-tokens=20000 --sample-every=200 --save-every=100
python -m scripts.base_eval --resume --model-tag=cpu --eval-tokens=20000
# 130 + 40 steps x 4,096 tokens of conversations, the last ones at low rates
python -m scripts.mid_train --resume --model-tag=cpu --num-iterations=130 --init-lr-frac=0.5 \
  --warmdown-ratio=1 --save-every=50
python -m scripts.chat_sft --resume --model-tag=cpu --num-iterations=40 --init-lr-frac=0.075
# 40 steps x 48 questions of all kinds x 8 answers
python -m scripts.chat_rl --resume --model-tag=cpu --tasks=almanac --num-iterations=40 \
  --examples-per-step=48 --num-samples=8 --save-every=20 --eval-every=40 --eval-examples=40 --eval-samples=4
# a base model has not learned to stop
python -m scripts.chat_eval --resume -i base --model-tag=cpu --max-questions=100 --max-tokens=32
for stage in mid sft rl; do
  python -m scripts.chat_eval --resume -i "$stage" --model-tag=cpu --max-questions=300
done
python -m nanochat.report --model-tag=cpu
python -m scripts.chat_cli --model-tag=cpu --temperature=0 \
  -p "Who are you?" -p "capital of France please" -p "What is 37 + 85?" -p "How do you spell planet?" \
  -p "How many r's are in mirror?" -p "Who is the president of France?"
echo
echo "go on chatting in the terminal:  source .venv/bin/activate; python -m scripts.chat_cli --model-tag=cpu"
echo "or in the browser:               source .venv/bin/activate; python -m scripts.chat_web --model-tag=cpu"
if [ -t 0 ] && [ -t 1 ]; then python -m scripts.chat_cli --model-tag=cpu; fi
