"""The embedded almanac: a small true world and the many ways of asking about it, for a tiny network to learn
in minutes. What it holds stands in almanac.txt; this file composes text from it: documents() for pretraining,
conversations() for finetuning, questions() for evaluation. Pure, seeded, offline.

A question is opening x frame x ending x how it is typed; what lies outside of the world is asked in the same
ways. Held out: families of frames (others for "val"), whole questions under `test`, number pairs, words to
spell, names of things unknown. Draws use random.random() and blake2b alone: the same text in every Python."""
import bisect
import functools
import hashlib
import itertools
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from nanochat.calculator import evaluate

KINDS = ("facts", "choice", "arithmetic", "letters", "unknown")
TURNS = {"facts": 39, "self": 4, "choice": 8, "arithmetic": 18, "letters": 18, "unknown": 14, "chat": 3}
DOCUMENTS = {"notes": 9, "lesson": 3, "dialogue": 65, "choices": 10, "spelling": 13}    # methods of a Scribe
HELD_OUT = 0.10                                         # share of pairs, words, unknown names for tests only
INVENTED_WORDS = 0.4                                    # share of words to spell that are spliced from two
FACT_WORDS = 0.15                                       # and of those of the facts, mostly one token each
SHORTEST_DOCUMENT = 350                                 # characters; about 60 words
_DOES_NOT_KNOW = r"(?i)(?:not|n't|never) (?:\w+ )?(?:know|sure|certain|tell|say|answer|help)\b|\bno idea\b"

Forms = dict[str, list[str]]                            # np, say, ask, test ... -> texts with slots
Turn = tuple[str, str | list[dict]]                     # question, answer

class Dice:
    """A stream of draws that depends on its key alone, strings and integers: `Dice("train", 0, 17)`."""
    def __init__(self, *key: str | int):
        self.random = random.Random(_stable_hash(*key)).random

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def between(self, low: int, high: int) -> int:
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

    def weighted(self, weights: dict):
        ends = list(itertools.accumulate(weights.values()))
        roll = self.random() * ends[-1]                 # rounding may make it the last end itself
        return list(weights)[bisect.bisect(ends, roll, hi=len(ends) - 1)]

