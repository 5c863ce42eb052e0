# Sourced by every run script: the environment, NANOCHAT_BASE_DIR, and `launch`.
# Works from any folder and on a fresh machine; what is missing is installed or named.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export NANOCHAT_BASE_DIR="${NANOCHAT_BASE_DIR:-$HOME/.cache/nanochat}"
mkdir -p "$NANOCHAT_BASE_DIR"

if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then export PATH="$HOME/.cargo/bin:$PATH"; fi
if ! command -v cargo >/dev/null; then
  echo "error: cargo is not installed; the tokenizer trainer is written in Rust and built here" >&2
  echo "  hint: install Rust from https://rustup.rs (or your package manager), then run this again" >&2
  exit 2
fi
if ! command -v uv >/dev/null; then                       # the package manager: one static binary
  export PATH="$HOME/.local/bin:$PATH"
  command -v uv >/dev/null || python3 -m pip install --quiet --user --break-system-packages uv 2>/dev/null \
    || python3 -m pip install --quiet --user uv 2>/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
  hash -r
  if ! command -v uv >/dev/null; then
    echo "error: uv is not installed and could not be" >&2
    echo "  hint: see https://docs.astral.sh/uv, then run this again" >&2
    exit 2
  fi
fi
echo "setting up the environment (the first time, this downloads torch)"
uv sync --frozen
source .venv/bin/activate

GPUS=$(python -c "import torch; print(torch.cuda.device_count())")

# launch scripts.base_train --depth=12 ...: torchrun over all GPUs, plain python where there is none
launch() {
  local module="$1"; shift
  if [ "$GPUS" -gt 0 ]; then
    torchrun --standalone --nproc_per_node="$GPUS" -m "$module" -- "$@"
  else
    python -m "$module" "$@"
  fi
}
