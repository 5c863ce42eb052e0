"""How fast the engine answers, alone or in turns with a checkout of the reference: one JSON line per case,
medians of the rounds.

    python -m scripts.infer_bench                       # random weights of depth 4, as runcpu.sh has them
    python -m scripts.infer_bench --depth 12 --vocab-size 32768 --head-dim 128 --sequence-len 2048
    python -m scripts.infer_bench --reference ../karpathy-nanochat --vocab-size 32768 --sequence-len 1024

A case is a number of answers at once to one prompt, or to as many prompts of different lengths. Each side is
a process of its own, so that neither the allocator nor the names of the packages meet."""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from nanochat.common import DTYPES, new_parser


def parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add = parser.add_argument
    for flag, default in (("depth", 4), ("head-dim", 64), ("vocab-size", 3072), ("sequence-len", 512),
                          ("prompt-tokens", 256), ("decode-tokens", 64), ("rounds", 5)):
        add(f"--{flag}", type=int, default=default)
    add("--window-pattern", default="L")
    add("--batch-sizes", default="1,4,16,64")
    add("--temperature", type=float, default=0.0)
    add("--device", help="cuda, mps or cpu (default: the best one here)")
    add("--dtype", choices=DTYPES, help="default: the faster one here")
    add("--reference", type=Path, metavar="DIR", help="a checkout of karpathy/nanochat, measured in turns")
    add("--side", choices=("ours", "reference"), help=argparse.SUPPRESS)
    return parser


def our_side(args: argparse.Namespace) -> Callable[[list[list[int]], int], Iterator[int]]:
    """(prompts, tokens to draw) -> how many tokens every step has drawn."""
    import torch

    from nanochat.common import compute_dtype, keep_freed_memory
    from nanochat.dist import find_device
    from nanochat.engine import Engine, SamplingParams
    from nanochat.gpt import GPT
    from nanochat.scaling import make_shape
    from nanochat.tokenizer import SPECIAL_TOKENS, Tokenizer
    keep_freed_memory()
    device = find_device(args.device)
    shape = make_shape(args.depth, args.vocab_size, head_dim=args.head_dim, sequence_len=args.sequence_len,
                       window_pattern=args.window_pattern)
    model = GPT(shape, compute_dtype(device, args.dtype)).init_weights().to(device).requires_grad_(False)
    never_end(torch, model.unembedding, args.vocab_size)
    ordinary = range(256, args.vocab_size - len(SPECIAL_TOKENS))
    tokenizer = Tokenizer([bytes([i]) for i in range(256)] + [i.to_bytes(3) for i in ordinary])
    engine = Engine(model, tokenizer, max_batch=64)

    def run(prompts: list[list[int]], tokens: int) -> Iterator[int]:
        requests = [engine.submit(prompt, SamplingParams(args.temperature, max_tokens=tokens))
                    for prompt in prompts]
        before = 0
        while engine.busy:
            engine.step()
            drawn = sum(len(request.ids) for request in requests)
            yield drawn - before
            before = drawn

    return run


def reference_side(args: argparse.Namespace) -> Callable[[list[list[int]], int], Iterator[int]]:
    from nanochat.tokenizer import SPECIAL_TOKENS
    for name in [name for name in sys.modules if name.split(".")[0] == "nanochat"]:
        del sys.modules[name]                           # ours; theirs has the same name
    sys.path.insert(0, str(args.reference.resolve()))
    import torch

    from nanochat.engine import Engine
    from nanochat.gpt import GPT, GPTConfig
    width = -(-args.depth * 64 // args.head_dim) * args.head_dim
    heads = width // args.head_dim
    model = GPT(GPTConfig(args.sequence_len, args.vocab_size, args.depth, heads, heads, width,
                          args.window_pattern))
    model.init_weights()
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).requires_grad_(False)
    never_end(torch, model.lm_head.weight, args.vocab_size)

    class Names:                                        # of specials alone: no text is decoded
        def encode_special(self, name: str) -> int:
            return args.vocab_size - len(SPECIAL_TOKENS) + SPECIAL_TOKENS.index(name)

        def get_bos_token_id(self) -> int:
            return self.encode_special("<|bos|>")

    def run(prompts: list[list[int]], tokens: int) -> Iterator[int]:
        for column, _ in Engine(model, Names()).generate(prompts[0], len(prompts), tokens, args.temperature):
            yield len(column)

    return run


def never_end(torch, head, vocab_size: int) -> None:
    """Random weights that no special token wins with: all answers are as long as they may be."""
    with torch.no_grad():
        head[vocab_size - 9:] = 0


def serve(args: argparse.Namespace) -> None:
    """A case a line on standard input, its times as a line on standard output."""
    import torch
    run = (our_side if args.side == "ours" else reference_side)(args)
    for line in sys.stdin:
        case, times, drawn = json.loads(line), [time.perf_counter()], []
        for count in run(case["prompts"], case["tokens"]):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            drawn.append(count)
            times.append(time.perf_counter())
        print(json.dumps({"times": times, "drawn": drawn}), flush=True)


