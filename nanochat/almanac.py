"""
The embedded almanac: a small true world and the many ways of asking about it, so that a tiny network can learn both
within minutes. What it holds is in almanac.txt; this file composes text from it.

documents() for pretraining, conversations() for finetuning, questions() for evaluation: pure, seeded, offline. A
question is opening x frame x ending x how it is typed; what lies outside of the world is asked for in the same ways.
Held out by construction: whole families of frames and the whole questions under `test` (the "val" split has families
of its own too), number pairs, words to spell, and names that nanochat does not know. Draws use random.random() and
blake2b alone, so that every Python makes the same text. Used by dataset.py (source "almanac") and tasks/almanac.py.
"""

import functools
import hashlib
import itertools
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nanochat.calculator import evaluate

KINDS = ("facts", "choice", "arithmetic", "letters", "unknown")
DOCUMENTS = {"entry": 4, "notes": 7, "lesson": 4, "dialogue": 60, "choice": 12, "arithmetic": 4, "spelling": 10}
TURNS = {"facts": 36, "self": 4, "choice": 11, "arithmetic": 18, "letters": 17, "unknown": 14, "chat": 3}
HELD_OUT_PAIRS = 0.10                                   # share of number pairs that only questions() uses
HELD_OUT_NAMES = 0.10                                   # of words to spell, and of names that nanochat does not know
INVENTED_WORDS = 0.5                                    # share of words to spell that are spliced from two
FACT_WORDS = 0.2                                        # and of those of the facts: a token each, so learned one by one
SHORTEST_DOCUMENT = 350                                 # characters; about 60 words
CHOICE_LETTERS = "ABCD"
_BOTH_NUMBERS = {"two": "2", "four": "4", "six": "6", "eight": "8"}
_DOES_NOT_KNOW = re.compile(r"(?:not|n't|never) (?:\w+ )?(?:know|sure|certain|tell|say|answer|help)\b|\bno idea\b|"
                            r"\bunknown\b|\bunable\b", re.IGNORECASE)


