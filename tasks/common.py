"""
What a task is, and what a mixture of conversations is. Knows no task by name: tasks/__init__.py lists them.
"""

import json
import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from nanochat.common import sha256

PROBES = 100                                            # conversations that a fingerprint looks at, about


@dataclass(frozen=True)
class Task:
    """
    Conversations to learn from, questions to be asked, or both: read or made when called for, never before.
    A question is a dict with a "conversation" that ends in it, the "answer", and whatever the judge needs.
    """
    name: str
    conversations: Callable[[str, int, int], Sequence[dict]] | None = None  # (split, at most, seed)
    questions: Callable[[int], Sequence[dict]] | None = None                # at most so many, held out
    judge: Callable[[dict, str], bool] | None = None                        # (question, reply) -> right?
    chance: float = 0.0                                                     # accuracy of guessing


@dataclass(frozen=True)
class Part:
    """One ingredient of a mixture: `count` conversations, gone through again where there are fewer."""
    name: str
    conversations: Sequence[dict]
    count: int


class Mixture(Sequence):
    """
    The conversations of all parts in one order, which depends on their number and the seed alone, on every
    machine. A conversation is read when it is asked for. `identity` tells in one line what the mixture holds.
    """

    def __init__(self, parts: Sequence[Part], seed: int):
        self._parts = [part for part in parts if part.count > 0]
        self._starts = list(accumulate((part.count for part in self._parts), initial=0))
        self._order = shuffled(self._starts[-1], seed)
        held = " + ".join(f"{part.count:,} of {part.name}" for part in self._parts)
        self.identity = f"{held or 'nothing'}, seed {seed}"

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> dict:
        place = self._order[index]
        which = bisect_right(self._starts, place) - 1
        conversations = self._parts[which].conversations
        return conversations[(place - self._starts[which]) % len(conversations)]


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
