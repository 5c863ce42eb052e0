"""
How long OpenMP threads should spin for each other: decoding and training, alone and beside a busy process.

    python dev/bench_threads.py                         # one JSON line per case, about five minutes in all
Each case is a process of its own, as the count is read once, when torch loads. 300,000 is what libgomp does
by itself. The neighbour is one process that does nothing but count, niced or not. Medians of rounds in turns.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent.parent
SPIN_COUNTS = (300_000, 50_000, 10_000, 2_000)
NEIGHBOURS = {"none": [], "niced": ["nice"], "equal": ["env"]}      # what the busy process is started by
BATCHES = (1, 16)               # rows that decode together


def parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--spin-counts", type=int, nargs="+", default=SPIN_COUNTS)
    parser.add_argument("--seconds", type=float, default=1.5, help="per measurement")
    parser.add_argument("--rounds", type=int, default=3)
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


def run_case(count: int, neighbour: list[str], flags: list[str]) -> dict:
    """One case in a process of its own, beside the command `neighbour` if there is one."""
    beside = subprocess.Popen([*neighbour, sys.executable, "-c", "while True: pass"]) if neighbour else None
    try:
        out = subprocess.run([sys.executable, __file__, "--case", *flags], check=True, stdout=subprocess.PIPE,
                             env=os.environ | {"GOMP_SPINCOUNT": str(count)})
    finally:
        if beside:
            beside.kill()
            beside.wait()
    return json.loads(out.stdout)


def main(args: argparse.Namespace) -> None:
    if args.case:
        print(json.dumps(measure(args)), flush=True)
        return
    cases = list(itertools.product(NEIGHBOURS, args.spin_counts))
    results = {case: [] for case in cases}
    for _ in range(args.rounds):                        # in turns: the machine's own speed drifts
        for name, count in cases:
            results[name, count].append(run_case(count, NEIGHBOURS[name], sys.argv[1:]))
    for (name, count), measured in results.items():
        speeds = [key for key in measured[0] if key != "dtype"]
        medians = {key: statistics.median(one[key] for one in measured) for key in speeds}
        facts = {"neighbour": name, "spin_count": count, "dtype": measured[0]["dtype"]}
        print(json.dumps(facts | medians), flush=True)


if __name__ == "__main__":
    main(parser().parse_args())
