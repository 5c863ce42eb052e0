"""
The embedded almanac: a small true world told in many ways, so that a tiny network can learn it within minutes.

documents() for pretraining, conversations() for finetuning, questions() for evaluation: pure, seeded, offline.
What evaluation asks is held out by construction: question wordings, number pairs, words to spell, and (for the
"val" split) a tenth of all fact-and-wording combinations. Draws use random.random() and blake2b alone, so that
every Python makes the same text. Used by dataset.py (source "almanac") and tasks/almanac.py.
"""

import functools
import hashlib
import itertools
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from nanochat import almanac_facts as raw
from nanochat.calculator import evaluate

KINDS = ("facts", "choice", "arithmetic", "letters")
DOCUMENTS = {"entry": 24, "notes": 19, "comparison": 4, "table": 7, "trip": 7, "lesson": 7, "quiz": 18,
             "choice": 20, "arithmetic": 12, "spelling": 16}                                 # relative frequency
CONVERSATIONS = {"facts": 24, "choice": 22, "arithmetic": 29, "letters": 22, "chat": 3}     # of turns
HELD_OUT_PAIRS = 0.10                                   # share of number pairs that only questions() uses
HELD_OUT_COMBINATIONS = 0.10                            # share of (fact, wording) that only the val split uses
INVENTED_WORDS = 0.5                                    # share of words spliced from two: tokens in new company
SHORTEST_DOCUMENT = 350                                 # characters; about 60 words
CHOICE_LETTERS = "ABCD"
_SIGNS = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}
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
                break
        return name


@dataclass
class Fact:
    """One subject and its answer in one relation, with all the ways to say it and to ask for it."""
    relation: str
    table: str
    topic: str                                          # what an entry tells it under: mostly the subject
    subject: str
    answer: str
    says: list[str]                                     # clauses, no capital, no full stop; none if inverse
    asks: dict[str, list[str]]                          # split -> whole questions
    reply: str
    wrong: list[str] = field(default_factory=list)      # answers of the same type, for multiple choice


@dataclass
class World:
    facts: list[Fact]                                   # what can be asked, inverse relations included
    told: list[Fact]                                    # those that have statements
    relations: dict[str, list[Fact]]
    subjects: dict[str, list[list[Fact]]]               # table -> for each subject its told facts
    tables: dict[str, list[dict[str, str]]]
    pools: dict[str, list[str]]                         # sentences of stories, and what fills their slots
    words: list[str]                                    # to spell in training: those of a list and of the facts
    unseen_words: list[str]                             # never in any training text
    sums: dict[str, dict[str, list[str]]]               # operator -> say, ask, test, story, story_test
    letters: dict[str, dict[str, list[str]]]            # spell, count -> say, ask, test, reply
    chat: dict[str, list[str]]                          # topic -> the reply, then what it replies to


# ---------------------------------------------------------------------------- the world

@functools.cache
def world() -> World:
    """The parsed and rendered world, built on first use (tens of milliseconds)."""
    tables, frames = _tables(raw.TABLES), _blocks(raw.FRAMES)[""]
    facts: list[Fact] = []
    for header, block in _blocks(raw.RELATIONS).items():
        name, columns, *phrases = header.split(" | ")
        table, subject, answer = columns.split()
        made = [_fact(name, table, row[subject], row[answer], block, frames, row, *phrases)
                for row in tables[table] if "-" not in (row[subject], row[answer])]
        for fact in made:
            right = {other.answer for other in made if other.subject == fact.subject}
            others = [other.answer for other in made] + block.get("wrong", [])
            fact.wrong = [answer for answer in dict.fromkeys(others) if answer not in right]
        facts += made
    for header, block in _blocks(raw.SELF).items():
        name, subject, answer, *wrong = header.split(" | ")
        facts.append(_fact(name, "self", subject, answer, block, {}, {}))
        facts[-1].wrong = wrong
    told = [fact for fact in facts if fact.says]
    relations: dict[str, list[Fact]] = {}
    for fact in facts:
        relations.setdefault(fact.relation, []).append(fact)
    subjects: dict[str, dict[str, list[Fact]]] = {}
    for fact in told:
        subjects.setdefault(fact.table, {}).setdefault(fact.topic, []).append(fact)
    texts = " ".join((raw.WORDS, raw.TABLES, raw.RELATIONS, raw.SELF, raw.ARITHMETIC))
    return World(facts, told, relations, {table: list(groups.values()) for table, groups in subjects.items()},
                 tables, _blocks(raw.POOLS)[""], sorted(set(re.findall(r"\b[a-z]{3,10}\b", texts))),
                 raw.UNSEEN_WORDS.split(), _blocks(raw.ARITHMETIC), _blocks(raw.LETTERS), _blocks(raw.CHAT)[""])


