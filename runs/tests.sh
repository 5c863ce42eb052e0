#!/usr/bin/env bash
# Set up, then check the style and run all tests. Extra arguments go to pytest. HYPOTHESIS_PROFILE=wide looks
# for bugs with many random examples; NANOCHAT_DTYPE=float32 or bfloat16 fixes the dtype.
set -euo pipefail
source "$(dirname "$0")/_env.sh"
ruff check --quiet
cargo test --quiet --release --manifest-path rustbpe/Cargo.toml
python -m pytest -n auto --maxprocesses=4 --dist loadfile "$@"
