"""
How much faster chat_eval asks its questions than one problem at a time would be, and whether the answers are
the same: one JSON line per task, and one for all.

    python dev/bench_eval.py                            # the newest model, the embedded almanac
    python dev/bench_eval.py --model-tag d4 --tasks arc-easy,mmlu,gsm8k --task-data DIR
One at a time is: for a question with letters, a forward pass of its prompt alone, with the logits of every
position and token; for a free answer, its prompt alone in the engine until it ends. Both ways are greedy, in
turns; seconds are medians of the rounds, after a few questions that warm up and do not count.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))   # nanochat is no installed package

from nanochat import checkpoint                         # isort: skip, nanochat goes before torch
import torch

from nanochat.common import keep_freed_memory, new_parser
from nanochat.dist import find_device
from nanochat.engine import Engine, SamplingParams
from nanochat.evals import ask
from tasks import add_data_arguments, find_questions


def parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("-i", "--stage", choices=checkpoint.STAGES, help="of the model (default: the most finished one)")
    add("--model-tag", help="model (default: the newest)")
    add("--tasks", default="almanac", help="names or groups, with commas (default: almanac)")
    add("--max-questions", type=int, default=300, help="per task (default: 300)")
    add("--max-tokens", type=int, help="of a free answer (default: what the task needs)")
    add("--batch-size", type=int, default=64, help="answers under way at once (default: 64)")
    add("--rounds", type=int, default=3)
    add("--device", help="cuda, mps or cpu (default: the best one here)")
    add("--dtype", default="float32", choices=("float32", "bfloat16"))
    add_data_arguments(parser)
    return parser


@torch.no_grad()
def one_at_a_time(engine: Engine, questions: list[dict], params: SamplingParams) -> list[str]:
    """`engine` runs one request at once."""
    replies = []
    for question in questions:
        if letters := question.get("letters"):
            prompt = engine.prompt(question["conversation"], SamplingParams(max_tokens=1))
            logits = engine.model(torch.tensor([prompt], device=engine.model.device))[0, -1]
            ids = [engine.tokenizer.encode(letter)[0] for letter in letters]
            replies.append(letters[int(logits[ids].argmax())])
        else:
            prompt = engine.prompt(question["conversation"], params)
            replies.append(engine.generate([prompt], params)[0].text)
    return replies


def together(engine: Engine, questions: list[dict], params: SamplingParams) -> list[str]:
    """As chat_eval does it; the judge's time is no part of either way."""
    return [reply for reply, in ask(engine, questions, lambda question, reply: True, params)[1]]


def compare(model, tokenizer, questions: list[dict], params: SamplingParams, args) -> dict:
    ways = {"one_at_a_time": (one_at_a_time, Engine(model, tokenizer, max_batch=1)),
            "together": (together, Engine(model, tokenizer, max_batch=args.batch_size))}
    seconds, replies = {name: [] for name in ways}, {}
    for turn in range(args.rounds + 1):
        asked = questions if turn else questions[:4]
        for name, (way, engine) in ways.items():
            start = time.perf_counter()
            replies[name] = way(engine, asked, params)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    equal = sum(a == b for a, b in zip(*replies.values(), strict=True)) / len(questions)
    return {name: statistics.median(each) for name, each in seconds.items()} | {"equal_answers": equal}


def line(facts: dict, result: dict) -> str:
    """Seconds rounded, and the speedup."""
    one, ours = result["one_at_a_time"], result["together"]
    return json.dumps(facts | {"one_at_a_time_s": round(one, 3), "together_s": round(ours, 3),
                               "speedup": round(one / ours, 2),
                               "equal_answers": round(result["equal_answers"], 4)})


def main(args: argparse.Namespace) -> None:
    keep_freed_memory()
    model, tokenizer, state = checkpoint.load_model(args.stage, args.model_tag, None, args.device, args.dtype)
    facts = {"model": f"{state['tag']} {state['stage']} {state['step']}", "dtype": args.dtype,
             "device": str(find_device(args.device)), "threads": torch.get_num_threads()}
    results = []
    for task, questions in find_questions(args, "test", args.max_questions):
        questions = list(questions)
        params = SamplingParams(0.0, max_tokens=args.max_tokens or task.max_tokens)
        results.append(compare(model, tokenizer, questions, params, args) | {"questions": len(questions)})
        print(line(facts | {"task": task.name, "questions": len(questions)}, results[-1]), flush=True)
    asked = sum(result["questions"] for result in results)
    total = {key: sum(result[key] for result in results) for key in ("one_at_a_time", "together")}
    total["equal_answers"] = sum(result["equal_answers"] * result["questions"] for result in results) / asked
    print(line(facts | {"task": "all", "questions": asked}, total), flush=True)


if __name__ == "__main__":
    main(parser().parse_args())
