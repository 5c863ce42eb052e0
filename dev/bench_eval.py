"""How much faster chat_eval and CORE are than asking one example at a time, and whether the answers are the
same: one JSON line per task, and one for all.

    python dev/bench_eval.py                            # the newest model, the embedded almanac
    python dev/bench_eval.py --model-tag d4 --tasks arc-easy,mmlu,gsm8k --task-data DIR
    python dev/bench_eval.py --core almanac --shots 10  # CORE instead, of a bundle; -i base
One at a time is: for a question with letters, a forward pass of its prompt alone, with the logits of every
position and token; for a free answer, its prompt alone in the engine until it ends; for CORE a forward pass
of an example's options as padded rows, with all logits. Both ways are greedy, in turns; seconds are medians
of the rounds, after a few questions that warm up and do not count."""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))   # nanochat is no installed package

from nanochat import checkpoint                         # isort: skip, nanochat goes before torch
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from nanochat.common import keep_freed_memory, new_parser
from nanochat.core_eval import CoreTask, Reader, ask_task, is_right, make_example, open_bundle, verdict
from nanochat.dist import find_device
from nanochat.engine import Engine, SamplingParams
from nanochat.evals import ask
from nanochat.gpt import rotary_tables
from tasks import add_data_arguments, find_questions

LONGEST = 8192                                          # tokens of a prompt of CORE


def parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("-i", "--stage", choices=checkpoint.STAGES, help="of the model (default: the most finished one)")
    add("--model-tag", help="model (default: the newest)")
    add("--tasks", default="almanac", help="names or groups, with commas (default: almanac)")
    add("--max-questions", type=int, default=300, help="per task (default: 300)")
    add("--core", metavar="BUNDLE", help="a folder or zip of CORE, or almanac, instead of --tasks")
    add("--shots", type=int, help="examples shown before each of CORE's (default: what the bundle says)")
    add("--rounds", type=int, default=3)
    add("--device", help="cuda, mps or cpu (default: the best one here)")
    add("--dtype", default="float32", choices=("float32", "bfloat16"))
    add_data_arguments(parser)
    return parser


@torch.no_grad()
def one_at_a_time(engine: Engine, questions: list[dict], params: SamplingParams) -> list[list[str]]:
    """The reply to each, in a list. `engine` runs one request at once."""
    replies = []
    for question in questions:
        if letters := question.get("letters"):
            prompt = engine.prompt(question["conversation"], SamplingParams(max_tokens=1))
            logits = engine.model(torch.tensor([prompt], device=engine.model.device))[0, -1]
            ids = [engine.tokenizer.encode(letter)[0] for letter in letters]
            replies.append([letters[int(logits[ids].argmax())]])
        else:
            prompt = engine.prompt(question["conversation"], params)
            replies.append([engine.generate([prompt], params)[0].text])
    return replies


@torch.no_grad()
def one_example_at_a_time(reader: Reader, task: CoreTask, indexes: range) -> list[bool]:
    rows, right = task.rows(), []
    for index in indexes:
        ids = [[reader.bos, *each] for each in reader.encode_batch(task.prompts(rows, index))]
        example = make_example(task.kind, ids, rows[index].get("gold", 0))
        idx = pad_sequence(list(map(torch.tensor, example.rows)), batch_first=True)
        logits = reader.model(idx.to(reader.device))[:, :-1].transpose(1, 2)             # (options, V, T - 1)
        told = zip(F.cross_entropy(logits, idx[:, 1:], reduction="none").tolist(),
                   (logits.argmax(1) == idx[:, 1:]).tolist(), example.rows, example.starts, strict=True)
        verdicts = [verdict(list(zip(losses, likeliest, strict=True))[start - 1:len(row) - 1])
                    for losses, likeliest, row, start in told]
        right.append(is_right(task.kind, example, verdicts))
    return right


def compare(ways: dict[str, Callable[[list], list]], asked: list, rounds: int) -> dict:
    """Seconds of each way, and how many answers are equal."""
    seconds, answers = {name: [] for name in ways}, {}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            answers[name] = way(asked if turn else asked[:4])
            if turn:
                seconds[name].append(time.perf_counter() - start)
    equal = sum(a == b for a, b in zip(*answers.values(), strict=True))
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    return medians | {"questions": len(asked), "equal": equal}


def line(facts: dict, result: dict) -> str:
    """Seconds rounded, and the speedup."""
    one, ours = result["one_at_a_time"], result["together"]
    return json.dumps(facts | {"questions": result["questions"], "one_at_a_time_s": round(one, 3),
                               "together_s": round(ours, 3), "speedup": round(one / ours, 2),
                               "equal_answers": round(result["equal"] / result["questions"], 4)})


def cases(args: argparse.Namespace, model, tokenizer):
    """(name of the task, the two ways, what to ask) of each."""
    if args.core:
        tables = rotary_tables(LONGEST, model.shape.head_dim, model.dtype)      # for rows of any length
        model.cos, model.sin = (table.to(model.device) for table in tables)
        reader = Reader(model, tokenizer)
        for task in open_bundle(args.core, None).tasks:
            task = task if args.shots is None else replace(task, shots=args.shots)
            ways = {"one_at_a_time": partial(one_example_at_a_time, reader, task),
                    "together": lambda indexes, task=task: ask_task(reader, task, len(indexes))[0]}
            yield task.label, ways, range(min(args.max_questions, len(task.rows())))
        return
    one, batch = Engine(model, tokenizer, max_batch=1), Engine(model, tokenizer)
    for task, questions in find_questions(args, "test", args.max_questions):
        params = SamplingParams(0.0, max_tokens=task.max_tokens)
        # the judge's time is no part of either way
        ways = {"one_at_a_time": partial(one_at_a_time, one, params=params),
                "together": lambda asked, params=params: ask(batch, asked, lambda *_: True, params)[1]}
        yield task.name, ways, list(questions)


def main(args: argparse.Namespace) -> None:
    keep_freed_memory()
    model, tokenizer, state = checkpoint.load_model(args.stage, args.model_tag, None, args.device, args.dtype)
    facts = {"model": f"{state['tag']} {state['stage']} {state['step']}", "dtype": args.dtype,
             "device": str(find_device(args.device)), "threads": torch.get_num_threads()}
    results = []
    for name, ways, asked in cases(args, model, tokenizer):
        results.append(compare(ways, asked, args.rounds))
        print(line(facts | {"task": name}, results[-1]), flush=True)
    print(line(facts | {"task": "all"}, {key: sum(result[key] for result in results) for key in results[0]}))


if __name__ == "__main__":
    main(parser().parse_args())
