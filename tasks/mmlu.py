"""MMLU (arXiv 2009.03300): exam questions of 57 subjects with four choices. To learn from there are some of
other exams, its "auxiliary_train"; those of the subjects are for validation and tests."""

from contextlib import suppress
from pathlib import Path

from tasks.common import Missing, choice_question, choice_task, hub_rows

REPOSITORY, LETTERS = "cais/mmlu", "ABCD"


def _question(row: dict) -> dict:
    row = row.get("train") or row                       # nested so where auxiliary_train is a config
    return choice_question(row["question"], LETTERS, row["choices"], LETTERS[row["answer"]])


def _rows(split: str, data: Path | None):
    name = {"train": "auxiliary_train", "val": "validation", "test": "test"}[split]
    if split == "train":                                # a config of its own, or a split of "all"
        with suppress(Missing):
            return hub_rows(REPOSITORY, name, "train", data)
    return hub_rows(REPOSITORY, "all", name, data)


TASKS = [choice_task("mmlu", _rows, _question)]
