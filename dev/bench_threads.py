"""
How long OpenMP threads should spin for each other: decoding and training, alone and beside a busy process.

    python dev/bench_threads.py                         # one JSON line per case, about three minutes in all
Each case is a process of its own, as the count is read once, when torch loads. 300,000 is what libgomp does
by itself. The neighbour is one niced process that counts.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
SPIN_COUNTS = (300_000, 50_000, 20_000, 10_000, 5_000, 2_000)
BATCHES = (1, 16)               # rows that decode together


def parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--spin-counts", type=int, nargs="+", default=SPIN_COUNTS)
    parser.add_argument("--seconds", type=float, default=3, help="per measurement")
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--vocab-size", type=int, default=32768)
    parser.add_argument("--case", action="store_true", help=argparse.SUPPRESS)  # measure in this process
    return parser


def per_second(work: Callable[[], int], seconds: float) -> float:
    """Units of work done per second: `work` is called once to warm up, then until the time is over."""
    work()
    done, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        done += work()
    return round(done / passed, 1)


def measure(args: argparse.Namespace) -> dict:
    """Tokens per second of decoding at each batch size and of training at the rows of runcpu.sh."""
    sys.path.insert(0, str(ROOT))
    from nanochat.common import compute_dtype, keep_freed_memory    # isort: skip, nanochat goes before torch
    import torch

    from nanochat.gpt import GPT
    from nanochat.past import KVCache
    from nanochat.scaling import make_shape
    keep_freed_memory()
    cpu = torch.device("cpu")
    shape = make_shape(args.depth, args.vocab_size, head_dim=64, sequence_len=256)
    model = GPT(shape, compute_dtype(cpu)).init_weights()

    def decode(rows: int) -> int:
        cache = KVCache(model.shape, rows, 32, cpu, model.dtype)
        for _ in range(32):
            model.step(torch.ones(rows, 1, dtype=torch.int64), cache)
        return 32 * rows

    def train() -> int:
        idx = torch.randint(0, args.vocab_size, (2, 4, 256))
        model(idx[0], idx[1]).backward()
        model.zero_grad()
        return idx[0].numel()

    speeds = {f"decode_{rows}": per_second(lambda rows=rows: decode(rows), args.seconds) for rows in BATCHES}
    speeds["train"] = per_second(train, args.seconds)
    return {"dtype": str(model.dtype).removeprefix("torch.")} | speeds


def main(args: argparse.Namespace) -> None:
    if args.case:
        print(json.dumps(measure(args)), flush=True)
        return
    for busy in (False, True):
        for count in args.spin_counts:
            neighbour = subprocess.Popen(["nice", sys.executable, "-c", "while True: pass"]) if busy else None
            try:
                out = subprocess.run([sys.executable, __file__, "--case", *sys.argv[1:]], check=True,
                                     stdout=subprocess.PIPE, env=os.environ | {"GOMP_SPINCOUNT": str(count)})
            finally:
                if neighbour:
                    neighbour.kill()
            print(json.dumps({"spin_count": count, "busy": busy} | json.loads(out.stdout)), flush=True)


if __name__ == "__main__":
    main(parser().parse_args())