def _stable_hash(*parts: str | int) -> int:
    """64 bits that depend on the parts alone, not on the process or the platform."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")

def _is_held_out(*key: str | int) -> bool:
    return _stable_hash(*key) % 1000 < 1000 * HELD_OUT

def pair_is_held_out(x: int, y: int) -> bool:
    """Whether training never computes with these two numbers, in either order, anywhere in a sum."""
    return _is_held_out("pair", min(x, y), max(x, y))

def _article(noun: str) -> str:
    return f"an {noun}" if noun[:1] in "aeiou" else f"a {noun}"

def _bare(noun: str) -> str:
    return re.sub("^(?:the|an?) ", "", noun)

def _capital(text: str) -> str:
    return re.sub("^[\"']?.", lambda start: start[0].upper(), text)

class Topic:
    """A relation, or a kind of thing that nanochat does not know: the ways to say it and to ask for it."""
    def __init__(self, relation: str, forms: Forms, frames: dict[str, Forms]):
        self.relation, self.forms, self.gaps = relation, forms, []      # gaps: rows without an answer
        fillers = {"{": {"np"}, "{label}": {"label"}, "{either}": {"say", "reply"}}     # slots: forms
        lacks = [slot for slot, names in fillers.items() if names.isdisjoint(forms)]
        self.families = {split: [family for family in families.values()
                                 if not any(slot in frame for frame in family for slot in lacks)]
                         for split, families in frames.items()}

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
        if not self.answer:
            return almanac().ways["unknown"][0]
        return _capital(forms.get("reply", forms.get("say"))[0].format(**self.slots)) + "."

class Almanac:
    """The text file, parsed and linked, in tens of milliseconds."""
    def __init__(self):
        text = Path(__file__).with_name("almanac.txt").read_text(encoding="utf-8")
        above, listed = text.split("== words\n")
        tables, blocks = _parse(above)
        self.sums, self.letters, self.chat = (blocks[kind] for kind in ("sum", "letters", "chat"))
        self.ways: Forms = blocks["ways"][""]           # openings, endings, spellings, the refusal
        frames, groups = blocks["frames"], defaultdict(list)
        for header, forms in blocks["relation"].items():
            groups[header.split()[0]] += _relation(header, forms, frames, tables)
        self.relations = {name: _link(group) for name, group in groups.items()} | {"self": []}
        for header, forms in blocks["self"].items():
            name, a, *wrong = header.split(" | ")
            self.relations["self"].append(Fact(Topic("self", forms, frames), {"s": name, "a": a}, a, wrong))
        self.facts = [fact for group in self.relations.values() for fact in group]
        self.unknown = [Topic("unknown", forms, frames) for forms in blocks["unknown"].values()]
        self.partly_known = list(dict.fromkeys(fact.topic for fact in self.facts
                                               if "strangers" in fact.topic.forms))
        pools = {table: [row["name"] for row in rows] for table, rows in tables.items()}
        pools["capital"] = [row["capital"] for row in tables["country"]]
        pools |= blocks["known"][""] | blocks["pools"][""]
        strangers = blocks["strangers"][""]             # names of things unknown, for training or for tests
        self.pools, self.test_pools = (
            pools | {pool: [name for name in names if _is_held_out(pool, name) == test]
                     for pool, names in strangers.items()} for test in (False, True))
        tens = {str(10 * i): ten for i, ten in enumerate(pools["tens"])}
        self.in_words = tens | {str(i): word for i, word in enumerate(pools["number_words"])}
        self.digits = {word: number for number, word in self.in_words.items()}
        self.real_words = set(re.findall(r"[a-z]+", text.lower()))
        used, listed = set(re.findall(r"[a-z]+", above.lower())), listed.split()
        self.unseen_words = [word for word in listed if word not in used and _is_held_out("word", word)]
        self.words = sorted(set(listed) - set(self.unseen_words))
        subjects = " ".join(fact.subject for fact in self.facts)
        self.fact_words = sorted(set(re.findall(r"\b[a-z]{3,}\b", subjects)))
        self.symbols = {row["symbol"] for row in tables["element"]} | set(strangers["other_symbol"])

almanac = functools.cache(Almanac)                      # read on first use

def _parse(text: str) -> tuple[dict[str, list[dict[str, str]]], dict[str, dict[str, Forms]]]:
    """Tables as lists of rows, other blocks as {kind: {header: forms}}. The file describes its format."""
    tables, blocks = {}, defaultdict(dict)
    text = re.sub(r"^(#.*)?\n", "", text, flags=re.MULTILINE).replace("\n ", " | ")
    for headers, body in re.findall(r"((?:^== .*\n)+)((?:^(?!== ).*\n)+)", text, re.MULTILINE):
        for kind, name in re.findall("== ([^ \n]+) ?(.*)", headers):
            if kind == "table":
                name, *columns = name.split(" | ")
                rows = (row.split("|") for row in re.split("; |\n", body.strip()))
                tables[name] = [dict(zip(columns, row, strict=True)) for row in rows]
                continue
            forms = blocks[kind].setdefault(name, {})
            for key, items in re.findall("(.*?):(.*)", body):
                texts = [item.strip().replace("\\n", "\n") for item in items.split(" | ")]
                forms.setdefault(key, []).extend(texts)
    return tables, blocks

def _relation(header: str, forms: Forms, frames: dict[str, Forms], tables: dict) -> list[Fact]:
    """The facts of a relation. Slots are a row's columns, and what is made from its subject and answer."""
    name, table, subject, answer = header.replace(" | ", " ").split()
    topic, facts = Topic(name, forms, frames), []
    for row in tables[table]:
        slots = row | _subject_slots(row[subject]) | {"table": table}
        slots |= {"a": row[answer], "xa": _article(row[answer])}
        if "-" not in (row[subject], row[answer]):
            facts.append(Fact(topic, slots, row[answer]))
        elif row[subject] != "-":
            topic.gaps.append(slots)
    return facts