def _tables(text: str) -> dict[str, list[dict[str, str]]]:
    tables = {}
    for block in text.split("\n== ")[1:]:
        header, *records = block.strip().replace("; ", "\n").split("\n")
        name, *columns = header.split(" | ")
        tables[name] = [dict(zip(columns, record.split("|"), strict=True)) for record in records]
    return tables


def _blocks(text: str) -> dict[str, dict[str, list[str]]]:
    """{header: {key: items}} of the format described in almanac_facts.py."""
    blocks: dict[str, dict[str, list[str]]] = {}
    headers: list[str] = []
    key = ""
    for line in text.strip().split("\n"):
        if line.startswith("== "):
            headers, key = ([] if key else headers) + [line[3:]], ""
            continue
        if not line.startswith(" "):
            key, _, line = line.partition(": ")
        for header in headers or [""]:
            blocks.setdefault(header, {}).setdefault(key, []).extend(item.strip() for item in line.split(" | "))
    return blocks


def _fact(name: str, table: str, subject: str, answer: str, block: dict, frames: dict, row: dict,
          noun_phrase: str = "", answer_phrase: str = "{a}") -> Fact:
    slots = row | {"s": subject, "a": answer, "xs": _article(subject), "xa": _article(answer), "table": table}
    slots |= {"np": noun_phrase.format(**slots), "ap": answer_phrase.format(**slots)}
    forms = {key: [form.format(**slots) for form in block[key] + frames.get(key, [])] for key in block}
    asks: dict[str, list[str]] = {"train": [], "val": [], "test": list(map(_capital, forms["test"]))}
    for wording in forms["ask"]:
        unseen = _stable_hash("combination", name, subject, wording) % 1000 < 1000 * HELD_OUT_COMBINATIONS
        asks["val" if unseen else "train"].append(_capital(wording))
    asks["val"] = asks["val"] or asks["train"]          # a fact none of whose wordings fell into the tenth
    says = forms.get("say", [])
    reply = forms.get("reply", says)[0]
    return Fact(name, table, row.get("name", subject), subject, answer, says, asks, _capital(reply) + ".")


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
    for index in itertools.count():
        scribe = Scribe(Dice("document", split, seed, index), split)
        maker = _MAKERS[scribe.dice.weighted(DOCUMENTS)]
        text = maker(scribe)
        while len(text) < SHORTEST_DOCUMENT:
            text += "\n\n" + maker(scribe)
        yield text


