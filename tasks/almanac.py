"""
The embedded almanac as tasks: "almanac" is its conversations, each of several turns of all kinds; the others
are its held-out questions, one task per kind. No training text has their families of frames, their pairs of
numbers, their words to spell, or their names of things unknown.
"""

from functools import partial
from itertools import islice

from nanochat import almanac
from tasks.common import Task


def conversations(split: str, most: int, seed: int) -> list[dict]:
    """`most` conversations of the "train" or "val" split; another seed makes others."""
    return list(islice(almanac.conversations(seed, split), most))


def _questions(kind: str) -> Task:
    return Task(f"almanac-{kind}", questions=partial(almanac.questions, kind), judge=almanac.is_correct,
                chance=0.25 if kind == "choice" else 0.0)


TASKS = (Task("almanac", conversations=conversations), *map(_questions, almanac.KINDS))
