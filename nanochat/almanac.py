"""
The embedded almanac: a small true world told in many ways, so that a tiny network can learn it within minutes.

documents() for pretraining, conversations() for finetuning, questions() for evaluation: pure, seeded, offline.
What evaluation asks is held out by construction: question wordings, number pairs, words to spell, and (for the
"val" split) a tenth of all fact-and-wording combinations. Draws use random.random() and blake2b alone, so that
every Python makes the same text. Used by dataset.py (source "almanac") and tasks/almanac.py.
"""

import functools
import hashlib
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from nanochat import almanac_facts as raw
from nanochat.calculator import evaluate

KINDS = ("facts", "choice", "arithmetic", "letters")
DOCUMENTS = {"entry": 24, "notes": 14, "comparison": 4, "table": 7, "letter": 5, "trip": 7, "lesson": 7,
             "dialogue": 6, "quiz": 12, "choice": 20, "arithmetic": 9, "spelling": 16}     # relative frequency
CONVERSATIONS = {"facts": 24, "choice": 24, "arithmetic": 26, "letters": 23, "chat": 3}     # of turns
HELD_OUT_PAIRS = 0.10                                   # share of number pairs that only questions() uses
HELD_OUT_COMBINATIONS = 0.10                            # share of (fact, wording) that only the val split uses
INVENTED_WORDS = 0.5                                    # share of words spliced from two: tokens in new company
SHORTEST_DOCUMENT = 350                                 # characters; about 60 words
CHOICE_LETTERS = ("A", "B", "C", "D")
_PLACES = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()
_NUMBER_WORDS = {"two": "2", "four": "4", "six": "6", "eight": "8"}


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
                return name
        return name


@dataclass
class Fact:
    """One subject and its answer in one relation, with all the ways to say it and to ask for it."""
    relation: str
    table: str
    subject: str
    answer: str
    says: list[str]                                     # clauses, no capital, no full stop
    shorts: list[str]                                   # clauses for a text that has just named the subject
    asks: dict[str, list[str]]                          # split -> whole questions
    replies: list[str]
    wrong: list[str] = field(default_factory=list)      # answers of the same type, for multiple choice


@dataclass
class World:
    facts: list[Fact]                                   # what can be asked, inverse relations included
    told: list[Fact]                                    # those that have statements
    relations: dict[str, list[Fact]]
    subjects: dict[str, list[list[Fact]]]               # table -> for each subject its told facts
    tables: dict[str, list[dict[str, str]]]
    words: list[str]                                    # to spell in training: those of a list and of the facts
    unseen_words: list[str]                             # never in any training text
    sums: dict[str, dict[str, list[str]]]               # operator -> say, ask, test, story, story_test
    letters: dict[str, dict[str, list[str]]]            # spell, count -> say, ask, test, reply
    chat: dict[str, dict[str, list[str]]]               # topic -> ask, reply


# ---------------------------------------------------------------------------- the world

@functools.cache
def world() -> World:
    """The parsed and rendered world, built on first use (tens of milliseconds)."""
    tables = {name: _rows(text) for name, text in raw.TABLES.items()}
    frames = _blocks(raw.FRAMES)["np"]
    facts = []
    for header, block in (_blocks(raw.RELATIONS) | _blocks(raw.SELF)).items():
        if "fact" in block:
            subject, answer, *wrong = block["fact"]
            facts.append(_fact(header, "self", subject, answer, {}, block, {"ask": [], "test": []}, wrong))
            continue
        name, table, subject, answer = header.split()
        made = [_fact(name, table, row[subject], row[answer], row, block, frames, [])
                for row in tables[table] if "-" not in (row[subject], row[answer])]
        for fact in made:
            others = dict.fromkeys([other.answer for other in made] + block.get("wrong", []))
            right = {other.answer for other in made if other.subject == fact.subject}
            fact.wrong = [answer for answer in others if answer not in right]
        facts += made
    relations: dict[str, list[Fact]] = {}
    subjects: dict[str, dict[str, list[Fact]]] = {}
    for fact in facts:
        relations.setdefault(fact.relation, []).append(fact)
        if fact.says:
            key = fact.answer if fact.relation == "trait" else fact.subject
            subjects.setdefault(fact.table, {}).setdefault(key, []).append(fact)
    told = [fact for fact in facts if fact.says]
    texts = (raw.WORDS, raw.RELATIONS, raw.SELF, raw.ARITHMETIC, *raw.TABLES.values())
    words = sorted(set(re.findall(r"\b[a-z]{3,10}\b", " ".join(texts))))
    groups = {table: list(group.values()) for table, group in subjects.items()}
    return World(facts, told, relations, groups, tables, words, raw.UNSEEN_WORDS.split(),
                 _blocks(raw.ARITHMETIC), _blocks(raw.LETTERS), _blocks(raw.CHAT))


