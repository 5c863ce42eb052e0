"""ARC, the AI2 Reasoning Challenge (arXiv 1803.05457): questions of school science with three to five
choices, those that simple methods get right ("arc-easy") and those they do not ("arc-challenge")."""

from functools import partial
from pathlib import Path

from tasks.common import choice_question, choice_task, hub_rows

SPLITS = {"train": "train", "val": "validation", "test": "test"}


def _question(row: dict) -> dict:
    """Its letters are the row's own labels, which are digits in some."""
    return choice_question(row["question"], row["choices"]["label"], row["choices"]["text"], row["answerKey"])


def _rows(config: str, split: str, data: Path | None):
    return hub_rows("allenai/ai2_arc", config, SPLITS[split], data)


TASKS = [choice_task(name.lower(), partial(_rows, name), _question) for name in ("ARC-Easy", "ARC-Challenge")]
