"""The embedded almanac as tasks: "almanac" is its conversations, each of several turns of all kinds; the
others are its questions, one task per kind. No training text has the families of frames, the pairs of
numbers, the words to spell, or the names of things unknown of those for tests."""
from functools import partial
from itertools import islice
from pathlib import Path
from nanochat import almanac
from tasks.common import USUAL, Task

def conversations(split: str, most: int | None, seed: int, data: Path | None = None) -> list[dict]:
    """`most` conversations of the "train" or "val" split; another seed makes others."""
    return list(islice(almanac.conversations(seed, split), USUAL if most is None else most))

def _questions(kind: str, split: str, most: int | None, seed: int, data: Path | None = None) -> list[dict]:
    return almanac.questions(kind, USUAL if most is None else most, seed, split)

TASKS = (Task("almanac", conversations=conversations),
         *(Task(f"almanac-{kind}", questions=partial(_questions, kind), judge=almanac.is_correct,
                chance=0.25 if kind == "choice" else 0.0) for kind in almanac.KINDS))
