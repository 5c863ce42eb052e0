"""How fast training steps are: a JSON line per case, medians of the turns after warm-up, and a table last.

    python -m dev.bench_train                           # depth 4 as runcpu.sh trains it
    python -m dev.bench_train --device cuda             # all cases of a GPU, in one call of under 8 minutes
    python -m dev.bench_train --depth 12 --head-dim 128 --sequence-len 2048 --vocab-size 32768 \\
        --window-pattern SSSL --variants compiled,blocks

Variants of a size share weights and batch and take turns, so that what else the machine does hits all alike.
MFU counts the FLOPs of scaling.Shape and the peak in bf16; memory stands beside its estimate."""
import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from nanochat.common import compute_dtype, keep_freed_memory, new_parser
from nanochat.dist import find_device
from nanochat.hardware import peaks
from nanochat.scaling import derive
from nanochat.stage import device_name, peak_memory

VARIANTS = {"eager": "as a CPU trains", "compiled": "as a GPU trains", "fp8": "its matrices in float8",
            "blocks": "its windows by masked blocks", "whole-logits": "its loss from all logits at once",
            "plain-optimizer": "its optimizer eager", "autotuned": "its matmuls by max-autotune"}
GPU_SIZE = ("--device=cuda", "--head-dim=128", "--sequence-len=2048", "--vocab-size=32768",
            "--window-pattern=SSSL", "--rounds=5", "--steps=10")
GPU_CASES = (("--depth=12", "--rows=32", "--variants=compiled,whole-logits"),
             ("--depth=20", "--variants=compiled"), ("--depth=24", "--variants=compiled,fp8"),
             ("--depth=12", "--rows=32", "--variants=compiled,blocks,plain-optimizer,autotuned"))
SECONDS = 460                   # for all of them: what is not done by then is left out

def parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add = parser.add_argument
    for flag, default in (("depth", 4), ("head-dim", 64), ("sequence-len", 256), ("vocab-size", 3072),
                          ("rounds", 3), ("steps", 5)):
        add(f"--{flag}", type=int, default=default)
    add("--rows", type=int, help="of the batch (default: 4,096 tokens; on a GPU 65,536, if they fit)")
    add("--window-pattern", default="L")
    add("--variants", help="which of " + "; ".join(f"{name}: {what}" for name, what in VARIANTS.items()))
    add("--device", help="cuda, mps or cpu (default: the best one here)")
    add("--dtype", help="float32 or bfloat16 (default: the faster one here)")
    return parser

def main(args: argparse.Namespace) -> None:
    records = all_cases() if args.device == "cuda" and not args.variants else measure(args)
    for row in [list(records[0]), *(record.values() for record in records)] if records else []:
        print("  ".join(f"{value!s:>12}" for value in row))

def all_cases() -> list[dict]:
    """Each size in a process of its own, so that none finds another's memory."""
    records, end = [], time.monotonic() + SECONDS
    for case in GPU_CASES:
        command = [sys.executable, "-m", "dev.bench_train", *GPU_SIZE, *case]
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=end - time.monotonic())
            print(done.stdout, flush=True)
            records += [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        except subprocess.TimeoutExpired:
            print(f"{' '.join(case)}: not within {SECONDS} s of all", file=sys.stderr)
    return records

def measure(args: argparse.Namespace) -> list[dict]:
    """A record per variant, printed when all have had their turns."""
    import torch
    from torch.nn import functional as F
    from nanochat import attention, fp8
    from nanochat.gpt import GPT
    from nanochat.muon import MuonAdamW
    keep_freed_memory()
    device, T = find_device(args.device), args.sequence_len
    dtype, on_gpu = compute_dtype(device, args.dtype), device.type == "cuda"
    plan = derive(args.depth, args.vocab_size, head_dim=args.head_dim, sequence_len=T,
                  window_pattern=args.window_pattern)
    shape, names, found = plan.shape, (args.variants or "eager").split(","), {}
    memory = torch.cuda.get_device_properties(device).total_memory if on_gpu else math.inf
    rows = args.rows or shape.rows_that_fit(memory, max(1, (65536 if on_gpu else 4096) // T))
    model = GPT(shape, dtype).init_weights().to(device)
    print(attention.choose(shape, device, dtype), fp8.enable(model) if "fp8" in names else "", sep="\n")
    best, in_fp8 = attention.backend, [each for each in model.modules() if getattr(each, "float8", False)]
    def whole(x: torch.Tensor, y: torch.Tensor, reduction: str) -> torch.Tensor:
        return F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction=reduction)
    compiled = partial(torch.compile, dynamic=False, fullgraph=True)
    losses = dict.fromkeys(VARIANTS, compiled(model)) | {
        "eager": model, "whole-logits": compiled(whole),
        "autotuned": compiled(model, mode="max-autotune-no-cudagraphs")}
    plain, fast = (MuonAdamW(model.param_roles(), plan.rates, plan.weight_decay, dtype=dtype, compiled=each)
                   for each in (False, True))
    batch = torch.randint(0, args.vocab_size, (2, rows, T), device=device)
    def backward(loss_of: Callable) -> torch.Tensor:
        loss = loss_of(*batch, reduction="sum") / batch[1].numel()
        loss.backward()
        return loss.detach()
    def update(optimizer: MuonAdamW, loss: torch.Tensor) -> None:
        optimizer.step(ok=loss.isfinite())
        optimizer.zero_grad()
    def timed(work: Callable, times: int = 1) -> float:
        start = time.perf_counter()
        for _ in range(times):
            work()
        getattr(torch, device.type).synchronize()
        return (time.perf_counter() - start) / times
    for turn, name in product(range(args.rounds + 1), names):           # the first turns compile
        attention.backend = "blocks" if name == "blocks" else best
        for module in in_fp8:
            module.float8 = name == "fp8"
        loss_of, optimizer = losses[name], plain if name in ("eager", "plain-optimizer") else fast
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        step = timed(lambda o=optimizer, f=loss_of: update(o, backward(f)), args.steps if turn else 1)
        loss = backward(loss_of)
        timed(loss.item)
        times = step, timed(partial(update, optimizer, loss)), peak_memory(device), loss.item()
        found.setdefault(name, []).append(times)
    *fixed, row = shape.memory(width=dtype.itemsize).values()
    machine, records = device_name(device), []
    for name, ((first, *_), *turns) in found.items():
        step, updating, peak, loss = map(statistics.median, zip(*turns, strict=True))
        flops = shape.flops_per_token() * rows * T / step               # per second
        records.append({
            "depth": args.depth, "variant": name, "rows": rows, "tok_s": round(rows * T / step),
            "mfu": round(flops / peaks(machine)[0], 4) if peaks(machine) else None,
            "gflops": round(flops / 1e9), "step_ms": round(1e3 * step, 1),
            "optimizer_ms": round(1e3 * updating, 1), "peak_gb": round(peak / 1e9, 2),
            "estimated_gb": round((sum(fixed) + rows * row) / 1e9, 2), "first_step_s": round(first, 1),
            "loss": round(loss, 4), "dtype": str(dtype).split(".")[1], "device": machine})
        print(json.dumps(records[-1]), flush=True)
    return records

if __name__ == "__main__":
    main(parser().parse_args())
