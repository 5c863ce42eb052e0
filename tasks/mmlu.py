"""
MMLU (arXiv 2009.03300): exam questions of 57 subjects with four choices. To learn from there are some of
other exams, its "auxiliary_train"; those of the subjects are for validation and tests.
"""

from contextlib import suppress
from functools import partial
from pathlib import Path

from tasks.common import Missing, Rows, Task, answered, choice_question, hub_rows, names_letter, some

REPOSITORY, LETTERS = "cais/mmlu", "ABCD"


def _question(row: dict) -> dict:
    row = row.get("train") or row                       # nested so where auxiliary_train is a config
    return choice_question(row["question"], LETTERS, row["choices"], LETTERS[row["answer"]])


def _conversation(row: dict) -> dict:
    question = _question(row)
    return answered(question, question["answer"])


def _read(convert, split: str, most: int | None, seed: int, data: Path | None = None) -> Rows:
    name = {"train": "auxiliary_train", "val": "validation", "test": "test"}[split]
    if split == "train":                                # a config of its own, or a split of "all"
        with suppress(Missing):
            return some(hub_rows(REPOSITORY, name, "train", data), most, seed, convert)
    return some(hub_rows(REPOSITORY, "all", name, data), most, seed, convert)


TASKS = (Task("mmlu", partial(_read, _conversation), partial(_read, _question), names_letter, chance=0.25),)