class Scribe:
    """The writer of one document or conversation: its dice, its split, and the people in it."""

    def __init__(self, dice: Dice, split: str):
        self.dice, self.split, self.world = dice, split, world()
        heroine, pools = dice.chance(0.5), self.world.pools
        one, other = ("women", "men") if heroine else ("men", "women")
        self.slots = {"n": dice.pick(pools[one]), "m": dice.pick(pools[other]), "j": dice.pick(pools["job"]),
                      "p": "she" if heroine else "he", "o": "her" if heroine else "his"}

    def fill(self, pool: str, **slots: str) -> str:
        """A sentence of the pool, filled and capitalised."""
        form, pick = self.dice.pick(self.world.pools[pool]), self.dice.pick
        if "{" in form:
            drawn = {key: pick(self.world.pools[key]) for key in ("adj", "next", "t")}
            drawn |= {key: pick(self.world.tables[key])["name"] for key in ("day", "month")}
            form = form.format(**self.slots | drawn | {"i": self.dice.between(3, 90)} | slots)
        return _capital(form)

    def sentence(self, clause: str) -> str:
        if self.dice.chance(0.25) and not clause.startswith(raw.ORDERS):
            clause = f"{self.fill('openings')} {clause}"
        return _capital(clause) + "."

    def say(self, fact: Fact) -> str:
        return self.dice.pick(fact.says)

    def paragraph(self, facts: Sequence[Fact]) -> str:
        """A statement of each fact as sentences, some joined in pairs, some with an opening."""
        sentences, left = [], iter(facts)
        for fact in left:
            clause = self.say(fact)
            if self.dice.chance(0.22) and (other := next(left, None)):
                clause += f"{self.dice.pick(raw.JOINS)} {self.say(other)}"
            sentences.append(self.sentence(clause))
        return " ".join(sentences)

    def ask(self, fact: Fact) -> str:
        return self.dice.pick(fact.asks[self.split])

    def word(self) -> str:
        """A word to spell: of the training list, or spliced from two of its words."""
        dice, words = self.dice, self.world.words
        if not dice.chance(INVENTED_WORDS):
            return dice.pick(words)
        while True:
            word = dice.pick(words)[:dice.between(2, 5)] + dice.pick(words)[-dice.between(2, 5):]
            if word not in self.world.unseen_words:
                return word


def _entry(scribe: Scribe) -> str:
    """Encyclopedia-like: subjects of one kind, a paragraph each; or one paragraph if each has a single fact."""
    dice = scribe.dice
    groups = scribe.world.subjects[dice.pick(scribe.world.told).table]
    if len(groups[0]) == 1:
        return scribe.paragraph([facts[0] for facts in dice.some(groups, dice.between(6, 14))])
    heading, parts = dice.pick(("", "{}\n", "# {}\n\n", "{}: ")), []
    for facts in dice.some(groups, dice.between(2, 6)):
        told = dice.some(facts, len(facts)) + [fact for fact in facts if dice.chance(0.6)]
        parts.append(heading.format(_capital(facts[0].topic)) + scribe.paragraph(told))
    return "\n\n".join(parts)


def _notes(scribe: Scribe) -> str:
    """Statements on mixed facts, or on several facts of a few relations."""
    dice, told = scribe.dice, scribe.world.told
    if dice.chance(0.5):
        facts = [dice.pick(told) for _ in range(dice.between(7, 24))]
    else:
        facts = []
        for _ in range(dice.between(1, 3)):
            facts += dice.some(scribe.world.relations[dice.pick(told).relation], dice.between(5, 10))
    title = scribe.fill("headings") + "\n\n" if dice.chance(0.4) else ""
    if dice.chance(0.25):
        mark = dice.pick(("- ", "* ", ""))
        return title + "\n".join(mark + scribe.sentence(scribe.say(fact)) for fact in facts)
    middle = dice.between(3, len(facts))
    return (title + scribe.paragraph(facts[:middle]) + "\n\n" + scribe.paragraph(facts[middle:])).strip()


def _comparison(scribe: Scribe) -> str:
    """Two subjects at a time, alike or different in one relation."""
    dice, sentences = scribe.dice, []
    group = dice.pick([group for group in scribe.world.relations.values() if len(group) > 1 and group[0].says])
    for _ in range(dice.between(3, 8)):
        one, two = dice.some(group, 2)
        link = dice.pick(raw.ALIKE if one.answer == two.answer else raw.DIFFERENT)
        sentences.append(scribe.sentence(scribe.say(one) + link + scribe.say(two)))
    return " ".join(sentences)


