"""
What a task is: conversations to train on, held-out questions, and a judge. The registry is the only list of tasks.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from nanochat.common import die


@dataclass(frozen=True)
class Task:
    """Questions are dicts with a "conversation" that ends in the question, the "answer", and what the judge needs."""

    name: str
    questions: Callable[[int], Sequence[dict]]          # how many -> held-out questions
    judge: Callable[[dict, str], bool]                  # (question, reply) -> right?
    chance: float = 0.0                                 # accuracy of guessing


def registry() -> dict[str, Task]:
    """All tasks by name. Making it reads nothing and downloads nothing."""
    from tasks import almanac
    return {task.name: task for task in almanac.TASKS}


def find_tasks(names: str) -> list[Task]:
    """Tasks by comma-separated names, all of them for an empty string. Dies on a name that is none."""
    known = registry()
    wanted = [name for name in names.split(",") if name] or list(known)
    for name in wanted:
        if name not in known:
            die(f"no task is called {name!r}", hint=f"--tasks takes: {', '.join(known)}")
    return [known[name] for name in wanted]


def take(items: Iterator[dict], count: int) -> list[dict]:
    """The first `count` of an endless iterator of conversations."""
    return list(islice(items, count))
