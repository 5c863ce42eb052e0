"""All tasks by name, and the mixtures of their conversations that models learn from. Importing reads no data.

A file here defines TASKS, and REGISTRY is the only list of them all. A mixture is a recipe: tasks with a plus
between them, each once through (`gsm8k`), several times (`gsm8k*2`), or a number of conversations
(`smoltalk=10000`, gone through again where there are fewer). --num-conversations changes the total and keeps
the proportions."""
import argparse
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from nanochat.common import die, require_positive
from tasks import almanac, arc, customjson, gsm8k, humaneval, mmlu, smoltalk, spellingbee
from tasks.common import Missing, Part, Task, TaskMixture

FILES = (almanac, arc, mmlu, gsm8k, humaneval, smoltalk, spellingbee)
REGISTRY = {task.name: task for file in FILES for task in file.TASKS}
MIXTURES = {
    "almanac-mid": "almanac=30000",
    "almanac-sft": "almanac=10000",
    # those of the reference's first release; its thousand conversations on who it is come by --conversations
    "web-mid": "smoltalk + mmlu + gsm8k + simplespelling=200000 + spellingbee=80000",
    "web-sft": "arc-easy + arc-challenge + gsm8k + smoltalk=10000 + simplespelling=300 + spellingbee=300",
}
GROUPS = {"almanac": tuple(task.name for task in almanac.TASKS if task.questions),
          "chatcore": ("arc-easy", "arc-challenge", "mmlu", "gsm8k", "humaneval", "spellingbee")}
VALIDATION_CONVERSATIONS = 500
REMEDY = "--task-data=DIR reads it from a folder, --allow-missing goes on without it"

_INGREDIENT = re.compile(r"(?P<task>[\w-]+)(?:=(?P<count>\d+)|\*(?P<epochs>\d+))?")

def find_tasks(names: str) -> list[Task]:
    """Tasks with questions by comma-separated names of tasks or groups. Dies on a name that is none."""
    known = {name: task for name, task in REGISTRY.items() if task.questions}
    asked = [one for name in map(str.strip, names.split(",")) for one in GROUPS.get(name, [name])]
    if unknown := [name for name in asked if name not in known]:
        die(f"no task with questions is called {unknown[0]!r}", f"there are {', '.join([*GROUPS, *known])}")
    return [known[name] for name in dict.fromkeys(asked)]

def find_questions(args: argparse.Namespace, split: str, most: int | None) -> list[tuple[Task, Sequence]]:
    """Tasks of --tasks with their questions. Dies without the data of one, or says so (--allow-missing)."""
    found = []
    for task in find_tasks(args.tasks):
        try:
            found.append((task, task.questions(split, most, 0, args.task_data)))
        except Missing as problem:
            if not args.allow_missing:
                die(f"task {task.name}: {problem}", hint=REMEDY)
            print(f"without {task.name}: {problem}", file=sys.stderr)
    if not any(questions for _, questions in found):
        die(f"no questions of {args.tasks} in the {split} split")
    return found

def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of everything that reads sets of the hub."""
    add = parser.add_argument_group("task data").add_argument
    add("--task-data", type=Path, metavar="DIR",
        help="read the hub's sets from DIR/<set>/<config>/<split>*.parquet, not from the hub")
    add("--allow-missing", action="store_true", help="go on without the tasks whose data cannot be had")

def add_mixture_arguments(parser: argparse.ArgumentParser, default: str) -> None:
    """The flags of every stage that learns from conversations; `mixtures` reads them."""
    add, recipe = parser.add_argument_group("what to learn from").add_argument, "gsm8k*2 + smoltalk=10000"
    add("--mixture", default=default, help=f"{', '.join(MIXTURES)}, or as '{recipe}' ({default})")
    add("--num-conversations", type=int, help="of the mixture, in its proportions (as many as it says)")
    add("--conversations", type=Path, metavar="FILE", help="a .jsonl file of your own, on top")
    add("--repeat", type=int, default=1, help="how often your own conversations count")
    add_data_arguments(parser)

def mixtures(args: argparse.Namespace, seed: int) -> tuple[TaskMixture, TaskMixture]:
    """What the flags ask for: conversations to train on, and some of the same tasks to validate on."""
    require_positive(args, "repeat")
    own = [customjson.part(args.conversations, args.repeat)] if args.conversations else []
    made = partial(mixture, args.mixture, seed=seed, data=args.task_data, allow_missing=args.allow_missing)
    train = made("train", args.num_conversations, own=own)
    val = made("val", VALIDATION_CONVERSATIONS)
    for use, found in (("learn from", train), ("validate on", val)):
        if not found:
            die(f"nothing to {use}: the mixture is {found.identity}", "another --mixture, or more of it")
    return train, val

def mixture(recipe: str, split: str = "train", total: int | None = None, seed: int = 0,
            own: Sequence[Part] = (), data: Path | None = None, allow_missing: bool = False) -> TaskMixture:
    """A mixture by name or recipe: about `total` conversations of a split, in its proportions (default: as
    many as it says; zero or less is none), and your `own` on top. Dies on a recipe that is none, and where
    the data of a task cannot be had unless `allow_missing`; `identity` then names what is missing."""
    counts, missing, parts = {}, "", []
    for match in [_ingredient(item.strip()) for item in MIXTURES.get(recipe, recipe).split("+")]:
        read, epochs = REGISTRY[match["task"]].conversations, int(match["epochs"] or 1)
        try:                                            # validation has the proportions of training
            read(split, 1, seed, data)                  # but is this split there, too?
            counts[match] = int(match["count"] or len(read("train", None, seed, data)) * epochs)
        except Missing as problem:
            if not allow_missing:
                die(f"task {match['task']}: {problem}", hint=REMEDY)
            missing += f"; without {match['task']}: {problem}"
    if total is not None:
        whole = max(1, sum(counts.values()))
        counts = {match: round(max(0, total) * count / whole) for match, count in counts.items()}
    for match in filter(counts.get, counts):
        found = REGISTRY[match["task"]].conversations(split, counts[match], seed, data)
        parts.append(Part(match["task"], found, counts[match]))
    made = TaskMixture([*parts, *own], seed)
    made.identity += missing
    return made

def _ingredient(text: str) -> re.Match:
    taught = [name for name, task in REGISTRY.items() if task.conversations]
    match = _INGREDIENT.fullmatch(text)
    if not match or match["task"] not in taught:
        die(f"{text!r} is no mixture and no task to learn from",
            hint=f"--mixture takes: {', '.join(MIXTURES)}, or a recipe of {', '.join(taught)}")
    return match
