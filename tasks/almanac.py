"""
The embedded almanac as tasks: facts, multiple choice, arithmetic with the tool, letters, and refusing what it does not
know. Every question is held out: families of frames, wordings, number pairs, words and names of no training text.
"""

from functools import partial

from nanochat import almanac
from tasks.common import Task

TASKS = tuple(Task(f"almanac-{kind}", partial(almanac.questions, kind), almanac.is_correct,
                   chance=0.25 if kind == "choice" else 0.0) for kind in almanac.KINDS)
