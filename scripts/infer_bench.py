"""How fast the engine answers, alone or in turns with a checkout of the reference: one JSON line per case,
medians of the rounds.

    python -m scripts.infer_bench                       # random weights of depth 4, as runcpu.sh has them
    python -m scripts.infer_bench --depth 12 --vocab-size 32768 --head-dim 128 --sequence-len 2048
    python -m scripts.infer_bench --reference ../karpathy-nanochat --vocab-size 32768 --sequence-len 1024

A case is a number of answers at once to one prompt, or to as many prompts of different lengths. Each side is
a process of its own, so that neither the allocators nor the packages' names meet."""
import argparse
import json
import os
import random
import statistics
import sys
import time
import timeit
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from nanochat.common import compute_dtype, keep_freed_memory, new_parser
from nanochat.dist import find_device
from nanochat.hardware import peaks
from nanochat.scaling import Shape, make_shape
from nanochat.tokenizer import SPECIAL_TOKENS, Tokenizer

Run = Callable[[list[list[int]], int], Iterator[int]]   # prompts, tokens to draw -> those after each step

def parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add = parser.add_argument
    for flag, default in (("depth", 4), ("head-dim", 64), ("vocab-size", 3072), ("sequence-len", 512),
                          ("prompt-tokens", 256), ("decode-tokens", 64), ("rounds", 5)):
        add(f"--{flag}", type=int, default=default)
    add("--batch-sizes", default="1,4,16,64")
    add("--reference", type=Path, metavar="DIR", help="a checkout of karpathy/nanochat, measured in turns")
    return parser

@cache
def our_side(shape: Shape, device, dtype) -> Run:
    from nanochat.engine import Engine, SamplingParams
    from nanochat.gpt import GPT
    keep_freed_memory()
    model = GPT(shape, dtype).init_weights().to(device)
    model.unembedding.data[-len(SPECIAL_TOKENS):] = 0   # no special is the likeliest: all answers are long
    ordinary = range(256, shape.vocab_size - len(SPECIAL_TOKENS))
    engine = Engine(model, Tokenizer([bytes([i]) for i in range(256)] + [i.to_bytes(3) for i in ordinary]))
    def run(prompts: list[list[int]], tokens: int) -> Iterator[int]:
        requests = [engine.submit(prompt, SamplingParams(0, max_tokens=tokens)) for prompt in prompts]
        while engine.busy:
            engine.step()
            yield sum(len(request.ids) for request in requests)
    return run

@cache
def reference_side(checkout: Path, vocab_size: int, sizes: tuple, device) -> Run:
    """Its arguments are plain values: none of ours can be imported in this process afterwards."""
    for name in [name for name in sys.modules if name.split(".")[0] == "nanochat"]:
        del sys.modules[name]                           # ours; theirs has the same name
    sys.path.insert(0, str(checkout.resolve()))
    from nanochat.engine import Engine
    from nanochat.gpt import GPT, GPTConfig
    model = GPT(GPTConfig(*sizes))
    model.init_weights()
    model.to(device).lm_head.weight.data[-len(SPECIAL_TOKENS):] = 0
    specials = {name: vocab_size - len(SPECIAL_TOKENS) + i for i, name in enumerate(SPECIAL_TOKENS)}
    names = SimpleNamespace(encode_special=specials.get, get_bos_token_id=lambda: specials["<|bos|>"])
    def run(prompts: list[list[int]], tokens: int) -> Iterator[int]:
        columns = Engine(model, names).generate(prompts[0], len(prompts), tokens, temperature=0)
        for step, _ in enumerate(columns, 1):
            yield step * len(prompts)
    return run