def _rows(text: str) -> list[dict[str, str]]:
    header, *records = text.strip().replace("; ", "\n").split("\n")
    return [dict(zip(header.split("|"), record.split("|"), strict=True)) for record in records]


def _blocks(text: str) -> dict[str, dict[str, list[str]]]:
    """{header: {key: items}} of the format described in almanac_facts.py; a line with a leading space goes on."""
    blocks: dict[str, dict[str, list[str]]] = {}
    for line in text.strip().split("\n"):
        if line.startswith("== "):
            block = blocks.setdefault(line[3:], {})
        elif line.startswith(" "):
            items += _items(line)
        else:
            key, _, rest = line.partition(": ")
            items = block[key] = _items(rest)
    return blocks


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.replace("\n", "|").split("|") if item.strip()]


def _fact(name, table, subject, answer, row, block, frames, wrong) -> Fact:
    slots = row | {"s": subject, "a": answer, "xs": _article(subject), "xa": _article(answer),
                   "ps": row.get("plural", ""), "w": row.get("whole", "")}
    if row.get("place") in _PLACES:
        slots["n"] = str(_PLACES.index(row["place"]) + 1)
    noun_phrase = block.get("np", [""])[0].format(**slots)
    asks: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for wording in block["ask"] + frames["ask"]:
        unseen = _stable_hash("combination", name, subject, wording) % 1000 < 1000 * HELD_OUT_COMBINATIONS
        asks["val" if unseen else "train"].append(_capital(wording.format(np=noun_phrase, **slots)))
    for wording in block["test"] + frames["test"]:
        asks["test"].append(_capital(wording.format(np=noun_phrase, **slots)))
    asks["val"] = asks["val"] or asks["train"]          # a fact none of whose wordings fell into the tenth
    says, shorts, replies = ([form.format(**slots) for form in block.get(key, [])]
                             for key in ("say", "short", "reply"))
    return Fact(name, table, subject, answer, says, shorts, asks, [_capital(reply) for reply in replies], wrong)