def _table(scribe: Scribe) -> str:
    """Rows of a table in one of several layouts, then a few of its facts in words."""
    dice, tables = scribe.dice, scribe.world.tables
    name = dice.pick([fact for fact in scribe.world.told if fact.table not in ("self", "unit")]).table
    columns = dice.some([key for key in tables[name][0] if key != "name"], dice.between(1, 3))
    rows = [row for row in dice.some(tables[name], dice.between(6, 16))
            if "-" not in (row[key] for key in columns)]
    labels, lines = ["name", *columns], [[row["name"], *(row[key] for key in columns)] for row in rows]
    bar = dice.pick((" | ", ", ", " -> ", ""))
    if bar:
        lines = [bar.join(line) for line in [labels, *lines]]
    else:
        lines = ["- " + "; ".join(map(": ".join, zip(labels, line, strict=True))) for line in lines]
    intro = dice.pick(("", "The table shows {l}.\n\n", "Here is a list: {l}.\n\n", "{n} wrote a list: {l}.\n\n"))
    names = {row["name"] for row in rows}
    facts = [fact for fact in scribe.world.told if fact.table == name and fact.subject in names]
    told = scribe.paragraph(dice.some(facts, dice.between(0, 5)))
    return (intro.format(l=", ".join(labels), **scribe.slots) + "\n".join(lines) + "\n\n" + told).strip()


def _trip(scribe: Scribe) -> str:
    """A traveler goes from country to country."""
    dice = scribe.dice
    story = [scribe.fill("trip_starts")]
    for row in dice.some(scribe.world.tables["country"], dice.between(2, 5)):
        slots = {"s": row["name"]} | row
        pools = ["trip_money", "trip_events"] + (["trip_talk"] if row["language"] != "-" else [])
        steps = ["trip_steps"] + dice.some(pools, dice.between(1, 3))
        story.append(" ".join(scribe.fill(pool, **slots) for pool in steps))
    story.append(scribe.fill("trip_ends"))
    return dice.pick((" ", "\n\n")).join(story)


def _lesson(scribe: Scribe) -> str:
    """A class or a zoo, where people ask and know."""
    dice, facts = scribe.dice, scribe.world.facts
    story = [scribe.fill("class_starts")]
    group = scribe.world.relations[dice.pick(facts).relation]
    for _ in range(dice.between(3, 8)):
        fact = dice.pick(group if dice.chance(0.4) else facts)
        story.append(scribe.fill("class_talk", q=scribe.ask(fact), r=fact.reply))
        if fact.says and dice.chance(0.4):
            story.append(scribe.sentence(scribe.say(fact)))
        if dice.chance(0.35):
            story.append(scribe.fill("class_events"))
    story.append(scribe.fill("class_ends"))
    return dice.pick((" ", " ", "\n\n")).join(story)


def _quiz(scribe: Scribe) -> str:
    """Questions with their answers, short or in whole sentences, or as a dialogue."""
    dice, slots = scribe.dice, scribe.slots
    before, between, after = dice.pick((
        ("Question: ", "\nAnswer: ", "\n\n"), ("Q: ", "\nA: ", "\n"), ("", " ", "\n"), ("- ", " ", "\n"),
        ("", "\n", "\n\n"), (f"{slots['n']}: ", f"\n{slots['m']}: ", "\n")))
    whole, parts = dice.chance(0.7), []
    for _ in range(dice.between(5, 12)):
        fact = dice.pick(scribe.world.facts)
        parts.append(before + scribe.ask(fact) + between + (fact.reply if whole else _capital(fact.answer)))
    return after.join(parts)


