"""How fast a training step is: one JSON line, medians of the steps after warm-up.

    python -m dev.bench_train                           # depth 4 as runcpu.sh trains it
    python -m dev.bench_train --depth 12 --rows 32 --sequence-len 2048 \\
        --vocab-size 32768 --head-dim 128 --steps 50    # for a GPU"""
import argparse
import json
import statistics
import sys
import time
from nanochat.common import compute_dtype, keep_freed_memory, new_parser
from nanochat.dist import find_device
from nanochat.gpt import GPT
from nanochat.hardware import peaks
from nanochat.muon import MuonAdamW
from nanochat.scaling import derive
from nanochat.stage import device_name, peak_memory

def parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add = parser.add_argument
    for flag, default in (("depth", 4), ("head-dim", 64), ("rows", 16), ("sequence-len", 256),
                          ("vocab-size", 3072), ("warmup", 3), ("steps", 12)):
        add(f"--{flag}", type=int, default=default)
    add("--window-pattern", default="L")
    add("--dtype", help="float32 or bfloat16; by default the faster one here")
    add("--compile", action="store_true")
    return parser

def main(args: argparse.Namespace) -> None:
    import torch
    keep_freed_memory()
    device = find_device()
    dtype = compute_dtype(device, args.dtype)
    plan = derive(args.depth, args.vocab_size, head_dim=args.head_dim, sequence_len=args.sequence_len,
                  window_pattern=args.window_pattern, batch_tokens=args.rows * args.sequence_len)
    model = GPT(plan.shape, dtype).init_weights().to(device)
    optimizer = MuonAdamW(model.param_roles(), plan.rates, plan.weight_decay)
    call = torch.compile(model, dynamic=False) if args.compile else model
    idx = torch.randint(0, args.vocab_size, (2, args.rows, args.sequence_len), device=device)
    sync = getattr(torch, device.type).synchronize
    times = []                                          # of a step, and of the optimizer in it
    for _ in range(args.warmup + args.steps):
        start = time.perf_counter()
        call(idx[0], idx[1]).backward()
        sync()
        middle = time.perf_counter()
        optimizer.step()
        optimizer.zero_grad()
        sync()
        end = time.perf_counter()
        times.append((end - start, end - middle))
    step, update = map(statistics.median, zip(*times[args.warmup:], strict=True))
    flops = plan.shape.flops_per_token() * plan.batch_tokens / step                     # per second
    name, memory = device_name(device), peak_memory(device)
    peak = peaks(name)
    print(json.dumps({
        "case": " ".join(sys.argv[1:]), "device": name, "dtype": str(dtype).split(".")[1],
        "depth": args.depth, "tokens_per_second": round(plan.batch_tokens / step),
        "step_ms": round(1e3 * step, 1), "first_step_s": round(times[0][0], 1),
        "optimizer_ms": round(1e3 * update, 1), "gflops": round(flops / 1e9),
        "mfu": round(flops / peak[0], 4) if peak else None, "peak_gib": round(memory / 2 ** 30, 2)}))

if __name__ == "__main__":
    main(parser().parse_args())
