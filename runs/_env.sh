# Sourced by every run script. Works from any folder and on a fresh machine: Rust, uv and Python packages that
# are missing come into the user's home and .venv, without root.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export NANOCHAT_BASE_DIR="${NANOCHAT_BASE_DIR:-$HOME/.cache/nanochat}"
# SMOKE=1 makes a toy of speedrun.sh, miniseries.sh or scaling_laws.sh: the same lines on a CPU, offline, in a
# folder of its own. Of a flag that is given twice the last one counts, and these come last.
if [ -n "${SMOKE:-}" ]; then
  export NANOCHAT_BASE_DIR="$NANOCHAT_BASE_DIR/smoke" CUDA_VISIBLE_DEVICES="" HF_HUB_OFFLINE=1
fi
TOY_TEXT="${SMOKE:+--source=almanac --almanac-mb=0.2}"
TOY_BASE="${SMOKE:+$TOY_TEXT --aspect-ratio=32 --head-dim=32 --max-seq-len=128 --window-pattern=L
  --total-batch-size=1024 --target-param-data-ratio=0.2 --warmup-steps=2 --eval-tokens=4000}"
TOY_EVAL="${SMOKE:+--max-per-task=4 --eval-tokens=4000}"
WEB_TOKENIZER="--source=climbmix --num-shards=8 --vocab-size=32768 --max-chars=2000000000
  ${SMOKE:+$TOY_TEXT --vocab-size=512}"
mkdir -p "$NANOCHAT_BASE_DIR"
# where rustup and uv install to; rustup's first, as a system's own Rust may be too old
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH:$HOME/.local/bin"
fail() { echo "error: $1" >&2; echo "  hint: $2" >&2; exit 2; }
run_from() {                                              # run_from URL COMMAND...: whole before a line of it runs
  local installer
  if command -v curl >/dev/null; then installer=$(curl --connect-timeout 20 -LsSf "$1") || return 1
  else installer=$(wget --timeout=20 -qO- "$1") || return 1; fi
  "${@:2}" <<<"$installer" >/dev/null
}
RUST=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' rustbpe/Cargo.toml)
rust_is_here() {                                          # a cargo that runs and is not too old
  printf '%s\n' "cargo $RUST" "$(cargo --version 2>/dev/null)" | sort -V -C
}
uv_is_here() { uv --version >/dev/null 2>&1; }
cc --version >/dev/null 2>&1 || fail "there is no C linker (cc); the tokenizer trainer is built here and needs one" \
  "Debian, Ubuntu: sudo apt install build-essential; Fedora: sudo dnf install gcc; macOS: xcode-select --install"
if ! rust_is_here; then
  echo "installing Rust into ${CARGO_HOME:-$HOME/.cargo} (rustup, minimal profile), to build the tokenizer trainer"
  RUSTUP_INIT_SKIP_PATH_CHECK=yes run_from https://sh.rustup.rs \
    sh -s -- -y --quiet --profile minimal --no-modify-path || true
  hash -r
  rust_is_here || fail "cargo $RUST or newer is not installed and could not be; it builds the tokenizer trainer" \
    "install Rust from https://rustup.rs (or your package manager), then run this again"
fi
if ! uv_is_here; then                                     # from the package index, else from its own site
  echo "installing uv, the package manager, into $HOME/.local/bin"
  PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv >/dev/null 2>&1 || true
  uv_is_here || UV_INSTALL_DIR="$HOME/.local/bin" UV_NO_MODIFY_PATH=1 run_from https://astral.sh/uv/install.sh sh ||
    fail "uv is not installed and could not be" "see https://docs.astral.sh/uv, then run this again"
fi
if ! uv sync --frozen --check >/dev/null 2>&1; then       # nothing is said where nothing is to do
  echo "setting up the environment (the first time 3 GB come on Linux, torch with CUDA; then a minute of Rust)"
  uv sync --frozen || fail "the environment could not be set up: uv says above why" \
    "it needs a package index, and Python 3.11 or newer here or from where uv fetches it; then run this again"
fi
source .venv/bin/activate
GPUS=$(python -c "import torch; print(torch.cuda.device_count())")
need_gpus() {                                             # for what a CPU would never finish
  [ "$GPUS" -gt 0 ] || [ -n "${SMOKE:-}" ] ||
    fail "no NVIDIA GPU here; $(basename "$0") is for a node with eight of them" \
      "bash runs/runcpu.sh trains on two CPU cores; SMOKE=1 tries the lines of this one at toy size"
}
launch() {                 # launch scripts.base_train --depth=12 ...: over all GPUs, plain python where there is none
  if [ "$GPUS" -eq 0 ]; then python -m "$@"
  else torchrun --standalone --nproc_per_node="$GPUS" -m "$1" -- "${@:2}"; fi
}
TAGS=""
member() {                 # member TAG EVALUATIONS FLAGS...: a model of a sweep, trained and measured
  TAGS="$TAGS $1"
  launch scripts.base_train --resume --model-tag="$1" --source=climbmix "${@:3}" --eval-every=-1 \
    --sample-every=-1 --core-metric-every=-1 ${WANDB_RUN:+--run="$WANDB_RUN-$1"} $TOY_BASE
  launch scripts.base_eval --resume --model-tag="$1" --eval="$2" --eval-tokens=41943040 $TOY_EVAL
}
