"""MMLU (arXiv 2009.03300): exam questions of 57 subjects with four choices. To learn from there are some of
other exams, its "auxiliary_train"; those of the subjects are for validation and tests."""
from tasks.common import choice_question, choice_task

LETTERS = "ABCD"

def _question(row: dict) -> dict:
    return choice_question(row["question"], LETTERS, row["choices"], LETTERS[row["answer"]])

TASKS = [choice_task("mmlu", "cais/mmlu", "all", _question, train="auxiliary_train")]
