#!/usr/bin/env bash
# Set up and run all tests: Rust first (seconds), then Python. Extra arguments go to pytest.
set -euo pipefail
source "$(dirname "$0")/_env.sh"
cargo test --quiet --release --manifest-path rustbpe/Cargo.toml
python -m pytest "$@"