def _stable_hash(*parts: str | int) -> int:
    """64 bits that depend on the parts alone, not on the process or the platform."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _article(noun: str) -> str:
    return f"an {noun}" if noun[:1] in "aeiou" else f"a {noun}"


def _capital(text: str) -> str:
    at = 1 if text[:1] == '"' else 0
    return text[:at] + text[at:at + 1].upper() + text[at + 1:]


# ---------------------------------------------------------------------------- documents

def documents(seed: int = 0, split: str = "train") -> Iterator[str]:
    """Endless documents of about 60 to 400 words; split "val" has other draws and its own share of wordings."""
    makers: dict[str, Callable[[Scribe], str]] = {
        "entry": _entry, "notes": _notes, "comparison": _comparison, "table": _table, "letter": _letter,
        "trip": _trip, "lesson": _lesson, "dialogue": _dialogue, "quiz": _quiz, "choice": _choices,
        "arithmetic": _arithmetic, "spelling": _spelling}
    index = 0
    while True:
        scribe = Scribe(Dice("document", split, seed, index), split)
        maker = makers[scribe.dice.weighted(DOCUMENTS)]
        text = maker(scribe)
        while len(text) < SHORTEST_DOCUMENT:
            text += "\n\n" + maker(scribe)
        yield text
        index += 1


@functools.cache
def _pool(name: str) -> list[str]:
    """A list of texts of almanac_facts.py by its name there."""
    if name in raw.POOLS:
        return _items(raw.POOLS[name]) if "|" in raw.POOLS[name] else raw.POOLS[name].split()
    return _items(getattr(raw, name))


class Scribe:
    """The writer of one document or conversation: its dice, its split, and the people and things in it."""

    def __init__(self, dice: Dice, split: str):
        self.dice, self.split, self.world = dice, split, world()
        heroine = dice.chance(0.5)
        self.slots = {"n": dice.pick(_pool("woman" if heroine else "man")), "p": "she" if heroine else "he",
                      "o": "her" if heroine else "his", "m": dice.pick(_pool("man" if heroine else "woman")),
                      "t": dice.pick(_pool("thing")), "j": dice.pick(_pool("job"))}

    def fill(self, pool: str, **slots: str) -> str:
        """A sentence of the pool, filled and capitalised."""
        form, pick = self.dice.pick(_pool(pool)), self.dice.pick
        if "{" not in form:
            return _capital(form)
        drawn = {key: pick(_pool(key)) for key in ("adj", "job", "aunt", "next") if key in form}
        day, month = pick(self.world.tables["day"]), pick(self.world.tables["month"])
        drawn |= {"xadj": _article(drawn.get("adj", "")), "thing": pick(_pool("thing")), "day": day["name"],
                  "month": month["name"], "i": str(self.dice.between(3, 90))}
        return _capital(form.format(**self.slots | drawn | slots))

    def sentence(self, clause: str) -> str:
        if self.dice.chance(0.25) and not clause.startswith(raw.ORDERS):
            clause = f"{self.fill('OPENINGS')} {clause}"
        return _capital(clause) + "."

    def paragraph(self, clauses: Sequence[str]) -> str:
        """The clauses as sentences, some joined in pairs, some with an opening."""
        sentences, i = [], 0
        while i < len(clauses):
            clause = clauses[i]
            if self.dice.chance(0.22) and i + 1 < len(clauses):
                i += 1
                clause = f"{clause}{self.dice.pick(raw.JOINS)} {clauses[i]}"
            sentences.append(self.sentence(clause))
            i += 1
        return " ".join(sentences)

    def ask(self, fact: Fact) -> str:
        return self.dice.pick(fact.asks[self.split])

    def reply(self, fact: Fact) -> str:
        """Mostly the first form, so that there is one expected answer."""
        return fact.replies[0] if self.dice.chance(0.8) else self.dice.pick(fact.replies)

    def word(self) -> str:
        """A word to spell: of the training list, or spliced from two of its words."""
        if not self.dice.chance(INVENTED_WORDS):
            return self.dice.pick(self.world.words)
        while True:
            first, second = self.dice.pick(self.world.words), self.dice.pick(self.world.words)
            word = first[:self.dice.between(2, 5)] + second[-self.dice.between(2, 5):]
            if word not in _unseen():
                return word


@functools.cache
def _unseen() -> frozenset[str]:
    return frozenset(world().unseen_words)


def _about(scribe: Scribe, facts: Sequence[Fact]) -> list[str]:
    """Clauses that tell facts on one subject, some of them twice, in different words."""
    dice, clauses = scribe.dice, []
    for fact in dice.some(facts, len(facts)):
        short = clauses and fact.shorts and dice.chance(0.4)
        clauses.append(dice.pick(fact.shorts if short else fact.says))
    for fact in facts:
        if dice.chance(0.6):
            clauses.append(dice.pick(fact.says))
    return clauses


def _entry(scribe: Scribe) -> str:
    """Encyclopedia-like: one to five subjects of one kind, a paragraph each."""
    dice = scribe.dice
    fact = dice.pick(scribe.world.told)
    groups = scribe.world.subjects[fact.table]
    chosen = dice.some(groups, dice.between(2, 6) if len(groups[0]) > 1 else dice.between(6, 14))
    if len(groups[0]) == 1:                             # one clause each: all of them make one text
        return scribe.paragraph([dice.pick(facts[0].says) for facts in chosen])
    style, parts = dice.between(0, 3), []
    for facts in chosen:
        name = facts[0].subject if facts[0].relation != "trait" else facts[0].answer
        heading = ("", f"{_capital(name)}\n", f"# {_capital(name)}\n\n", f"{_capital(name)}: ")[style]
        parts.append(heading + scribe.paragraph(_about(scribe, facts)))
    return "\n\n".join(parts)


def _notes(scribe: Scribe) -> str:
    """Statements on mixed facts, or on several facts of a few relations."""
    dice = scribe.dice
    if dice.chance(0.5):
        facts = [dice.pick(scribe.world.told) for _ in range(dice.between(7, 24))]
    else:
        facts = []
        for _ in range(dice.between(1, 3)):
            group = scribe.world.relations[dice.pick(scribe.world.told).relation]
            facts += dice.some(group, dice.between(5, 10))
    clauses = [dice.pick(fact.says) for fact in facts]
    title = scribe.fill("HEADINGS") + "\n\n" if dice.chance(0.4) else ""
    if dice.chance(0.25):
        mark = dice.pick(("- ", "* ", ""))
        return title + "\n".join(mark + scribe.sentence(clause) for clause in clauses)
    middle = dice.between(3, len(clauses))
    return (title + scribe.paragraph(clauses[:middle]) + "\n\n" + scribe.paragraph(clauses[middle:])).strip()


def _comparison(scribe: Scribe) -> str:
    """Two subjects at a time, alike or different in one relation."""
    dice = scribe.dice
    groups = [group for group in scribe.world.relations.values() if len(group) > 1 and group[0].says]
    group, sentences = dice.pick(groups), []
    for _ in range(dice.between(3, 8)):
        one, two = dice.some(group, 2)
        link = dice.pick(raw.ALIKE if one.answer == two.answer else raw.DIFFERENT)
        sentences.append(scribe.sentence(dice.pick(one.says) + link + dice.pick(two.says)))
    return " ".join(sentences)


def _table(scribe: Scribe) -> str:
    """Rows of a table in one of several layouts, then a few of its facts in words."""
    dice = scribe.dice
    name = dice.pick([fact for fact in scribe.world.told if fact.table != "self"]).table
    rows = scribe.world.tables[name]
    columns = ["name"] + dice.some([key for key in rows[0] if key not in ("name", "whole")], dice.between(1, 3))
    rows = [row for row in dice.some(rows, dice.between(6, 16)) if "-" not in (row[key] for key in columns)]
    cells = [[row[key] if key != "name" or name != "unit" else f"{row[key]} in {row['whole']}" for key in columns]
             for row in rows]
    labels = [name] + columns[1:]
    style = dice.between(0, 5)
    if style <= 1:
        bar = (" | ", ", ")[style]
        lines = [bar.join(line) for line in [labels] + cells]
    elif style == 2:
        lines = [f"{first}: {', '.join(rest)}" for first, *rest in cells]
    elif style == 3:
        lines = [f"{i}. {first} ({', '.join(rest)})" for i, (first, *rest) in enumerate(cells, 1)]
    elif style == 4:
        lines = ["- " + "; ".join(f"{label}: {cell}" for label, cell in zip(labels, line, strict=True))
                 for line in cells]
    else:
        lines = [" -> ".join(line) for line in cells]
    intro = dice.pick(("", "The table shows {l}.\n\n", "Here is a list: {l}.\n\n", "{n} made a list with {l}.\n\n",
                       "In this order: {l}.\n\n", "# {l}\n\n")).format(l=", ".join(labels), **scribe.slots)
    names = {row["name"] for row in rows}
    facts = [fact for fact in scribe.world.told if fact.table == name and fact.subject in names]
    clauses = [dice.pick(fact.says) for fact in dice.some(facts, dice.between(0, 5))]
    return (intro + "\n".join(lines) + "\n\n" + scribe.paragraph(clauses)).strip()


def _letter(scribe: Scribe) -> str:
    dice = scribe.dice
    facts = [dice.pick(scribe.world.told) for _ in range(dice.between(4, 12))]
    clauses = [dice.pick(fact.says) for fact in facts]
    body = [scribe.fill("LETTER_OPENINGS"), scribe.paragraph(clauses)]
    if dice.chance(0.5):
        fact = dice.pick(scribe.world.facts)
        body.append(f"You asked me: {scribe.ask(fact)} {scribe.reply(fact)}")
    body.append(scribe.fill("LETTER_ENDINGS"))
    slots = scribe.slots
    return f"Dear {slots['m']},\n\n{' '.join(body)}\n\n{dice.pick(_pool('SIGNATURES'))}\n{slots['n']}"


def _trip(scribe: Scribe) -> str:
    """A traveler goes from country to country."""
    dice = scribe.dice
    story = [scribe.fill("TRIP_STARTS")]
    for row in dice.some(scribe.world.tables["country"], dice.between(2, 5)):
        slots = {"s": row["name"]} | row
        steps = [scribe.fill("TRIP_STEPS", **slots), scribe.fill("TRIP_MONEY", **slots)]
        if row["language"] != "-":
            steps.append(scribe.fill("TRIP_TALK", **slots))
        if dice.chance(0.6):
            steps.append(scribe.fill("TRIP_EVENTS"))
        story.append(" ".join(steps[:1] + dice.some(steps[1:], dice.between(1, 3))))
    story.append(scribe.fill("TRIP_ENDS"))
    return dice.pick((" ", "\n\n")).join(story)


def _lesson(scribe: Scribe) -> str:
    """A class, a zoo or a field, where people ask and know."""
    dice = scribe.dice
    story = [scribe.fill("CLASS_STARTS")]
    group = scribe.world.relations[dice.pick(scribe.world.facts).relation]
    for _ in range(dice.between(3, 8)):
        fact = dice.pick(group if dice.chance(0.4) else scribe.world.facts)
        story.append(scribe.fill("CLASS_TALK", q=scribe.ask(fact), r=scribe.reply(fact)))
        if fact.says and dice.chance(0.4):
            story.append(scribe.sentence(dice.pick(fact.says)))
        if dice.chance(0.35):
            story.append(scribe.fill("CLASS_EVENTS"))
    story.append(scribe.fill("CLASS_ENDS"))
    return dice.pick((" ", " ", "\n\n")).join(story)


def _dialogue(scribe: Scribe) -> str:
    dice = scribe.dice
    one, two = dice.some((scribe.slots["n"], scribe.slots["m"]), 2)
    lines = []
    for _ in range(dice.between(4, 10)):
        fact = dice.pick(scribe.world.facts)
        lines += [f"{one}: {scribe.ask(fact)}", f"{two}: {scribe.reply(fact)}"]
        if dice.chance(0.3):
            lines.append(f"{one}: {dice.pick(_pool('FILLERS'))}")
        if dice.chance(0.2):
            one, two = two, one
    return "\n".join(lines)


def _quiz(scribe: Scribe) -> str:
    """Questions with their answers, short or in whole sentences."""
    dice = scribe.dice
    before, between, after = dice.pick((
        ("Question: ", "\nAnswer: ", "\n\n"), ("Q: ", "\nA: ", "\n"), ("", " ", "\n"), ("- ", " ", "\n"),
        ("", "\n", "\n\n"), ("Ask: ", " Say: ", "\n")))
    whole = dice.chance(0.7)
    parts = []
    for _ in range(dice.between(5, 12)):
        roll = dice.random()
        if roll < 0.06:
            _, x, y, z = _sum(scribe)
            question, answer = f"What is {x} + {y}?", f"{x} + {y} = {x + y}."
        elif roll < 0.12:
            word = scribe.word()
            question, answer = f"How do you spell {word}?", f"The word {word} is spelled{_spelled(word)}."
        else:
            fact = dice.pick(scribe.world.facts)
            question, answer = scribe.ask(fact), scribe.reply(fact) if whole else _capital(fact.answer)
        parts.append(f"{before}{question}{between}{answer}")
    return after.join(parts)


def _choice(scribe: Scribe, fact: Fact, question: str) -> tuple[str, str]:
    """
    A multiple choice question in one of the frames, and the line of its answer. The whole line, since a network that
    has named the answer only has to copy the letter behind it; to bind the two at once takes far longer to learn.
    """
    dice = scribe.dice
    options = dice.some([fact.answer] + dice.some(fact.wrong, len(CHOICE_LETTERS) - 1), len(CHOICE_LETTERS))
    lines = [f"- {option}={letter}" for option, letter in zip(options, CHOICE_LETTERS, strict=True)]
    before, after = dice.pick(raw.CHOICE_FRAMES)
    return before.format(q=question) + "\n".join(lines) + after, lines[options.index(fact.answer)]


def _choices(scribe: Scribe) -> str:
    """Multiple choice questions, often with the answer in words as well."""
    dice, parts = scribe.dice, []
    lead, explain = dice.pick(("\n", "\n", "\nAnswer:\n")), dice.chance(0.5)
    for _ in range(dice.between(2, 6)):
        fact = dice.pick(scribe.world.facts)
        question, line = _choice(scribe, fact, scribe.ask(fact))
        parts.append(f"{question}{lead}{line}" + (f"\n{scribe.reply(fact)}" if explain else ""))
    return "\n\n".join(parts)


def pair_is_held_out(x: int, y: int) -> bool:
    """Whether training never computes with these two numbers, in either order."""
    return _stable_hash("pair", min(x, y), max(x, y)) % 1000 < 1000 * HELD_OUT_PAIRS


def _sum(scribe: Scribe, operation: str = "+", held_out: bool = False) -> tuple[str, int, int, int]:
    """(operator, x, y, result): two- and three-digit numbers; differences not negative, quotients whole."""
    dice = scribe.dice
    while True:
        high = 99 if dice.chance(0.6) else 999
        x, y = dice.between(11, high), dice.between(11, high)
        if operation == "-":
            x, y = max(x, y), min(x, y)
        elif operation in "*/":
            y = dice.between(2, 12 if dice.chance(0.6) else 40)
            x = x if operation == "*" else y * dice.between(3, 99)
        if pair_is_held_out(x, y) == held_out:
            return operation, x, y, {"+": x + y, "-": x - y, "*": x * y, "/": x // y}[operation]


def _arithmetic(scribe: Scribe) -> str:
    """Sums told in words and signs, and small word problems with their solution."""
    dice, lines = scribe.dice, []
    for _ in range(dice.between(6, 16)):
        operation, x, y, z = _sum(scribe, dice.pick("+-*/"))
        forms, slots = scribe.world.sums[operation], scribe.slots | {"x": x, "y": y, "z": z}
        roll = dice.random()
        if roll < 0.25:
            slots["t"] = dice.pick(_pool("thing"))
            lines.append(f"{_capital(dice.pick(forms['story']).format(**slots))} {x} {operation} {y} = {z}.")
        elif roll < 0.5:
            lines.append(f"{_capital(dice.pick(forms['ask']).format(**slots))} {x} {operation} {y} = {z}.")
        else:
            lines.append(scribe.sentence(dice.pick(forms["say"]).format(**slots)))
    return dice.pick((" ", "\n", "\n")).join(lines)


def _spelled(word: str) -> str:
    """Every letter behind a space of its own, the first too: one token each, always the same."""
    return " " + " ".join(word)


def _letter_slots(scribe: Scribe, word: str) -> dict[str, str]:
    """A letter to count in the word, its count, and the expression that counts it."""
    letter = scribe.dice.pick(word if scribe.dice.chance(0.75) else "abcdefghijklmnopqrstuvwxyz")
    count = word.count(letter)
    return {"w": word, "l": _spelled(word), "c": letter, "v": str(count), "k": _times(count),
            "e": f'"{_spelled(word)}".count(" {letter}")'}


def _times(count: int) -> str:
    return "1 time" if count == 1 else f"{count} times"


def _spelling(scribe: Scribe) -> str:
    """Words with their letters, in prose or as a list, and letters counted."""
    dice, forms = scribe.dice, scribe.world.letters
    if dice.chance(0.5):
        words = [scribe.word() for _ in range(dice.between(10, 30))]
        return scribe.fill("HEADINGS") + "\n\n" + "\n".join(f"- {word}:{_spelled(word)}" for word in words)
    lines = []
    for _ in range(dice.between(6, 16)):
        slots = scribe.slots | _letter_slots(scribe, scribe.word())
        form = forms["count"]["say"] if dice.chance(0.25) else forms["spell"]["say"]
        lines.append(_capital(dice.pick(form).format(**slots)) + ".")
    return dice.pick((" ", "\n")).join(lines)


# ---------------------------------------------------------------------------- conversations

def conversations(seed: int = 0, split: str = "train") -> Iterator[dict]:
    """Endless conversations {"messages": [...]}: one to four questions, a few greetings and system messages."""
    index = 0
    while True:
        scribe = Scribe(Dice("conversation", split, seed, index), split)
        dice, messages = scribe.dice, []
        if dice.chance(0.05):
            messages.append({"role": "system", "content": dice.pick(_pool("SYSTEMS"))})
        turns = 1
        while turns < 4 and dice.chance(0.35):
            turns += 1
        if turns > 1 and dice.chance(0.1):
            messages += _chat_turn(scribe, "greeting")
        for _ in range(turns):
            messages += _TURNS[dice.weighted(CONVERSATIONS)](scribe)
        if turns > 1 and dice.chance(0.1):
            messages += _chat_turn(scribe, dice.pick(("thanks", "goodbye")))
        yield {"messages": messages}
        index += 1


def _turn(question: str, answer: str | list[dict]) -> list[dict]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _casual(scribe: Scribe, question: str) -> str:
    """The question as people type it: mostly as it is, else polite, without its mark, or in small letters."""
    roll = scribe.dice.random()
    if roll < 0.12:
        return question.rstrip("?.")
    if roll < 0.22:
        return scribe.dice.pick(("Please answer: ", "Hello! ", "I want to ask: ", "OK. ")) + question
    if roll < 0.30:
        return question[:1].lower() + question[1:]
    return question


def _facts_turn(scribe: Scribe) -> list[dict]:
    dice, fact = scribe.dice, scribe.dice.pick(scribe.world.facts)
    messages = _turn(_casual(scribe, scribe.ask(fact)), scribe.reply(fact))
    other = dice.pick(scribe.world.relations[fact.relation])
    if other is not fact and dice.chance(0.06):
        follow_up = dice.pick(("And {s}?", "What about {s}?", "And what about {s}?"))
        messages += _turn(follow_up.format(s=other.subject), scribe.reply(other))
    return messages


def _choice_turn(scribe: Scribe) -> list[dict]:
    fact = scribe.dice.pick(scribe.world.facts)
    return _turn(*_choice(scribe, fact, scribe.ask(fact)))


def _tool_answer(expression: str, text: str) -> list[dict]:
    """Expression, its value and the closing sentence, in which {value} is that value."""
    value = evaluate(expression)
    assert value is not None, expression
    return [{"type": "python", "text": expression}, {"type": "python_output", "text": value},
            {"type": "text", "text": text.replace("{value}", value)}]


def _arithmetic_question(scribe: Scribe, split: str) -> tuple[str, str, int, int]:
    """(question, operator, x, y); split "test" has its own wordings, and numbers that training never pairs."""
    dice = scribe.dice
    operation, x, y, _ = _sum(scribe, dice.pick("+-*/"), held_out=split == "test")
    forms = scribe.world.sums[operation]
    wording = dice.pick(forms[("story" if dice.chance(0.4) else "ask") if split != "test" else
                              ("story_test" if dice.chance(0.4) else "test")])
    slots = scribe.slots | {"x": x, "y": y, "t": dice.pick(_pool("thing"))}
    return _capital(wording.format(**slots)), operation, x, y


def _arithmetic_turn(scribe: Scribe) -> list[dict]:
    question, operation, x, y = _arithmetic_question(scribe, scribe.split)
    answer = _tool_answer(f"{x}{operation}{y}", f"{x} {operation} {y} = {{value}}.")
    return _turn(_casual(scribe, question), answer)


def _letters_turn(scribe: Scribe) -> list[dict]:
    dice, forms = scribe.dice, scribe.world.letters
    slots = _letter_slots(scribe, scribe.word())
    kind = dice.pick(("spell", "count"))
    question = _casual(scribe, _capital(dice.pick(forms[kind]["ask"]).format(**slots)))
    answer = forms[kind]["reply"][0].format(**slots)
    return _turn(question, answer if kind == "spell" else _tool_answer(slots["e"], answer))


def _chat_turn(scribe: Scribe, topic: str | None = None) -> list[dict]:
    dice, chat = scribe.dice, scribe.world.chat
    topic = topic or dice.pick(list(chat))
    question = dice.pick(chat[topic]["ask"]).format(u=_capital(scribe.word()))
    mark = dice.pick("!.") if topic in ("greeting", "thanks", "goodbye") else "?"
    question = dice.pick((question, _capital(question), _capital(question) + mark))
    return _turn(question, chat[topic]["reply"][0])


_TURNS = {"facts": _facts_turn, "choice": _choice_turn, "arithmetic": _arithmetic_turn, "letters": _letters_turn,
          "chat": _chat_turn}


# ---------------------------------------------------------------------------- held-out questions

def questions(kind: str, n: int, seed: int = 0) -> list[dict]:
    """
    `n` held-out questions of one of KINDS: {"kind", "conversation" (one user message), "answer", "accept"}, with
    "letters" for choice and "wrong" (answers of the same type) for facts. Facts take turns; only test wordings.
    """
    assert kind in KINDS, kind
    order = Dice("questions", kind, seed).some(world().facts, len(world().facts))
    made = []
    for i in range(n):
        scribe = Scribe(Dice("question", kind, seed, i), "test")
        made.append({"kind": kind} | _QUESTIONS[kind](scribe, order[i % len(order)]))
    return made


def _question(text: str, answer: str, accept: list[str], **extra) -> dict:
    conversation = {"messages": [{"role": "user", "content": text}]}
    return {"conversation": conversation, "answer": answer, "accept": accept} | extra


def _facts_question(scribe: Scribe, fact: Fact) -> dict:
    accept = [fact.answer]
    if fact.answer in _NUMBER_WORDS:
        accept.append(_NUMBER_WORDS[fact.answer])
    elif fact.answer.startswith("the "):
        accept.append(fact.answer.removeprefix("the "))
    return _question(scribe.ask(fact), fact.answer, accept, relation=fact.relation, wrong=fact.wrong)


def _choice_question(scribe: Scribe, fact: Fact) -> dict:
    text, line = _choice(scribe, fact, scribe.ask(fact))
    return _question(text, line[-1], [line[-1]], relation=fact.relation)


def _sum_question(scribe: Scribe, _fact: Fact) -> dict:
    text, operation, x, y = _arithmetic_question(scribe, "test")
    value = evaluate(f"{x}{operation}{y}")
    assert value is not None
    return _question(text, value, [value], operation=operation)


def _letters_question(scribe: Scribe, _fact: Fact) -> dict:
    dice, forms = scribe.dice, scribe.world.letters
    slots = _letter_slots(scribe, dice.pick(scribe.world.unseen_words))
    task = dice.pick(("spell", "count"))
    answer = " ".join(slots["w"]) if task == "spell" else slots["v"]
    return _question(_capital(dice.pick(forms[task]["test"]).format(**slots)), answer, [answer], task=task)


_QUESTIONS = {"facts": _facts_question, "choice": _choice_question, "arithmetic": _sum_question,
              "letters": _letters_question}


def is_correct(question: dict, reply: str) -> bool:
    """
    Judge a reply's text. A fact must be named whole, without another answer of its type that the question did not
    mention; a choice is the one letter after a "="; a number is the last one; a spelling is the last run of single letters.
    """
    reply = reply.strip()
    if question["kind"] == "choice":
        return re.findall(r"=(\w+)", reply) == [question["answer"]]
    if question["kind"] == "arithmetic" or question.get("task") == "count":
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
