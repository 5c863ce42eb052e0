"""What a task is, what a mixture of conversations is, and how the hub's sets are read."""
import random
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from unittest.mock import patch

USUAL = 10_000                                          # conversations or questions, where a task makes them
_FINAL_NUMBER = re.compile(r"####\s*(-?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+))")

# (split, at most, seed, folder with task data or None for the hub) -> conversations or questions. Splits are
# "train", "val" and "test"; at most None: all that there are, or, where they are made, as many as usual.
Source = Callable[[str, int | None, int, Path | None], Sequence[dict]]

class Missing(Exception):
    """The data of a task cannot be had. Says which and why, in one line."""

@dataclass(frozen=True)
class Task:
    """Conversations to learn from, questions to be asked, or both: read or made when called for, never
    before. A question is a dict with a "conversation" that ends in it, the "answer", and whatever the judge
    needs. One with "letters" is a multiple choice whose answer is one of them and nothing else."""
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

class Rows(Sequence):
    """What `convert` makes of rows when they are asked for. Where that is None, the next row that is one
    stands in: a long run must not end at a line that somebody else wrote."""
    def __init__(self, rows: Sequence, convert: Callable, which: Sequence[int] | None = None):
        self.rows, self.convert = rows, convert         # a datasets.Dataset, or whatever has a length
        self.which = range(len(rows)) if which is None else which       # of the rows, in this order

    def __len__(self) -> int:
        return len(self.which)

    def __getitem__(self, index: int):
        for place in range(self.which[index], self.which[index] + len(self.rows)):
            if (made := self.convert(self.rows[place % len(self.rows)])) is not None:
                return made
        raise Missing(f"none of {len(self.rows):,} rows can be used")

class TaskMixture(Rows):
    """All parts in a random order, which depends on their number and the seed alone, on every machine. Read
    when asked for. `identity` tells in one line what is in it."""
    def __init__(self, parts: Sequence[Part], seed: int):
        every = [(part.conversations, number % len(part.conversations))
                 for part in parts for number in range(part.count)]
        super().__init__(every, lambda place: place[0][place[1]], shuffled(len(every), seed))
        names = [f"{part.count:,} of {part.name}" for part in parts if part.count]
        self.identity = f"{' + '.join(names) or 'nothing'}, seed {seed}"

@cache
def hub_rows(repository: str, config: str, split: str, data: Path | None):
    """A split of a set of the hub, by `datasets`: from its cache, downloaded if need be ($HF_ENDPOINT,
    $HF_TOKEN and $HF_HUB_OFFLINE are honoured), or from the folder `data`, laid out as
    <set>/<config>/<split>*.parquet. Missing where it is in neither."""
    try:
        import datasets
        if data is not None:
            folder = data / repository.split("/")[-1] / config
            if not (files := sorted(map(str, folder.glob(f"{split}*.parquet")))):
                raise FileNotFoundError(f"there is no {folder}/{split}*.parquet")
            return datasets.load_dataset("parquet", data_files=files, split="train")
        # First in the cache alone, which the library else tries half a minute after it has no network.
        with suppress(Exception), patch.object(datasets.config, "HF_HUB_OFFLINE", True):
            return datasets.load_dataset(repository, config, split=split)
        return datasets.load_dataset(repository, config, split=split)
    except Exception as error:                          # of four libraries: their errors have no common base
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Missing(f"{repository} ({config}, {split}): {reason}") from error

def source(repository: str, config: str, convert: Callable[[dict], dict | None], **names: str) -> Source:
    """What `convert` makes of the rows of a set of the hub, drawn by the seed: sets are often sorted by
    subject. `names`: of splits that it calls otherwise than most do."""
    names = {"train": "train", "val": "validation", "test": "test"} | names
    def read(split: str, most: int | None, seed: int, data: Path | None = None) -> Rows:
        found = hub_rows(repository, config, names[split], data)
        drawn = None if most is None or most >= len(found) else shuffled(len(found), seed)[:most]
        return Rows(found, convert, drawn)
    return read

def asked(text: str, **fields) -> dict:
    return {"conversation": {"messages": [{"role": "user", "content": text}]}, **fields}

def choice_question(question: str, letters: Sequence[str], choices: Sequence[str], answer: str) -> dict:
    """A multiple choice question, to be judged by `names_letter`. A model that has found the right choice
    only has to copy the letter behind it, which stands between brackets, as the tokenizer's pattern never
    joins " (" with what follows: the letter is a token of its own."""
    lines = [f"- {choice.strip()} ({letter})" for choice, letter in zip(choices, letters, strict=True)]
    text = [question.strip(), *lines, "Which one is right? Reply with its letter and no more."]
    return asked("\n".join(text), letters=list(letters), answer=answer)

def choice_task(name: str, repository: str, config: str, question: Callable, **names: str) -> Task:
    """A task of multiple choice questions, one per row."""
    def conversation(row: dict) -> dict:
        made = question(row)
        return answered(made, made["answer"])
    taught, tested = (source(repository, config, convert, **names) for convert in (conversation, question))
    return Task(name, taught, tested, names_letter, chance=0.25)

def answered(question: dict, content: str | list[dict]) -> dict:
    """The conversation of a question, and what the assistant should have said."""
    return {"messages": [*question["conversation"]["messages"], {"role": "assistant", "content": content}]}

def names_letter(question: dict, reply: str) -> bool:
    """Whether a free reply begins with the right letter, not with a word: "A whale is ..."."""
    return re.match(rf"[\s(*]*{re.escape(question['answer'])}(?:[^\w\s]|\s*$)", reply) is not None

def names_number(question: dict, reply: str) -> bool:
    """Whether a reply ends in the right number. Numbers are compared, not texts: 18.0 is 18."""
    return number_behind_hashes(reply) == Decimal(question["answer"])

def number_behind_hashes(text: str) -> Decimal | None:
    """The number behind the first ####, as GSM8K's makers judge. Commas, currency and bold signs go."""
    match = _FINAL_NUMBER.search(re.sub(r"[,$\u20ac\u00a3*]", "", text).replace("\u2212", "-"))
    return Decimal(match[1]) if match else None

def shuffled(count: int, seed: int) -> list[int]:
    """0 .. count - 1 in the same order everywhere: of its dice, Python promises to keep random() alone."""
    dice = random.Random(f"mixture {seed}")
    keys = [dice.random() for _ in range(count)]
    return sorted(range(count), key=keys.__getitem__)