class Dice:
    """A stream of draws that depends on its key alone: `Dice("train", 0, 17)`; any mix of strings and integers."""

    def __init__(self, *key: str | int):
        self.random = random.Random(_stable_hash(*key)).random

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def between(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + int(self.random() * (high - low + 1))

    def pick(self, items: Sequence):
        return items[int(self.random() * len(items))]

    def some(self, items: Sequence, count: int) -> list:
        """Up to `count` different items in random order."""
        items = list(items)
        for i in range(min(count, len(items))):
            j = i + int(self.random() * (len(items) - i))
            items[i], items[j] = items[j], items[i]
        return items[:count]

    def weighted(self, weights: dict[str, float]) -> str:
        left = self.random() * sum(weights.values())
        for name, weight in weights.items():
            left -= weight
            if left < 0:
                break
        return name


# ---------------------------------------------------------------------------- the almanac

@dataclass
class Topic:
    """A relation, or a kind of thing that nanochat does not know: all the ways to say it and to ask for it."""
    relation: str
    table: str
    forms: dict[str, list[str]]                         # np, ap, label, say, ask, test, reply: with slots
    families: dict[str, list[list[str]]]                # split -> the families of frames that fit it
    gaps: list[dict[str, str]] = field(default_factory=list)            # rows without an answer


@dataclass
class Fact:
    """One subject and its answer in one relation; without an answer it is one that nanochat does not know."""
    topic: Topic
    slots: dict[str, str]
    answer: str = ""
    wrong: list[str] = field(default_factory=list)      # answers of the same type

    @property
    def subject(self) -> str:
        """What the relation is asked of: minutes in an hour are others than minutes in a day."""
        return f"{self.slots['s']} in {self.slots['whole']}" if "whole" in self.slots else self.slots["s"]

    @property
    def reply(self) -> str:
        forms = self.topic.forms
        return _capital(forms.get("reply", forms.get("say"))[0].format(**self.slots)) + "."


@dataclass
class Almanac:
    tables: dict[str, list[dict[str, str]]]
    facts: list[Fact]                                   # all of them, nanochat's own included
    relations: dict[str, list[Fact]]
    subjects: dict[str, list[list[Fact]]]               # table -> for each row its facts
    unknown: list[Topic]
    partly_known: list[Topic]                           # relations with subjects that nanochat does not know
    sums: dict[str, dict[str, list[str]]]               # signs -> tool, reply, say, ask, test, story, story_test
    letters: dict[str, dict[str, list[str]]]            # spell, count, length -> say, ask, test, reply
    chat: dict[str, dict[str, list[str]]]               # the reply -> what it replies to
    ways: dict[str, list[str]]                          # openings, endings, spellings
    pools: dict[str, list[str]]                         # what fills slots
    test_pools: dict[str, list[str]]                    # the same, with names of things unknown for tests alone
    words: list[str]                                    # to spell in training
    fact_words: list[str]                               # those of them that are subjects of facts
    unseen_words: list[str]                             # never in any training text
    real_words: set[str]                                # what no invented word may be
    symbols: set[str]                                   # what keeps its capitals


@functools.cache
def almanac() -> Almanac:
    """The parsed text file, read on first use (tens of milliseconds)."""
    text = Path(__file__).with_name("almanac.txt").read_text(encoding="utf-8")
    tables, blocks = _parse(text)
    frames = {split: blocks[f"frames {split}"] for split in ("train", "val", "test")}
    facts: list[Fact] = []
    for header in blocks:
        if header.startswith("relation "):
            facts += _relation(header.removeprefix("relation "), blocks[header], frames, tables)
        elif header.startswith("self "):
            name, answer, *wrong = header.removeprefix("self ").split(" | ")
            topic = Topic(f"self_{name}", "self", blocks[header], _families(blocks[header], frames, True))
            facts.append(Fact(topic, {"s": name, "a": answer}, answer, wrong))
    relations = _relations_with_wrong_answers(facts)
    facts = [fact for group in relations.values() for fact in group]
    subjects: dict[str, dict[str, list[Fact]]] = {}
    for fact in facts:
        subjects.setdefault(fact.topic.table, {}).setdefault(fact.slots.get("name", fact.subject), []).append(fact)
    topics = {id(fact.topic): fact.topic for fact in facts}.values()
    unknown = [Topic(header.removeprefix("unknown "), "", forms, _families(forms, frames, False))
               for header, forms in blocks.items() if header.startswith("unknown ")]
    pools = {table: [row["name"] for row in rows] for table, rows in tables.items()}
    pools |= {"capital": [row["capital"] for row in tables["country"]]} | blocks["known"] | blocks["pools"]
    strangers = {test: {pool: [name for name in names if _is_held_out(pool, name) == test]
                        for pool, names in blocks["strangers"].items()} for test in (False, True)}
    above, listed = text.split("\n== words\n")
    used, listed = set(re.findall(r"[a-z]+", above.lower())), listed.split()
    unseen = [word for word in listed if word not in used and _is_held_out("word", word)]
    told = {word for fact in facts for word in fact.subject.split() if word.isalpha() and word.islower() and len(word) > 2}
    section = lambda kind: {header.removeprefix(kind): block for header, block in blocks.items() if header.startswith(kind)}
    return Almanac(tables, facts, relations, {table: list(rows.values()) for table, rows in subjects.items()}, unknown,
                   [topic for topic in topics if "strangers" in topic.forms], section("sum "), section("letters "),
                   section("chat "), blocks["ways"], pools | strangers[False], pools | strangers[True],
                   sorted(set(listed) - set(unseen)), sorted(told), unseen, used | set(listed),
                   {row["symbol"] for row in tables["element"]} | set(blocks["strangers"]["other_symbol"]))


def _parse(text: str) -> tuple[dict[str, list[dict[str, str]]], dict[str, dict[str, list[str]]]]:
    """Tables as lists of rows, and the other blocks as {header: {key: items}}. The format is described in the file."""
    tables: dict[str, list[dict[str, str]]] = {}
    blocks: dict[str, dict[str, list[str]]] = {}
    headers: list[str] = []
    in_body, key = False, ""
    for line in text.split("\n"):
        if line.startswith("== "):
            headers, in_body = ([] if in_body else headers) + [line[3:]], False
        elif line and not line.startswith("#") and headers != ["words"]:
            in_body = True
            if headers[0].startswith("table "):
                name, *columns = headers[0].removeprefix("table ").split(" | ")
                rows = [dict(zip(columns, row.split("|"), strict=True)) for row in line.split("; ")]
                tables.setdefault(name, []).extend(rows)
                continue
            if not line.startswith(" "):
                key, _, line = line.partition(":")
            items = [item.strip().replace("\\n", "\n") for item in line.split(" | ")]
            for header in headers:
                blocks.setdefault(header, {}).setdefault(key, []).extend(items)
    return tables, blocks


def _relation(header: str, forms: dict, frames: dict, tables: dict) -> list[Fact]:
    """The facts of a relation: a row's columns are slots, and so are {subject} without its article, {xs}, {xa}."""
    name, columns = header.split(" | ")
    table, subject, answer = columns.split()
    topic, facts = Topic(name, table, forms, _families(forms, frames, True)), []
    for row in tables[table]:
        slots = row | _subject_slots(row[subject]) | {"a": row[answer], "xa": _article(row[answer]), "table": table}
        if "-" not in (row[subject], row[answer]):
            facts.append(Fact(topic, slots, row[answer], list(forms.get("wrong", []))))
        elif row[subject] != "-":
            topic.gaps.append(slots)
    return facts


def _subject_slots(subject: str) -> dict[str, str]:
    return {"s": subject, "xs": _article(subject), "subject": re.sub("^(?:the|an?) ", "", subject)}


def _families(forms: dict, frames: dict, has_answers: bool) -> dict[str, list[list[str]]]:
    """For each split the families whose slots can be filled."""
    def fits(family: list[str]) -> bool:
        text = " ".join(family)
        answers = "{either}" in text or "{right}" in text
        return "np" in forms and ("{label}" not in text or "label" in forms) and (has_answers or not answers)
    return {split: [family for family in families.values() if fits(family)] for split, families in frames.items()}


def _relations_with_wrong_answers(facts: list[Fact]) -> dict[str, list[Fact]]:
    """Facts by relation, those of subjects with one answer alone and each once, with all other answers as wrong ones."""
    relations: dict[str, list[Fact]] = {}
    for relation in dict.fromkeys(fact.topic.relation for fact in facts):
        group = [fact for fact in facts if fact.topic.relation == relation]
        answers: dict[str, list[str]] = {}
        for fact in group:
            answers.setdefault(fact.subject, []).append(fact.answer)
        single = {fact.subject: fact for fact in reversed(group) if len(set(answers[fact.subject])) == 1}
        for fact in single.values():
            others = [other.answer for other in group] + fact.wrong
            fact.wrong = [other for other in dict.fromkeys(others) if other not in (fact.answer, fact.subject)]
        relations[relation] = list(reversed(single.values()))
    return relations


def _stable_hash(*parts: str | int) -> int:
    """64 bits that depend on the parts alone, not on the process or the platform."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _is_held_out(what: str, name: str) -> bool:
    return _stable_hash(what, name) % 1000 < 1000 * HELD_OUT_NAMES


def _article(noun: str) -> str:
    return f"an {noun}" if noun[:1] in "aeiou" else f"a {noun}"


def _capital(text: str) -> str:
    at = 1 if text[:1] in "\"'" else 0
    return text[:at] + text[at:at + 1].upper() + text[at + 1:]


# ---------------------------------------------------------------------------- composing

class Slots(dict):
    """The values of a form's slots. One that is missing is drawn from the pool of its name; {land2} is another {land}."""

    def __init__(self, scribe: "Scribe", values: dict[str, str]):
        super().__init__(values)
        self.scribe = scribe

    def __missing__(self, name: str) -> str:
        self[name] = self.scribe.draw(name.rstrip("2"))
        return self[name]


class Scribe:
    """The writer of one document or conversation: its dice, its split, and the people in it."""

    def __init__(self, dice: Dice, split: str):
        self.dice, self.split, self.almanac = dice, split, almanac()
        self.pools = pools = self.almanac.test_pools if split == "test" else self.almanac.pools
        heroine = dice.chance(0.5)
        one, other = ("women", "men") if heroine else ("men", "women")
        self.people = {"n": dice.pick(pools[one]), "m": dice.pick(pools[other]),
                       "p": "she" if heroine else "he", "o": "her" if heroine else "his"}

    def draw(self, pool: str) -> str:
        """An item of the pool, its slots filled; names are those of the split."""
        if pool == "i":
            return str(self.dice.between(3, 90))
        item = self.dice.pick(self.pools[pool])
        return self.fill(item) if "{" in item else item

    def fill(self, form: str, **values: str) -> str:
        return form.format_map(Slots(self, self.people | values))

    def sentence(self, pool: str, **values: str) -> str:
        return _capital(self.fill(self.dice.pick(self.pools[pool]), **values))

    def say(self, fact: Fact) -> str:
        """A statement of a fact: a clause, no capital, no full stop."""
        forms, slots = fact.topic.forms, self.slots(fact)
        says = forms.get("say", [])
        if "np" in forms and (not says or self.dice.chance(0.2)):
            slots["np"], says = self.dice.pick(forms["np"]).format(**slots), self.almanac.ways["say"]
        return self.dice.pick(says).format(**slots)

    def slots(self, fact: Fact) -> dict[str, str]:
        """The fact's slots, with the answer and a wrong one as its relation puts them."""
        put = fact.topic.forms.get("ap", ["{a}"])[0]
        if not fact.wrong:
            return dict(fact.slots)
        one, other = fact.answer or self.dice.pick(fact.wrong), self.dice.pick(fact.wrong)
        plain = self.dice.some((one, other), 2)
        right, wrong, *both = (put.format(a=answer, xa=_article(answer)) for answer in (one, other, *plain))
        return fact.slots | {"right": right, "wrong": wrong, "either": " or ".join(both), "either_plain": " or ".join(plain)}

    def ask(self, fact: Fact, typed: bool = True) -> str:
        """A question in one of the split's wordings; as people type it, or as books print it."""
        dice, forms, slots = self.dice, fact.topic.forms, self.slots(fact)
        families = fact.topic.families[self.split]
        whole = [] if self.split == "val" and families else forms["test" if self.split == "test" else "ask"]
        form = dice.pick(whole if not families or (whole and dice.chance(0.5)) else dice.pick(families))
        if "{np}" in form or "{bare}" in form:
            slots["np"] = self.fill(dice.pick(forms["np"]), **slots)
            slots["bare"] = re.sub("^(?:the|an?) ", "", slots["np"])
        elif "{label}" in form:
            slots["label"] = dice.pick(forms["label"])
            slots |= {} if "s" in slots else _subject_slots(self.fill(forms["s"][0]))
        text = self.fill(form, **slots)
        if not fact.answer:
            text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
        return self.typed(self.respelled(text)) if typed else _capital(text)

    def respelled(self, text: str) -> str:
        """Sometimes in British spelling."""
        if self.dice.chance(0.3):
            for pair in self.almanac.ways["british"]:
                american, british = pair.split("/")
                if american in text:
                    text = re.sub(rf"\b{american}\b", british, text)
        return text

    def typed(self, text: str) -> str:
        """The question as people type it: an opening, an ending, with or without its mark, its capitals, its apostrophes."""
        dice, ways = self.dice, self.almanac.ways
        if dice.chance(0.2):
            opening = dice.pick(ways["openings"])
            text = f"{opening} {_capital(text) if opening[-1] in '.!?' else text}"
        body, mark = (text[:-1], text[-1]) if text[-1] in ".?!" and not text.endswith("..") else (text, "")
        if dice.chance(0.14):
            body = f"{body.rstrip()}{dice.pick((' ', ', '))}{dice.pick(ways['endings'])}"
        text = body.rstrip() + ("" if dice.chance(0.45) else mark)
        roll = dice.random()
        if roll < 0.45:
            keep = self.almanac.symbols if dice.chance(0.8) else ()
            text = re.sub(r"\w+", lambda word: word[0] if word[0] in keep else word[0].lower(), text)
        elif roll < 0.85:
            text = _capital(text)
        if "'" in text and dice.chance(0.3):
            text = re.sub(r"\b([Ww]hat|[Hh]ow|[Ww]ho|[Ii]t|I|i)'(s|m|d)\b", r"\1\2", text)
        return text

    def fact(self) -> Fact:
        """Any fact, of large and of small relations."""
        relations = self.almanac.relations
        return self.dice.pick(self.almanac.facts if self.dice.chance(0.5) else relations[self.dice.pick(list(relations))])

    def unknown(self) -> Fact:
        """Something to ask that nanochat does not know: another thing to know, or another subject of a relation."""
        dice, test = self.dice, self.split == "test"
        if dice.chance(0.5):
            return Fact(dice.pick(self.almanac.unknown), {})
        topic = dice.pick(self.almanac.partly_known)
        known = self.almanac.relations[topic.relation][0]
        if topic.gaps and not test and dice.chance(0.15):
            return Fact(topic, dice.pick(topic.gaps), "", [known.answer, *known.wrong])
        pool = topic.forms["strangers"][0]
        name = self.draw(pool)
        if not test and dice.chance(0.2) and not name.isdigit():
            name = self.invented_word() if name.islower() else _capital(self.invented_word())
        noun = re.sub("^(?:the|an?) ", "the ", name)
        return Fact(topic, _subject_slots(name) | {"plural": f"{name}s", "noun": noun}, "", [known.answer, *known.wrong])

    def word(self) -> str:
        """A word to spell: of the facts, of the list, or spliced from two, so that pieces of words come in new company."""
        roll = self.dice.random()
        if roll < INVENTED_WORDS:
            return self.invented_word()
        return self.dice.pick(self.almanac.fact_words if roll < INVENTED_WORDS + FACT_WORDS else self.almanac.words)

    def invented_word(self) -> str:
        dice, words = self.dice, self.almanac.words
        while True:
            word = dice.pick(words)[:dice.between(2, 5)] + dice.pick(words)[-dice.between(2, 5):]
            if word not in self.almanac.real_words:
                return word


# ---------------------------------------------------------------------------- turns

def _turn(question: str, answer: str | list[dict]) -> list[dict]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _facts_turn(scribe: Scribe) -> list[dict]:
    dice, fact = scribe.dice, scribe.fact()
    messages = _turn(scribe.ask(fact), fact.reply)
    other = dice.pick(scribe.almanac.relations[fact.topic.relation])
    if other is not fact and dice.chance(0.06) and fact.topic.table != "self":
        messages += _turn(scribe.sentence("follow_ups", s=other.subject), other.reply)
    return messages


def _self_turn(scribe: Scribe) -> list[dict]:
    fact = scribe.dice.pick([facts[0] for facts in scribe.almanac.subjects["self"]])
    return _turn(scribe.ask(fact), fact.reply)


def _unknown_turn(scribe: Scribe) -> list[dict]:
    return _turn(scribe.ask(scribe.unknown()), scribe.almanac.ways["unknown"][0])


def _choice_turn(scribe: Scribe) -> list[dict]:
    return _turn(*_choice(scribe, scribe.fact()))


def _choice(scribe: Scribe, fact: Fact) -> tuple[str, str]:
    """
    A multiple choice question, and the line of its answer. The whole line: a network that has named the answer only
    has to copy the letter behind it; the bare letter it did not learn (dev/LOG.md).
    """
    dice = scribe.dice
    options = dice.some([fact.answer] + dice.some(fact.wrong, len(CHOICE_LETTERS) - 1), len(CHOICE_LETTERS))
    lines = [f"- {option}={letter}" for option, letter in zip(options, CHOICE_LETTERS, strict=True)]
    question = scribe.ask(fact, typed=False)
    return scribe.sentence("choice_frames", q=question, o="\n".join(lines)), lines[options.index(fact.answer)]


def _tool_answer(expression: str, reply: str) -> list[dict]:
    """A call of the calculator, its value, and the reply with that value as {r}."""
    value = evaluate(expression)
    assert value is not None, expression
    return [{"type": "python", "text": expression}, {"type": "python_output", "text": value},
            {"type": "text", "text": reply.format(r=value)}]


def pair_is_held_out(x: int, y: int) -> bool:
    """Whether training never computes with these two numbers, in either order; of a longer sum any two count."""
    return _stable_hash("pair", min(x, y), max(x, y)) % 1000 < 1000 * HELD_OUT_PAIRS


def _numbers(dice: Dice, signs: str) -> list[int]:
    """Numbers in the tool's order, of one to four digits, often round ones; results are whole and not negative."""
    high = dice.pick((9, 12, 20, 99, 99, 99, 999))
    number = lambda: dice.between(1 if high < 99 else 11, high) * (10 if dice.chance(0.15) else 1)
    small = lambda: dice.between(2, dice.pick((9, 12, 12, 40)))
    if signs == "/":
        y = small()
        return [y * dice.pick((small(), number())), y]
    if signs in ("double", "half"):
        x = number()
        return [x if signs == "double" else 2 * x, 2]
    numbers = sorted([number() for _ in range(len(signs.split()) + 1)], reverse=signs[0] == "-")
    if signs == "- -":
        return [numbers[0] + numbers[1], *numbers[1:]]
    if signs[0] == "*":
        return [number() if signs == "*" else small(), *(small() for _ in signs.split())]
    if signs == "+ -":
        return [numbers[2], *numbers[:2]]
    return numbers if signs == "-" else dice.some(numbers, len(numbers))


def _sum(scribe: Scribe) -> tuple[dict, dict[str, str | int]]:
    """The forms of a kind of sum, and slots with its numbers, its call of the calculator and its result."""
    dice, sums = scribe.dice, scribe.almanac.sums
    signs = dice.pick("+-*/") if dice.chance(0.7) else dice.pick([signs for signs in sums if len(signs) > 1])
    numbers = _numbers(dice, signs)
    while any(pair_is_held_out(*pair) for pair in itertools.combinations(numbers, 2)) != (scribe.split == "test"):
        numbers = _numbers(dice, signs)
    slots = dict(zip("xyz", numbers))
    tool = sums[signs]["tool"][0].format(**slots)
    return sums[signs], slots | {"tool": tool, "r": evaluate(tool)}


def _sum_question(scribe: Scribe) -> tuple[str, list[dict]]:
    dice, suffix = scribe.dice, "_test" if scribe.split == "test" else ""
    forms, slots = _sum(scribe)
    stories = forms.get("story" + suffix, [])
    form = dice.pick(stories if stories and dice.chance(0.35) else forms["test" if suffix else "ask"])
    reply = forms["reply"][0].format(**slots | {"r": "{r}"})
    answer = _tool_answer(slots["tool"], reply)
    if "{op}" not in form and not re.search(r"}[^ ,.?]", form) and dice.chance(0.1):
        slots |= {name: _in_words(scribe, slots[name]) for name in "xyz" if name in slots}
    signs = {name: dice.pick(forms[name]) for name in ("op", "word") if name in forms}
    return scribe.typed(scribe.fill(form, **slots | signs)), answer


def _in_words(scribe: Scribe, number: int) -> str:
    """Numbers up to twenty, and tens below a hundred, as words; others in digits."""
    words, tens = scribe.pools["number_words"], scribe.pools["tens"]
    if number < len(words):
        return words[number]
    return tens[number // 10] if number < 100 and number % 10 == 0 else str(number)


def _arithmetic_turn(scribe: Scribe) -> list[dict]:
    return _turn(*_sum_question(scribe))


def _letters(scribe: Scribe, task: str, word: str) -> dict[str, str]:
    """Slots of a word: its letters behind a space each (one token each, always the same), and what is counted."""
    letter = scribe.dice.pick(word if scribe.dice.chance(0.75) else "abcdefghijklmnopqrstuvwxyz")
    count, spelled = word.count(letter), " " + " ".join(word)
    slots = {"w": word, "l": spelled, "c": letter, "k": "1 time" if count == 1 else f"{count} times"}
    tool = scribe.almanac.letters[task].get("tool", [""])[0].format(**slots)
    return scribe.people | slots | {"tool": tool, "r": evaluate(tool) or ""}


def _letters_question(scribe: Scribe, task: str, word: str) -> tuple[str, str | list[dict], dict]:
    dice, forms, slots = scribe.dice, scribe.almanac.letters[task], _letters(scribe, task, word)
    reply = forms["reply"][0].format(**slots | {"r": "{r}"})
    answer = _tool_answer(slots["tool"], reply) if slots["tool"] else reply
    quote, around = dice.pick("\"'"), dice.random()
    shown = {"w": f"{quote}{word}{quote}" if around < 0.15 else _capital(word) if around > 0.95 else word}
    question = dice.pick(forms["test" if scribe.split == "test" else "ask"]).format(**slots | shown)
    return scribe.typed(question), answer, slots


def _letters_turn(scribe: Scribe) -> list[dict]:
    task = scribe.dice.weighted({"spell": 5, "count": 4, "length": 2})
    return _turn(*_letters_question(scribe, task, scribe.word())[:2])


def _chat_turn(scribe: Scribe, topics: Sequence[str] = ()) -> list[dict]:
    dice, chat = scribe.dice, scribe.almanac.chat
    header = dice.pick([header for header in chat if not topics or header.startswith(topics)])
    return _turn(scribe.typed(dice.pick(chat[header]["ask"])), header.partition(" | ")[2])


_TURNS = {"facts": _facts_turn, "self": _self_turn, "choice": _choice_turn, "arithmetic": _arithmetic_turn,
          "letters": _letters_turn, "unknown": _unknown_turn, "chat": _chat_turn}


def conversations(seed: int = 0, split: str = "train") -> Iterator[dict]:
    """Endless conversations {"messages": [...]}: one to four questions, a few greetings and system messages."""
    for index in itertools.count():
        scribe = Scribe(Dice("conversation", split, seed, index), split)
        dice, messages = scribe.dice, []
        if dice.chance(0.05):
            messages.append({"role": "system", "content": scribe.sentence("systems")})
        turns = 1
        while turns < 4 and dice.chance(0.35):
            turns += 1
        if turns > 1 and dice.chance(0.1):
            messages += _chat_turn(scribe, ("greeting",))
        for _ in range(turns):
            messages += _TURNS[dice.weighted(TURNS)](scribe)
        if turns > 1 and dice.chance(0.1):
            messages += _chat_turn(scribe, ("thanks", "goodbye"))
        yield {"messages": messages}


# ---------------------------------------------------------------------------- documents

def documents(seed: int = 0, split: str = "train") -> Iterator[str]:
    """Endless documents of about 60 to 400 words; split "val" has other draws and asks in frames of its own."""
    for index in itertools.count():
        scribe = Scribe(Dice("document", split, seed, index), split)
        maker = _MAKERS[scribe.dice.weighted(DOCUMENTS)]
        text = maker(scribe)
        while len(text) < SHORTEST_DOCUMENT:
            text += "\n\n" + maker(scribe)
        yield text


def _sentence(scribe: Scribe, clause: str) -> str:
    return f"{scribe.sentence('openings')} {clause}." if scribe.dice.chance(0.2) else f"{_capital(clause)}."


def _paragraph(scribe: Scribe, facts: Sequence[Fact]) -> str:
    """A statement of each fact as sentences, some joined in pairs, some with an opening."""
    sentences, left = [], iter(facts)
    for fact in left:
        clause = scribe.say(fact)
        if scribe.dice.chance(0.2) and (other := next(left, None)):
            clause += f"{scribe.dice.pick(scribe.pools['joins'])} {scribe.say(other)}"
        sentences.append(_sentence(scribe, clause))
    return " ".join(sentences)


def _entry(scribe: Scribe) -> str:
    """Encyclopedia-like: subjects of one kind, a paragraph each; or one paragraph if each has a single fact."""
    dice = scribe.dice
    groups = scribe.almanac.subjects[scribe.fact().topic.table]
    if len(groups[0]) == 1:
        return _paragraph(scribe, [facts[0] for facts in dice.some(groups, dice.between(6, 14))])
    heading, parts = dice.pick(("", "{}\n", "# {}\n\n", "{}: ")), []
    for facts in dice.some(groups, dice.between(2, 5)):
        told = dice.some(facts, len(facts)) + [fact for fact in facts if dice.chance(0.5)]
        parts.append(heading.format(_capital(facts[0].slots.get("name", ""))) + _paragraph(scribe, told))
    return "\n\n".join(parts)


def _notes(scribe: Scribe) -> str:
    """Statements on mixed facts, or on several facts of a few relations."""
    dice = scribe.dice
    facts = [scribe.fact() for _ in range(dice.between(7, 20))]
    if dice.chance(0.5):
        facts = dice.some(scribe.almanac.relations[facts[0].topic.relation], dice.between(5, 10)) + facts[:5]
    title = scribe.sentence("headings") + "\n\n" if dice.chance(0.4) else ""
    if dice.chance(0.3):
        return title + "\n".join(f"- {_capital(scribe.say(fact))}." for fact in facts)
    return title + _paragraph(scribe, facts)


def _lesson(scribe: Scribe) -> str:
    """A story of a class, where people ask and know."""
    dice, story = scribe.dice, [scribe.sentence("lesson_starts")]
    for _ in range(dice.between(3, 8)):
        fact = scribe.fact()
        story.append(scribe.sentence("lesson_talk", q=scribe.ask(fact, typed=False), r=fact.reply))
        if dice.chance(0.35):
            story.append(_sentence(scribe, scribe.say(fact)))
        if dice.chance(0.35):
            story.append(scribe.sentence("lesson_events"))
    story.append(scribe.sentence("lesson_ends"))
    return dice.pick((" ", " ", "\n\n")).join(story)


def _dialogue(scribe: Scribe) -> str:
    """Questions of all kinds as people type them, with their answers; calls of the calculator between brackets."""
    dice, lines = scribe.dice, []
    voices, kinds = dice.pick(scribe.pools["voices"]), {kind: TURNS[kind] for kind in TURNS if kind != "choice"}
    for _ in range(dice.between(5, 12)):
        messages = _TURNS[dice.weighted(kinds)](scribe)
        for question, answer in zip(messages[::2], messages[1::2], strict=True):
            lines.append(scribe.fill(voices, q=question["content"], r=_shown(answer["content"])))
    return "\n".join(lines)


def _shown(content: str | list[dict]) -> str:
    if isinstance(content, str):
        return content
    tool, output, text = (part["text"] for part in content)
    return f"[{tool} = {output}] {text}"


def _choices(scribe: Scribe) -> str:
    """Multiple choice questions, often with the answer in words as well."""
    dice, parts = scribe.dice, []
    lead, explain = dice.pick(("\n", "\n", "\nAnswer:\n")), dice.chance(0.4)
    for _ in range(dice.between(2, 6)):
        fact = scribe.fact()
        question, line = _choice(scribe, fact)
        parts.append(question + lead + line + (f"\n{fact.reply}" if explain else ""))
    return "\n\n".join(parts)


def _arithmetic(scribe: Scribe) -> str:
    """Sums told in words and signs."""
    dice, lines = scribe.dice, []
    for _ in range(dice.between(6, 16)):
        forms, slots = _sum(scribe)
        signs = {name: forms[name][0] for name in ("op", "word") if name in forms}
        lines.append(_capital(scribe.fill(dice.pick(forms["say"]), **slots | signs)) + ".")
    return dice.pick((" ", "\n", "\n")).join(lines)


def _spelling(scribe: Scribe) -> str:
    """Words with their letters, in prose or as a list, and letters counted."""
    dice, lines = scribe.dice, []
    if dice.chance(0.5):
        words = [scribe.word() for _ in range(dice.between(10, 30))]
        return scribe.sentence("headings") + "\n\n" + "\n".join(f"- {word}: {' '.join(word)}" for word in words)
    for _ in range(dice.between(6, 16)):
        task = dice.weighted({"spell": 6, "count": 2, "length": 1})
        forms, slots = scribe.almanac.letters[task]["say"], _letters(scribe, task, scribe.word())
        lines.append(_capital(dice.pick(forms).format(**slots)) + ".")
    return dice.pick((" ", "\n")).join(lines)


_MAKERS = {"entry": _entry, "notes": _notes, "lesson": _lesson, "dialogue": _dialogue, "choice": _choices,
           "arithmetic": _arithmetic, "spelling": _spelling}


# ---------------------------------------------------------------------------- held-out questions

def questions(kind: str, n: int, seed: int = 0) -> list[dict]:
    """
    `n` held-out questions of one of KINDS: {"kind", "conversation" (one user message), "answer", "accept"}, for facts
    with "wrong" (answers of the same type). Facts take turns; only families of frames and wordings of tests.
    """
    assert kind in KINDS, kind
    facts = almanac().facts
    order = Dice("questions", kind, seed).some(facts, len(facts))
    made = []
    for i in range(n):
        scribe = Scribe(Dice("question", kind, seed, i), "test")
        made.append({"kind": kind} | _held_out(kind, scribe, order[i % len(order)]))
    return made


def _held_out(kind: str, scribe: Scribe, fact: Fact) -> dict:
    if kind == "facts":
        bare = re.sub("^(?:the|an?) ", "", fact.answer)
        return _question(scribe.ask(fact), fact.answer, bare, _BOTH_NUMBERS.get(bare, bare), relation=fact.topic.relation,
                         subject=fact.subject, wrong=fact.wrong)
    if kind == "choice":
        text, line = _choice(scribe, fact)
        return _question(text, line[-1], relation=fact.topic.relation, subject=fact.subject)
    if kind == "arithmetic":
        text, answer = _sum_question(scribe)
        return _question(text, answer[1]["text"], tool=answer[0]["text"])
    if kind == "unknown":
        return _question(scribe.ask(scribe.unknown()), scribe.almanac.ways["unknown"][0])
    task = scribe.dice.weighted({"spell": 2, "count": 2, "length": 1})
    text, _, slots = _letters_question(scribe, task, scribe.dice.pick(scribe.almanac.unseen_words))
    return _question(text, slots["l"].strip() if task == "spell" else slots["r"], task=task)


def _question(text: str, answer: str, *also: str, **extra) -> dict:
    conversation = {"messages": [{"role": "user", "content": text}]}
    return {"conversation": conversation, "answer": answer, "accept": list(dict.fromkeys((answer, *also)))} | extra


def is_correct(question: dict, reply: str) -> bool:
    """
    Judge a reply's text. A fact must be named whole, without another answer of its type that the question did not
    mention; a choice is the one letter after a "="; a number is the last one, a spelling the last run of letters; what
    is unknown must be said to be so, in any words.
    """
    reply = reply.strip()
    if question["kind"] == "unknown":
        return bool(_DOES_NOT_KNOW.search(reply))
    if question["kind"] == "choice":
        return re.findall(r"=(\w+)", reply) == [question["answer"]]
    if question["kind"] == "arithmetic" or question.get("task") in ("count", "length"):
        numbers = re.findall(r"-?\d+(?:\.\d+)?", reply.replace(",", ""))
        return bool(numbers) and numbers[-1] == question["answer"]
    if question["kind"] == "letters":
        runs = re.findall(r"\b[A-Za-z](?:[ ,-]+[A-Za-z])+\b", reply)
        return bool(runs) and re.sub(r"[ ,-]+", " ", runs[-1]).lower() == question["answer"]
    asked = question["conversation"]["messages"][-1]["content"]
    named = [answer for answer in question["accept"] if _names(reply, answer)]
    left = functools.reduce(lambda text, answer: text.replace(answer, ""), named, reply)
    return bool(named) and not any(_names(left, wrong) and not _names(asked, wrong) for wrong in question["wrong"])


def _names(text: str, answer: str) -> bool:
    """Whether the text has the answer as whole words; symbols such as He or Pb count in their own case only."""
    flags = 0 if len(answer) <= 2 else re.IGNORECASE
    return re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text, flags) is not None
