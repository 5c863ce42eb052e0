"""
What a task is, what a sequence and a mixture of conversations are, and how the hub's sets are read. Knows no
task by name: tasks/__init__.py lists them.
"""

import json
import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from nanochat.common import sha256

PROBES = 100                                            # conversations that a fingerprint looks at, about

# (split, at most, seed, folder with task data or None for the hub) -> conversations or questions. Splits are
# "train", "val" and "test"; at most None: all that there are, or, where they are made, as many as usual.
Source = Callable[[str, int | None, int, Path | None], Sequence[dict]]


class Missing(Exception):
    """The data of a task cannot be had. Says which and why, in one line."""


@dataclass(frozen=True)
class Task:
    """
    Conversations to learn from, questions to be asked, or both: read or made when called for, never before. A
    question is a dict with a "conversation" that ends in it, the "answer", and whatever the judge needs. One
    with "letters" is a multiple choice whose answer is one of them and nothing else.
    """
    name: str
    conversations: Source | None = None
    questions: Source | None = None
    judge: Callable[[dict, str], bool] | None = None    # (question, visible reply) -> right?
    chance: float = 0.0                                 # accuracy of guessing
    max_tokens: int = 96                                # that an answer may need, tool calls included


@dataclass(frozen=True)
class Part:
    """One ingredient of a mixture: `count` conversations, gone through again where there are fewer."""
    name: str
    conversations: Sequence[dict]
    count: int


class TaskSequence(Sequence):
    """
    The conversations of all parts, one part after the other. A conversation is read when it is asked for.
    `identity` tells in one line what is in it.
    """

    def __init__(self, parts: Sequence[Part]):
        self._parts = [part for part in parts if part.count > 0]
        self._starts = list(accumulate((part.count for part in self._parts), initial=0))
        held = " + ".join(f"{part.count:,} of {part.name}" for part in self._parts)
        self.identity = held or "nothing"

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> dict:
        place = range(len(self))[index]
        which = bisect_right(self._starts, place) - 1
        conversations = self._parts[which].conversations
        return conversations[(place - self._starts[which]) % len(conversations)]


class TaskMixture(TaskSequence):
    """The same in a random order, which depends on their number and the seed alone, on every machine."""

    def __init__(self, parts: Sequence[Part], seed: int):
        super().__init__(parts)
        self._order = shuffled(len(self), seed)
        self.identity += f", seed {seed}"

    def __getitem__(self, index: int) -> dict:
        return super().__getitem__(self._order[index])


class Rows(Sequence):
    """
    Rows of a set of the hub, each made a conversation or a question by `convert` when it is asked for. A
    slice is one as well.
    """

    def __init__(self, rows, convert: Callable[[dict], dict]):
        self.rows, self.convert = rows, convert         # a datasets.Dataset

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | slice):
        if isinstance(index, slice):
            return Rows(self.rows.select(range(len(self))[index]), self.convert)
        return self.convert(self.rows[index])


def hub_rows(repository: str, config: str, split: str, data: Path | None):
    """
    A split of a set of the hub, by `datasets`: from its cache, downloaded if need be ($HF_ENDPOINT, $HF_TOKEN
    and $HF_HUB_OFFLINE are honoured), or from the folder `data`, laid out as <set>/<config>/<split>*.parquet.
    Missing where it is in neither.
    """
    try:
        from datasets import load_dataset
        if data is None:
            return load_dataset(repository, config, split=split)
        folder = data / repository.split("/")[-1] / config
        files = sorted(str(file) for file in folder.glob(f"{split}*.parquet"))
        if not files:
            raise FileNotFoundError(f"there is no {folder}/{split}*.parquet")
        return load_dataset("parquet", data_files=files, split="train")
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise Missing(f"{repository} ({config}, {split}): {reason}") from error


def some(rows, most: int | None, seed: int, convert: Callable[[dict], dict]) -> Rows:
    """At most `most` rows, drawn by the seed where there are more; sets are often sorted by subject."""
    if most is not None and most < len(rows):
        rows = rows.select(shuffled(len(rows), seed)[:most])
    return Rows(rows, convert)


def shuffled(count: int, seed: int) -> list[int]:
    """0 .. count - 1 in the same order everywhere: of its dice, Python promises to keep random() alone."""
    dice = random.Random(f"mixture {seed}")
    keys = [dice.random() for _ in range(count)]
    return sorted(range(count), key=keys.__getitem__)


def shares(recipe: dict[str, int], total: int) -> dict[str, int]:
    """`total` in the proportions of the recipe, in whole numbers; the largest fractions are rounded up."""
    whole = sum(recipe.values())
    counts = {name: total * amount // whole for name, amount in recipe.items()}
    by_fraction = sorted(recipe, key=lambda name: total * recipe[name] % whole, reverse=True)
    for name in by_fraction[:total - sum(counts.values())]:
        counts[name] += 1
    return counts


def fingerprint(conversations: Sequence[dict]) -> str:
    """Eight hex digits for what the conversations are, by a few evenly spaced ones: there may be millions."""
    stride = max(1, len(conversations) // PROBES)
    seen = [conversations[index] for index in range(0, len(conversations), stride)]
    return sha256(json.dumps(seen).encode())[:8]
