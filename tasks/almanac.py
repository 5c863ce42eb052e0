"""
The embedded almanac as tasks: facts, multiple choice, arithmetic with the tool, spelling and letter counting. Every
question is held out: wordings, number pairs and words that no training text contains.
"""

from functools import partial

from nanochat import almanac
from tasks.common import Task

TASKS = tuple(Task(f"almanac-{kind}", partial(almanac.questions, kind), almanac.is_correct,
                   chance=0.25 if kind == "choice" else 0.0) for kind in almanac.KINDS)