def _choice(scribe: Scribe, fact: Fact, question: str) -> tuple[str, str]:
    """
    A multiple choice question in one of the frames, and the line of its answer. The whole line: a network that has
    named the answer only has to copy the letter behind it; the bare letter it did not learn (dev/LOG.md).
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
        parts.append(question + lead + line + (f"\n{fact.reply}" if explain else ""))
    return "\n\n".join(parts)


def pair_is_held_out(x: int, y: int) -> bool:
    """Whether training never computes with these two numbers, in either order."""
    return _stable_hash("pair", min(x, y), max(x, y)) % 1000 < 1000 * HELD_OUT_PAIRS


def _sum_slots(scribe: Scribe, held_out: bool = False) -> dict[str, str | int]:
    """A sum of two- and three-digit numbers, its sign and its result; not negative, quotients whole."""
    dice = scribe.dice
    sign = dice.pick("+-*/")
    while True:
        high = 99 if dice.chance(0.6) else 999
        x, y = dice.between(11, high), dice.between(11, high)
        if sign == "-":
            x, y = max(x, y), min(x, y)
        elif sign in "*/":
            y = dice.between(2, 12 if dice.chance(0.6) else 40)
            x = x if sign == "*" else y * dice.between(3, 99)
        if pair_is_held_out(x, y) == held_out:
            z = {"+": x + y, "-": x - y, "*": x * y, "/": x // y}[sign]
            return scribe.slots | {"x": x, "y": y, "z": z, "sign": sign, "word": _SIGNS[sign],
                                   "t": dice.pick(scribe.world.pools["t"])}


def _arithmetic(scribe: Scribe) -> str:
    """Sums told in words and signs, and small word problems with their solution."""
    dice, lines = scribe.dice, []
    for _ in range(dice.between(6, 16)):
        slots, kind = _sum_slots(scribe), dice.pick(("story", "ask", "say", "say"))
        text = dice.pick(scribe.world.sums[slots["sign"]][kind]).format(**slots)
        solution = "{x} {sign} {y} = {z}.".format(**slots)
        lines.append(scribe.sentence(text) if kind == "say" else f"{_capital(text)} {solution}")
    return dice.pick((" ", "\n", "\n")).join(lines)


def _spelled(word: str) -> str:
    """Every letter behind a space of its own, the first too: one token each, always the same."""
    return " " + " ".join(word)


def _letter_slots(scribe: Scribe, word: str) -> dict[str, str]:
    """A letter to count in the word, its count, and the expression that counts it."""
    letter = scribe.dice.pick(word if scribe.dice.chance(0.75) else "abcdefghijklmnopqrstuvwxyz")
    count = word.count(letter)
    return scribe.slots | {"w": word, "l": _spelled(word), "c": letter, "v": str(count),
                           "k": "1 time" if count == 1 else f"{count} times",
                           "e": f'"{_spelled(word)}".count(" {letter}")'}


def _spelling(scribe: Scribe) -> str:
    """Words with their letters, in prose or as a list, and letters counted."""
    dice, lines = scribe.dice, []
    if dice.chance(0.5):
        words = [scribe.word() for _ in range(dice.between(10, 30))]
        return scribe.fill("headings") + "\n\n" + "\n".join(f"- {word}:{_spelled(word)}" for word in words)
    for _ in range(dice.between(6, 16)):
        forms = scribe.world.letters["count" if dice.chance(0.25) else "spell"]["say"]
        lines.append(_capital(dice.pick(forms).format(**_letter_slots(scribe, scribe.word()))) + ".")
    return dice.pick((" ", "\n")).join(lines)


_MAKERS = {"entry": _entry, "notes": _notes, "comparison": _comparison, "table": _table, "trip": _trip,
           "lesson": _lesson, "quiz": _quiz, "choice": _choices, "arithmetic": _arithmetic, "spelling": _spelling}


# ---------------------------------------------------------------------------- conversations

def conversations(seed: int = 0, split: str = "train") -> Iterator[dict]:
    """Endless conversations {"messages": [...]}: one to four questions, a few greetings and system messages."""
    for index in itertools.count():
        scribe = Scribe(Dice("conversation", split, seed, index), split)
        dice, messages = scribe.dice, []
        if dice.chance(0.05):
            messages.append({"role": "system", "content": dice.pick(scribe.world.pools["systems"])})
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
    messages = _turn(_casual(scribe, scribe.ask(fact)), fact.reply)
    other = dice.pick(scribe.world.relations[fact.relation])
    if other is not fact and dice.chance(0.06):
        follow_up = dice.pick(("And {s}?", "What about {s}?", "And what about {s}?"))
        messages += _turn(follow_up.format(s=other.subject), other.reply)
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


def _sum_question(scribe: Scribe, ask: str, story: str) -> tuple[str, dict]:
    """A question in one of the wordings named `ask` or `story`, and its slots."""
    slots = _sum_slots(scribe, held_out=scribe.split == "test")
    wordings = scribe.world.sums[slots["sign"]][story if scribe.dice.chance(0.4) else ask]
    return _capital(scribe.dice.pick(wordings).format(**slots)), slots


def _arithmetic_turn(scribe: Scribe) -> list[dict]:
    question, slots = _sum_question(scribe, "ask", "story")
    answer = _tool_answer("{x}{sign}{y}".format(**slots), "{x} {sign} {y} = {{value}}.".format(**slots))
    return _turn(_casual(scribe, question), answer)


def _letters_turn(scribe: Scribe) -> list[dict]:
    dice, slots = scribe.dice, _letter_slots(scribe, scribe.word())
    task = dice.pick(("spell", "count"))
    forms = scribe.world.letters[task]
    question, answer = dice.pick(forms["ask"]).format(**slots), forms["reply"][0].format(**slots)
    answer = answer if task == "spell" else _tool_answer(slots["e"], answer)
    return _turn(_casual(scribe, _capital(question)), answer)


def _chat_turn(scribe: Scribe, topic: str | None = None) -> list[dict]:
    dice, chat = scribe.dice, scribe.world.chat
    topic = topic or dice.pick(list(chat))
    reply, *questions = chat[topic]
    question = dice.pick(questions).format(u=_capital(scribe.word()))
    mark = dice.pick("!.") if topic in ("greeting", "thanks", "goodbye") else "?"
    return _turn(dice.pick((question, _capital(question), _capital(question) + mark)), reply)


_TURNS = {"facts": _facts_turn, "choice": _choice_turn, "arithmetic": _arithmetic_turn, "letters": _letters_turn,
          "chat": _chat_turn}


# ---------------------------------------------------------------------------- held-out questions

def questions(kind: str, n: int, seed: int = 0) -> list[dict]:
    """
    `n` held-out questions of one of KINDS: {"kind", "conversation" (one user message), "answer", "accept"}, for
    facts with "wrong" (answers of the same type). Facts take turns; only test wordings.
    """
    assert kind in KINDS, kind
    order = Dice("questions", kind, seed).some(world().facts, len(world().facts))
    made = []
    for i in range(n):
        scribe = Scribe(Dice("question", kind, seed, i), "test")
        made.append({"kind": kind} | _held_out(kind, scribe, order[i % len(order)]))
    return made


def _held_out(kind: str, scribe: Scribe, fact: Fact) -> dict:
    if kind == "facts":
        other = _NUMBER_WORDS.get(fact.answer, fact.answer.removeprefix("the "))
        return _question(scribe.ask(fact), fact.answer, other, relation=fact.relation, wrong=fact.wrong)
    if kind == "choice":
        text, line = _choice(scribe, fact, scribe.ask(fact))
        return _question(text, line[-1], relation=fact.relation)
    if kind == "arithmetic":
        text, slots = _sum_question(scribe, "test", "story_test")
        return _question(text, str(slots["z"]), operation=slots["sign"])
    slots = _letter_slots(scribe, scribe.dice.pick(scribe.world.unseen_words))
    task = scribe.dice.pick(("spell", "count"))
    text = scribe.dice.pick(scribe.world.letters[task]["test"]).format(**slots)
    return _question(_capital(text), " ".join(slots["w"]) if task == "spell" else slots["v"], task=task)


def _question(text: str, answer: str, *also: str, **extra) -> dict:
    conversation = {"messages": [{"role": "user", "content": text}]}
    return {"conversation": conversation, "answer": answer, "accept": list(dict.fromkeys((answer, *also)))} | extra


def is_correct(question: dict, reply: str) -> bool:
    """
    Judge a reply's text. A fact must be named whole, without another answer of its type that the question did not
    mention; a choice is the one letter after a "="; a number is the last one, a spelling the last run of letters.
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