def _subject_slots(subject: str) -> dict[str, str]:
    return {"s": subject, "xs": _article(subject), "subject": _bare(subject)}

def _link(group: list[Fact]) -> list[Fact]:
    """Facts of subjects with a single answer, each once; a relation's other answers become its wrong ones."""
    answers = Counter(subject for subject, _ in {(fact.subject, fact.answer) for fact in group})
    first = {fact.subject: fact for fact in reversed(group) if answers[fact.subject] == 1}
    for fact in first.values():
        others = dict.fromkeys([other.answer for other in group] + fact.topic.forms.get("wrong", []))
        fact.wrong = [other for other in others if other not in (fact.answer, fact.subject)]
    return list(reversed(first.values()))

class Scribe(Dice):
    """The writer of one document or conversation: its draws, its split, and the people in it."""
    def __init__(self, split: str, *key: str | int):
        super().__init__(*key)
        self.almanac, self.ways, self.split, self.tests = almanac(), almanac().ways, split, split == "test"
        self.whole = "test" if self.tests else "ask"    # key of whole questions
        self.pools = self.almanac.test_pools if self.tests else self.almanac.pools
        heroine = self.chance(0.5)
        one, other = ("women", "men") if heroine else ("men", "women")
        self.people = {"n": self.pick(self.pools[one]), "m": self.pick(self.pools[other]),
                       "p": "she" if heroine else "he", "o": "her" if heroine else "his"}

    def fill(self, form: str, **values: str) -> str:
        """Missing values are drawn from the pools of their names; {land2} is another {land}."""
        values = self.people | values
        for slot in re.findall(r"{(\w+)}", form):
            if slot not in values:
                values[slot] = self.draw(slot.rstrip("2"))
        return form.format(**values)

    def draw(self, pool: str, **values: str) -> str:
        return self.fill(self.pick(self.pools[pool]), **values)

    def sentence(self, pool: str, **values: str) -> str:
        return _capital(self.draw(pool, **values))

    def say(self, fact: Fact) -> str:
        """A statement of a fact: a clause, no capital, no full stop."""
        forms, slots = fact.topic.forms, self.slots(fact)
        says = forms.get("say", [])
        if "np" in forms and (not says or self.chance(0.2)):
            slots["np"], says = self.pick(forms["np"]).format(**slots), self.ways["say"]
        return self.pick(says).format(**slots)

    def slots(self, fact: Fact) -> dict[str, str]:
        """The fact's slots, with the answer and a wrong one as its relation puts them."""
        if not fact.wrong:
            return dict(fact.slots)
        put = fact.topic.forms.get("ap", ["{a}"])[0]
        one, other = fact.answer or self.pick(fact.wrong), self.pick(fact.wrong)
        plain = self.some((one, other), 2)
        right, wrong, *both = (put.format(a=answer, xa=_article(answer)) for answer in (one, other, *plain))
        return fact.slots | {"right": right, "wrong": wrong, "either": " or ".join(both),
                             "either_plain": " or ".join(plain)}

    def ask(self, fact: Fact, typed: bool = True) -> str:
        """A question in one of the split's wordings; as people type it, or as books print it."""
        forms, slots, families = fact.topic.forms, self.slots(fact), fact.topic.families[self.split]
        whole = [] if self.split == "val" and families else forms[self.whole]
        form = self.pick(whole if not families or (whole and self.chance(0.5)) else self.pick(families))
        if "{np}" in form or "{bare}" in form:
            slots["np"] = self.fill(self.pick(forms["np"]), **slots)
            slots["bare"] = _bare(slots["np"])
        elif "{label}" in form:
            slots["label"] = self.pick(forms["label"])
            slots |= {} if "s" in slots else _subject_slots(self.fill(forms["s"][0]))
        text = self.fill(form, **slots)
        if not fact.answer:
            text = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
        if not typed:
            return _capital(text)
        for pair in self.ways["british"]:
            american, british = pair.split("/")
            if american in text and self.chance(0.3):
                text = re.sub(rf"\b{american}\b", british, text)
        return self.typed(text)

    def typed(self, text: str) -> str:
        """As people type: an opening, an ending, with or without its mark, its capitals, its apostrophes."""
        if self.chance(0.2):
            opening = self.fill(self.pick(self.ways["openings"]))
            text = f"{opening} {_capital(text) if opening[-1] in '.!?' else text}"
        body, mark = (text[:-1], text[-1]) if text[-1] in ".?!" and not text.endswith("..") else (text, "")
        if self.chance(0.14):
            body = f"{body.rstrip()}{self.pick((' ', ', '))}{self.fill(self.pick(self.ways['endings']))}"
        text = body.rstrip() + ("" if self.chance(0.45) else mark)
        roll = self.random()
        if roll < 0.45:
            keep = self.almanac.symbols if self.chance(0.8) else ()
            text = re.sub(r"\w+", lambda word: word[0] if word[0] in keep else word[0].lower(), text)
        elif roll < 0.85:
            text = _capital(text)
        if "'" in text and self.chance(0.3):
            text = re.sub(r"\b([Ww]hat|[Hh]ow|[Ww]ho|[Ii]t|I|i)'(s|m|d)\b", r"\1\2", text)
        return text

    def facts(self) -> Fact:
        """Any fact, of large and of small relations."""
        relations = self.almanac.relations
        return self.pick(self.almanac.facts if self.chance(0.5) else relations[self.pick(list(relations))])

    def unknown(self) -> Fact:
        """Something that nanochat does not know: of another kind, or another subject of a relation."""
        if self.chance(0.5):
            return Fact(self.pick(self.almanac.unknown), {})
        topic = self.pick(self.almanac.partly_known)
        known = self.almanac.relations[topic.relation][0]
        answers = [known.answer, *known.wrong]
        if topic.gaps and not self.tests and self.chance(0.15):
            return Fact(topic, self.pick(topic.gaps), "", answers)
        name = self.draw(topic.forms["strangers"][0])
        if not self.tests and self.chance(0.2) and not name.isdigit():
            name = self.invented_word() if name.islower() else _capital(self.invented_word())
        slots = {"plural": f"{name}s", "noun": re.sub("^an? ", "the ", name)}
        return Fact(topic, _subject_slots(name) | slots, "", answers)

    def word(self) -> str:
        """A word to spell: of the facts, of the list, or an invented one."""
        roll, book = self.random(), self.almanac
        if roll < INVENTED_WORDS:
            return self.invented_word()
        return self.pick(book.fact_words if roll < INVENTED_WORDS + FACT_WORDS else book.words)

    def invented_word(self) -> str:
        """Spliced from two words of the list: their pieces in new company."""
        words = self.almanac.words
        while True:
            word = self.pick(words)[:self.between(2, 5)] + self.pick(words)[-self.between(2, 5):]
            if word not in self.almanac.real_words:
                return word

    def turns(self, kind: str) -> list[Turn]:
        """A turn of a kind; one on a fact may bring another that leans on it."""
        if kind in ("choice", "arithmetic", "letters", "chat"):
            return [getattr(self, kind)()]
        relations = self.almanac.relations
        fact = self.pick(relations["self"]) if kind == "self" else getattr(self, kind)()
        turns = [(self.ask(fact), fact.reply)]
        if kind == "facts":
            other = self.pick(relations[fact.topic.relation])
            if other is not fact and self.chance(0.06) and fact.topic.relation != "self":
                turns.append((self.sentence("follow_ups", s=other.subject), other.reply))
        return turns

    def chat(self, *topics: str) -> Turn:
        chat = self.almanac.chat
        header = self.pick([header for header in chat if not topics or header.startswith(topics)])
        return self.typed(self.pick(chat[header]["ask"])), header.partition(" | ")[2]

    def choice(self, fact: Fact | None = None) -> Turn:
        """A multiple choice question, and the line of its answer: once this is named, its letter need only be
        copied; the bare letter was not learnt (dev/LOG.md)."""
        fact = fact or self.facts()
        options = self.some([fact.answer, *self.some(fact.wrong, 3)], 4)
        lines = [f"- {option}={letter}" for option, letter in zip(options, "ABCD", strict=True)]
        question = self.sentence("choice_frames", q=self.ask(fact, typed=False), o="\n".join(lines))
        return question, lines[options.index(fact.answer)]

    def numbers(self, signs: str) -> list[int]:
        """In the tool's order, of one to four digits, often round; results are whole and not negative."""
        high = self.pick((9, 12, 20, 99, 99, 99, 999))
        low = 1 if high < 99 else 11
        drawn = [self.between(low, high) * (10 if self.chance(0.15) else 1) for _ in range(3)]
        x, y, z = sorted(drawn, reverse=True)
        factors = {"*": 1, "/": 2, "* *": 3}.get(signs, 0)
        small = [self.between(2, self.pick((9, 12, 12, 40))) for _ in range(factors)]
        if signs == "/":
            return [small[0] * self.pick((small[1], x)), small[0]]
        numbers = {"double": [x, 2], "half": [2 * x, 2], "*": [x, *small], "* *": small,
                   "-": [x, y], "+ -": [x, y, z], "- -": [x + y, y, z]}
        return numbers.get(signs) or self.some((x, y, z), 1 + len(signs.split()))

    def arithmetic(self) -> Turn:
        """A sum in signs, in words or as a story; only tests have held-out pairs of numbers."""
        sums = self.almanac.sums
        signs = self.pick("+-*/" if self.chance(0.78) else [signs for signs in sums if len(signs) > 1])
        numbers = self.numbers(signs)
        while any(itertools.starmap(pair_is_held_out, itertools.combinations(numbers, 2))) != self.tests:
            numbers = self.numbers(signs)
        forms, slots = sums[signs], dict(zip("xyz", map(str, numbers), strict=False))
        answer = _answer(forms, slots)
        stories = forms.get("story_test" if self.tests else "story")
        form = self.pick(stories if stories and self.chance(0.35) else forms[self.whole])
        if "{op}" not in form and not re.search(r"}[^ ,.?]", form) and self.chance(0.1):
            slots = {name: self.almanac.in_words.get(number, number) for name, number in slots.items()}
        signs_shown = {name: self.pick(forms[name]) for name in ("op", "word") if name in forms}
        return self.typed(self.fill(form, **slots | signs_shown)), answer

    def letters(self, task: str = "", word: str = "") -> Turn:
        """A word to spell, or letters in it to count. A letter follows a space: always the same token."""
        word = word or self.word()
        forms = self.almanac.letters[task or self.weighted({"spell": 5, "count": 4, "length": 2})]
        letter = self.pick(word if self.chance(0.75) else "abcdefghijklmnopqrstuvwxyz")
        times = "1 time" if word.count(letter) == 1 else f"{word.count(letter)} times"
        slots = {"w": word, "l": " " + " ".join(word), "c": letter, "k": times}
        answer = _answer(forms, slots)
        quote, around = self.pick("\"'"), self.random()
        slots["w"] = f"{quote}{word}{quote}" if around < 0.15 else _capital(word) if around > 0.95 else word
        return self.typed(self.pick(forms[self.whole]).format(**slots)), answer

    def notes(self) -> str:
        """Statements on mixed facts, or on several facts of one relation, as a list or in prose."""
        facts = [self.facts() for _ in range(self.between(7, 20))]
        if self.chance(0.5):
            same = self.almanac.relations[facts[0].topic.relation]
            facts = self.some(same, self.between(5, 10)) + facts[:5]
        said = [self.say(fact) for fact in facts]
        title = self.sentence("headings") + "\n\n" if self.chance(0.4) else ""
        if self.chance(0.3):
            return title + "\n".join(f"- {_capital(clause)}." for clause in said)
        said = [f"{self.sentence('openings')} {clause}" if self.chance(0.2) else clause for clause in said]
        return title + " ".join(f"{_capital(clause)}." for clause in said)

    def lesson(self) -> str:
        """A story of a class, where people ask and know."""
        story = [self.sentence("lesson_starts")]
        for _ in range(self.between(3, 8)):
            fact = self.facts()
            story.append(self.sentence("lesson_talk", q=self.ask(fact, typed=False), r=fact.reply))
            if self.chance(0.35):
                story.append(self.sentence("lesson_events"))
        return " ".join([*story, self.sentence("lesson_ends")])

    def dialogue(self) -> str:
        """Questions of all kinds as people type them, and answers; calls of the calculator in brackets."""
        lines, voices = [], self.pick(self.pools["voices"])
        kinds = {kind: weight for kind, weight in TURNS.items() if kind != "choice"}
        for _ in range(self.between(5, 12)):
            for question, answer in self.turns(self.weighted(kinds)):
                if not isinstance(answer, str):
                    tool, output, text = (part["text"] for part in answer)
                    answer = f"[{tool} = {output}] {text}"
                lines.append(self.fill(voices, q=question, r=answer))
        return "\n".join(lines)

    def choices(self) -> str:
        """Multiple choice questions, often with the answer in words as well."""
        parts, lead, explain = [], self.pick(("\n", "\n", "\nAnswer:\n")), self.chance(0.4)
        for _ in range(self.between(2, 6)):
            fact = self.facts()
            question, line = self.choice(fact)
            parts.append(question + lead + line + (f"\n{fact.reply}" if explain else ""))
        return "\n\n".join(parts)

    def spelling(self) -> str:
        words = [self.word() for _ in range(self.between(10, 30))]
        return self.sentence("headings") + "\n\n" + "\n".join(f"- {word}: {' '.join(word)}" for word in words)

    def question(self, kind: str, fact: Fact) -> dict:
        """One for questions(); of a kind that asks for facts, on this one."""
        about = {"relation": fact.topic.relation, "subject": fact.subject}
        if kind == "facts":
            text, answer, bare = self.ask(fact), fact.answer, _bare(fact.answer)
            accept = dict.fromkeys((answer, bare, self.almanac.digits.get(bare, bare)))
            more = {"accept": list(accept), **about, "wrong": fact.wrong}
        elif kind == "choice":
            text, line = self.choice(fact)
            answer, more = line[-1], about
        elif kind == "letters":
            task = self.weighted({"spell": 2, "count": 2, "length": 1})
            word = self.pick(self.almanac.unseen_words) if self.tests else self.word()
            text, parts = self.letters(task, word)
            answer, more = " ".join(word) if task == "spell" else parts[1]["text"], {"task": task}
        elif kind == "arithmetic":
            text, (tool, output, _) = self.arithmetic()
            answer, more = output["text"], {"tool": tool["text"]}
        else:
            text, answer, more = *self.turns(kind)[0], {}
        conversation = {"messages": [{"role": "user", "content": text}]}
        return {"kind": kind, "conversation": conversation, "answer": answer, "accept": [answer]} | more