def figures(case: dict, answer: dict) -> dict[str, float]:
    """Milliseconds to the first token and between later ones; tokens per second of these, and in all."""
    times, drawn = answer["times"], answer["drawn"]
    first = next(step for step, count in enumerate(drawn) if count) + 1
    later = [b - a for a, b in zip(times[first:-1], times[first + 1:], strict=True)]
    return {"first_token_ms": 1e3 * (times[first] - times[0]),
            "inter_token_ms": 1e3 * statistics.median(later),
            "decode_tok_s": sum(drawn[first:]) / (times[-1] - times[first]),
            "all_tok_s": sum(drawn) / (times[-1] - times[0])}


def cases(args: argparse.Namespace) -> Iterator[tuple[str, dict]]:
    dice = random.Random(0)

    def prompt(length: int) -> list[int]:
        return [dice.randrange(args.vocab_size - 9) for _ in range(length)]

    yield "prefill", {"prompts": [prompt(args.prompt_tokens)], "tokens": 2}
    for rows in map(int, args.batch_sizes.split(",")):
        one = prompt(args.prompt_tokens)
        yield f"batch {rows}", {"prompts": [one] * rows, "tokens": args.decode_tokens}
    lengths = [args.prompt_tokens * (row + 8) // 24 for row in range(16)]       # a third to nearly all of it
    yield "16 different", {"prompts": [prompt(length) for length in lengths], "tokens": args.decode_tokens}


def bytes_per_step(args: argparse.Namespace, case: dict, wide: int) -> int:
    """What a step of decoding has to read: every matrix and the head once, and what attention looks at when
    half of the answer is there; `wide` bytes a number."""
    from nanochat.scaling import make_shape
    shape = make_shape(args.depth, args.vocab_size, head_dim=args.head_dim, sequence_len=args.sequence_len,
                       window_pattern=args.window_pattern)
    lengths = [len(prompt) + case["tokens"] // 2 for prompt in case["prompts"]]
    seen = sum(min(window + 1, length) for window in shape.windows for length in lengths)
    return wide * (shape.scaling_params() + 2 * shape.n_kv_head * shape.head_dim * seen)


def bandwidth(torch, name: str) -> float:
    """Bytes per second that memory can be read with: the data sheet's, or of a CPU the best of some sums."""
    from nanochat.hardware import peaks
    if peaks(name):
        return peaks(name)[1]
    numbers, times = torch.ones(2 ** 26), []
    for _ in range(8):
        start = time.perf_counter()
        numbers.sum()
        times.append(time.perf_counter() - start)
    return 4 * len(numbers) / min(times)


def main(args: argparse.Namespace) -> None:
    if args.side:
        return serve(args)
    import torch

    from nanochat.common import compute_dtype
    from nanochat.dist import find_device
    device = find_device(args.device)
    dtype = compute_dtype(device, args.dtype)
    name = torch.cuda.get_device_name() if device.type == "cuda" else device.type
    setting = {"device": name, "dtype": str(dtype).removeprefix("torch."), "depth": args.depth,
               "vocab_size": args.vocab_size, "prompt_tokens": args.prompt_tokens}
    peak, env = bandwidth(torch, name), os.environ | {"NANOCHAT_DTYPE": setting["dtype"]}
    command = [sys.executable, "-m", "scripts.infer_bench", *sys.argv[1:], "--side"]
    start = partial(subprocess.Popen, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
    names = ["ours", "reference"] if args.reference else ["ours"]
    sides = {side: start([*command, side]) for side in names}
    for label, case in cases(args):
        rounds = {side: [] for side in sides if side == "ours" or label != "16 different"}
        for _ in range(args.rounds + 1):                # in turns
            for side, found in rounds.items():
                print(json.dumps(case), file=sides[side].stdin, flush=True)
                found.append(figures(case, json.loads(sides[side].stdout.readline())))
        ours, *theirs = ({key: statistics.median(each[key] for each in found[1:]) for key in found[0]}
                         for found in rounds.values())                          # the first warms up
        read = bytes_per_step(args, case, dtype.itemsize) / ours["inter_token_ms"] * 1e3
        line = {"case": label, **setting, **ours, "share_of_bandwidth": read / peak}
        for other in theirs:
            line |= {f"reference_{key}": value for key, value in other.items()}
            line |= {"times_first_token": other["first_token_ms"] / ours["first_token_ms"],
                     "times_decode": ours["decode_tok_s"] / other["decode_tok_s"]}
        print(json.dumps({key: round(value, 3) if isinstance(value, float) else value
                          for key, value in line.items()}), flush=True)
    for side in sides.values():
        side.communicate()


if __name__ == "__main__":
    main(parser().parse_args())
