"""
ARC, the AI2 Reasoning Challenge (arXiv 1803.05457): questions of school science with three to five choices,
those that simple methods get right ("arc-easy") and those they do not ("arc-challenge").
"""

from functools import partial
from pathlib import Path

from tasks.common import Rows, Task, answered, choice_question, hub_rows, names_letter, some

SPLITS = {"train": "train", "val": "validation", "test": "test"}


def _question(row: dict) -> dict:
    """Its letters are the row's own labels, which are digits in some."""
    return choice_question(row["question"], row["choices"]["label"], row["choices"]["text"], row["answerKey"])


def _conversation(row: dict) -> dict:
    return answered(_question(row), row["answerKey"])


def _read(config: str, convert, split: str, most: int | None, seed: int, data: Path | None = None) -> Rows:
    return some(hub_rows("allenai/ai2_arc", config, SPLITS[split], data), most, seed, convert)


def _task(config: str) -> Task:
    return Task(config.lower(), partial(_read, config, _conversation), partial(_read, config, _question),
                names_letter, chance=0.25)


TASKS = (_task("ARC-Easy"), _task("ARC-Challenge"))