def cases(args: argparse.Namespace) -> dict[str, list[list[int]]]:
    dice, longest = random.Random(0), args.prompt_tokens
    one = [dice.randrange(args.vocab_size - len(SPECIAL_TOKENS)) for _ in range(longest)]
    batches = {f"batch {rows}": [one] * int(rows) for rows in args.batch_sizes.split(",")}
    return batches | {"16 different": [one[row:row + longest * (row + 8) // 24] for row in range(16)]}

def measure(side: Callable[[], Run], prompts: list[list[int]], tokens: int, device) -> dict[str, float]:
    """Milliseconds to the first token and between later ones; tokens per second of these, and in all."""
    import torch
    run = side()
    times, drawn = [time.perf_counter()], [0]
    for count in run(prompts, tokens):
        getattr(torch, device.type).synchronize()
        times.append(time.perf_counter())
        drawn.append(count)
    first = drawn.index(next(filter(None, drawn)))
    later = [b - a for a, b in zip(times[first:-1], times[first + 1:], strict=True)]
    return {"first_token_ms": 1e3 * (times[first] - times[0]),
            "inter_token_ms": 1e3 * statistics.median(later),
            "decode_tok_s": (drawn[-1] - drawn[first]) / (times[-1] - times[first]),
            "all_tok_s": drawn[-1] / (times[-1] - times[0])}

def bandwidth(device) -> float:
    """Bytes per second that memory can be read with: the data sheet's, or of a CPU the best of some sums."""
    import torch
    if device.type == "cuda" and (known := peaks(torch.cuda.get_device_name())):
        return known[1]
    numbers = torch.ones(2 ** 26, device=device)
    return numbers.nbytes / min(timeit.repeat(lambda: numbers.sum().item(), number=1, repeat=8))

def main(args: argparse.Namespace) -> None:
    device = find_device()
    dtype = compute_dtype(device)
    shape = make_shape(args.depth, args.vocab_size, head_dim=args.head_dim, sequence_len=args.sequence_len,
                       window_pattern="L")
    setting, peak = {"device": device.type, "dtype": str(dtype)[6:], **vars(shape)}, bandwidth(device)
    os.environ["NANOCHAT_DTYPE"] = setting["dtype"]     # the reference heeds it
    sides = {"ours": partial(our_side, shape, device, dtype)}
    if args.reference:
        sizes = (shape.sequence_len, shape.vocab_size, shape.n_layer, shape.n_head, shape.n_kv_head,
                 shape.n_embd, shape.window_pattern)
        sides["reference"] = partial(reference_side, args.reference, shape.vocab_size, sizes, device)
    processes = {side: ProcessPoolExecutor(1, get_context("spawn")) for side in sides}
    for label, prompts in cases(args).items():
        rounds = {side: [] for side in sides if side == "ours" or "different" not in label}
        for _ in range(args.rounds + 1):                # in turns; the first warms up
            for side, found in rounds.items():
                job = processes[side].submit(measure, sides[side], prompts, args.decode_tokens, device)
                found.append(job.result())
        ours, *theirs = ({key: statistics.median(each[key] for each in found[1:]) for key in found[0]}
                         for found in rounds.values())
        # a step reads every matrix once, and the keys and values of half of an answer and its prompt
        lengths = [len(prompt) + args.decode_tokens // 2 for prompt in prompts]
        seen = sum(min(window + 1, length) for window in shape.windows for length in lengths)
        read = dtype.itemsize * (shape.scaling_params() + 2 * shape.n_kv_head * shape.head_dim * seen)
        line = {"case": label, **setting, **ours,
                "share_of_bandwidth": read / ours["inter_token_ms"] * 1e3 / peak}
        for other in theirs:
            line |= {f"reference_{key}": value for key, value in other.items()}
            line |= {"times_first_token": other["first_token_ms"] / ours["first_token_ms"],
                     "times_decode": ours["decode_tok_s"] / other["decode_tok_s"]}
        print(json.dumps({key: round(value, 3) if isinstance(value, float) else value
                          for key, value in line.items()}), flush=True)

if __name__ == "__main__":
    main(parser().parse_args())
