"""How fast training steps are: a JSON line per case, medians of the turns after warm-up, and a table last.

    python -m dev.bench_train                           # depth 4 as runcpu.sh trains it
    python -m dev.bench_train --device cuda             # all cases of a GPU, in one call of under 8 minutes
    python -m dev.bench_train --depth 12 --head-dim 128 --sequence-len 2048 --vocab-size 32768 \\
        --window-pattern SSSL --variants compiled,blocks    # one size; --profile says where its time goes

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
from nanochat.scaling import Plan, derive
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
COLUMNS = ("depth", "variant", "rows", "tokens_per_second", "mfu", "step_ms", "optimizer_ms", "peak_gb",
           "estimated_gb", "first_step_s", "loss")

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
    add("--profile", action="store_true", help="print where a step of each variant spends its time, too")
    return parser

def main(args: argparse.Namespace) -> None:
    records = all_cases() if args.device == "cuda" and not args.variants else measure(args)
    print("  ".join(f"{name:>12}" for name in COLUMNS))
    for record in records:
        print("  ".join(f"{record[name]!s:>{max(12, len(name))}}" for name in COLUMNS))

def all_cases() -> list[dict]:
    """Each size in a process of its own, so that none finds another's memory."""
    lines, end = [], time.monotonic() + SECONDS
    for case in GPU_CASES:
        command = [sys.executable, "-m", "dev.bench_train", *GPU_SIZE, *case]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                output, _ = process.communicate(timeout=max(1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                output, _ = process.communicate()
                print(f"{' '.join(case)}: not done within {SECONDS} s of all", file=sys.stderr)
        lines += [line for line in output.splitlines() if line.startswith("{")]
        print(output, flush=True)
    return [json.loads(line) for line in lines]

class Variant:
    """One way to take a step, and what was measured of it."""
    def __init__(self, call: Callable, optimizer, batch):
        self.call, self.optimizer, self.batch, self.steps, self.updates = call, optimizer, batch, [], []

    def backward(self) -> None:
        loss = self.call(*self.batch, reduction="sum") / self.batch[1].numel()
        loss.backward()
        self.loss = loss.detach()

    def update(self) -> None:
        self.optimizer.step(ok=self.loss.isfinite())
        self.optimizer.zero_grad()

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self.backward()
            self.update()

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
    memory = torch.cuda.get_device_properties(device).total_memory if on_gpu else math.inf
    rows = args.rows or plan.shape.rows_that_fit(memory, max(1, (65536 if on_gpu else 4096) // T))
    model, names = GPT(plan.shape, dtype).init_weights().to(device), (args.variants or "eager").split(",")
    print(attention.choose(plan.shape, device, dtype), fp8.enable(model) if "fp8" in names else "")
    best, in_fp8 = attention.backend, [each for each in model.modules() if getattr(each, "float8", False)]
    def whole(x: torch.Tensor, y: torch.Tensor, reduction: str) -> torch.Tensor:
        return F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction=reduction)
    compiled = partial(torch.compile, dynamic=False, fullgraph=True)
    calls = dict.fromkeys(VARIANTS, compiled(model)) | {
        "eager": model, "whole-logits": compiled(whole),
        "autotuned": compiled(model, mode="max-autotune-no-cudagraphs")}
    plain, fast = (MuonAdamW(model.param_roles(), plan.rates, plan.weight_decay, dtype=dtype, compiled=each)
                   for each in (False, True))
    batch = torch.randint(0, args.vocab_size, (2, rows, T), device=device)
    variants = {name: Variant(calls[name], plain if name in ("eager", "plain-optimizer") else fast, batch)
                for name in names}
    def timed(work: Callable, *arguments) -> float:
        start = time.perf_counter()
        work(*arguments)
        getattr(torch, device.type).synchronize()
        return time.perf_counter() - start
    for turn, (name, variant) in product(range(args.rounds + 1), variants.items()):
        attention.backend = "blocks" if name == "blocks" else best
        for module in in_fp8:
            module.float8 = name == "fp8"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        if turn == 0:
            variant.first = timed(variant.train, 1)     # compiles
        else:
            variant.steps.append(timed(variant.train, args.steps) / args.steps)
        timed(variant.backward)
        variant.updates.append(timed(variant.update))
        variant.peak = peak_memory(device)
        if args.profile and turn == args.rounds:
            with torch.profiler.profile() as profile:
                timed(variant.train, 1)
            order = f"self_{'device' if on_gpu else 'cpu'}_time_total"
            print(profile.key_averages().table(order, row_limit=30, max_name_column_width=80))
    return [record(plan, name, rows, device, dtype, variant) for name, variant in variants.items()]

def record(plan: Plan, name: str, rows: int, device, dtype, variant: Variant) -> dict:
    shape, step, machine = plan.shape, statistics.median(variant.steps), device_name(device)
    *fixed, row = shape.memory(width=dtype.itemsize).values()
    flops, peak = shape.flops_per_token() * rows * shape.sequence_len / step, peaks(machine)    # per second
    made = {
        "device": machine, "dtype": str(dtype).split(".")[1], "depth": shape.n_layer, "variant": name,
        "rows": rows, "tokens_per_second": round(rows * shape.sequence_len / step),
        "mfu": round(flops / peak[0], 4) if peak else None, "gflops": round(flops / 1e9),
        "step_ms": round(1e3 * step, 1), "optimizer_ms": round(1e3 * statistics.median(variant.updates), 1),
        "peak_gb": round(variant.peak / 1e9, 2), "estimated_gb": round((sum(fixed) + rows * row) / 1e9, 2),
        "first_step_s": round(variant.first, 1), "loss": round(variant.loss.item(), 4)}
    print(json.dumps(made), flush=True)
    return made

if __name__ == "__main__":
    main(parser().parse_args())