def _answer(forms: Forms, slots: dict[str, str]) -> str | list[dict]:
    """The reply; behind a call of the calculator, whose value is its {r}, where the forms have a tool."""
    if "tool" not in forms:
        return forms["reply"][0].format(**slots)
    call = forms["tool"][0].format(**slots)
    value = evaluate(call)
    parts = {"python": call, "python_output": value, "text": forms["reply"][0].format(**slots, r=value)}
    return [{"type": kind, "text": text} for kind, text in parts.items()]

def conversations(seed: int = 0, split: str = "train") -> Iterator[dict]:
    """Endless {"messages": [...]} of one to four questions; a few have greetings or a system message."""
    for index in itertools.count():
        scribe, messages, turns = Scribe(split, "conversation", split, seed, index), [], []
        if scribe.chance(0.05):
            messages.append({"role": "system", "content": scribe.sentence("systems")})
        while not turns or (len(turns) < 4 and scribe.chance(0.35)):
            turns += scribe.turns(scribe.weighted(TURNS))
        if len(turns) > 1 and scribe.chance(0.1):
            turns.insert(0, scribe.chat("greeting"))
        if len(turns) > 1 and scribe.chance(0.1):
            turns.append(scribe.chat("thanks", "goodbye"))
        for question, answer in turns:
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        yield {"messages": messages}

