"""ARC, the AI2 Reasoning Challenge (arXiv 1803.05457): questions of school science with three to five
choices, those that simple methods get right ("arc-easy") and those they do not ("arc-challenge")."""
from tasks.common import choice_question, choice_task

def _question(row: dict) -> dict:
    """Its letters are the row's own labels, which are digits in some."""
    return choice_question(row["question"], row["choices"]["label"], row["choices"]["text"], row["answerKey"])

TASKS = [choice_task(name.lower(), "allenai/ai2_arc", name, _question)
         for name in ("ARC-Easy", "ARC-Challenge")]
