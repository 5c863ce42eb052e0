"""
All tasks by name, and the mixtures of their conversations that models learn from. Importing reads no data.

A file here defines TASKS, and REGISTRY is the only list of them all. A mixture says how many conversations of
each task are in it. --num-conversations changes the total and keeps the proportions; a task that has fewer
conversations than its share is gone through again.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from nanochat.common import die
from tasks import almanac, customjson
from tasks.common import Mixture, Part, Task, fingerprint, shares

REGISTRY = {task.name: task for task in almanac.TASKS}
MIXTURES = {
    "almanac-mid": {"almanac": 30_000},
    "almanac-sft": {"almanac": 10_000},
}
VALIDATION_CONVERSATIONS = 500


def find_tasks(names: str) -> list[Task]:
    """Tasks with questions by comma-separated names, all for an empty string. Dies on a name that is none."""
    known = {name: task for name, task in REGISTRY.items() if task.questions}
    wanted = [name for name in names.split(",") if name] or list(known)
    for name in wanted:
        if name not in known:
            die(f"no task with questions is called {name!r}", hint=f"--tasks takes: {', '.join(known)}")
    return [known[name] for name in wanted]


def mixture(name: str, split: str = "train", total: int | None = None, seed: int = 0,
            own: Sequence[Part] = ()) -> Mixture:
    """
    A mixture by name: `total` conversations of a split (default: as many as it says; zero or less is none),
    and your `own` on top. Dies on a name that is none.
    """
    if name not in MIXTURES:
        die(f"no mixture is called {name!r}", hint=f"--mixture takes: {', '.join(MIXTURES)}")
    recipe = MIXTURES[name]
    counts = recipe if total is None else shares(recipe, max(0, total))
    parts = [_part(REGISTRY[task], split, count, seed) for task, count in counts.items() if count]
    return Mixture([*parts, *own], seed)


def _part(task: Task, split: str, count: int, seed: int) -> Part:
    conversations = task.conversations(split, count, seed)
    if not conversations:
        die(f"task {task.name} has no conversations in its {split} split")
    return Part(f"{task.name}-{fingerprint(conversations)}", conversations, count)


def add_mixture_arguments(parser: argparse.ArgumentParser, default: str) -> None:
    """The flags of every stage that learns from conversations; `mixtures` reads them."""
    group = parser.add_argument_group("what to learn from")
    group.add_argument("--mixture", default=default, help=f"{' or '.join(MIXTURES)} (default: {default})")
    group.add_argument("--num-conversations", type=int,
                       help="of the mixture, in its proportions (default: as many as it says; 0 is none)")
    group.add_argument("--conversations", type=Path, metavar="FILE", help="a .jsonl file of your own, on top")
    group.add_argument("--repeat", type=int, default=1, help="how often your own conversations count")


def mixtures(args: argparse.Namespace, seed: int) -> tuple[Mixture, Mixture]:
    """What the flags ask for: conversations to train on, and some of the same tasks to validate on."""
    own = [customjson.part(args.conversations, args.repeat)] if args.conversations else []
    train = mixture(args.mixture, "train", args.num_conversations, seed, own)
    if not train:
        die(f"--num-conversations is {args.num_conversations}: nothing to learn from",
            hint="at least 1, or --conversations with a file of your own")
    return train, mixture(args.mixture, "val", VALIDATION_CONVERSATIONS, seed)