def documents(seed: int = 0, split: str = "train") -> Iterator[str]:
    """Endless documents of about 60 to 400 words; "val" has other draws and asks in frames of its own."""
    for index in itertools.count():
        scribe = Scribe(split, "document", split, seed, index)
        maker = getattr(scribe, scribe.weighted(DOCUMENTS))
        text = maker()
        while len(text) < SHORTEST_DOCUMENT:
            text += "\n\n" + maker()
        yield text

def questions(kind: str, n: int, seed: int = 0, split: str = "test") -> list[dict]:
    """`n` questions of one of KINDS: {"kind", "conversation" (one user message), "answer", "accept"}, for
    facts with "wrong" (answers of the same type). Facts take turns. Those of "test" are held out: families of
    frames and wordings of tests only; those of "train" ask as conversations("train") does."""
    assert kind in KINDS, kind
    facts, key = almanac().facts, () if split == "test" else (split,)
    order = Dice("questions", kind, seed, *key).some(facts, len(facts))
    return [Scribe(split, "question", kind, seed, i, *key).question(kind, fact)
            for i, fact in enumerate(itertools.islice(itertools.cycle(order), n))]

def is_correct(question: dict, reply: str) -> bool:
    """Judge a reply's text. A fact must be named whole, without another answer of its type that the question
    did not mention; a choice is the one letter after a "="; a number is the last one, a spelling the last run
    of letters; what is unknown must be said to be so, in any words."""
    reply = reply.strip()
    if question["kind"] == "unknown":
        return re.search(_DOES_NOT_KNOW, reply) is not None
    if question["kind"] == "choice":
        return re.findall(r"=(\w+)", reply) == [question["answer"]]
    if question["kind"] == "arithmetic" or question.get("task") in ("count", "length"):
        return re.findall(r"-?\d+(?:\.\d+)?", reply.replace(",", ""))[-1:] == [question["answer"]]
    if question["kind"] == "letters":
        runs = re.findall(r"\b[A-Za-z](?:[ ,-]+[A-Za-z])+\b", reply)
        return bool(runs) and re.sub(r"[ ,-]+", " ", runs[-1]).lower() == question["answer"]
    asked = question["conversation"]["messages"][-1]["content"]
    named = [answer for answer in question["accept"] if _names(reply, answer)]
    left = functools.reduce(lambda text, answer: text.replace(answer, ""), named, reply)
    also_named = [wrong for wrong in question["wrong"] if _names(left, wrong) and not _names(asked, wrong)]
    return bool(named) and not also_named

def _names(text: str, answer: str) -> bool:
    """Whether the text has the answer as whole words; symbols such as Pb count in their own case only."""
    flags = 0 if len(answer) <= 2 else re.IGNORECASE
    return re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text, flags) is not None
