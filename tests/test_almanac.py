"""
The almanac: what is held out stays out, what is said is true, what is computed is right, every run says the same.
The oracles are independent of the generator: small fact tables, regular expressions, Python's own sums.
"""

import itertools
import operator
import os
import re
import subprocess
import sys
import zlib

import pytest

from nanochat import almanac
from nanochat.calculator import evaluate

OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv,
             "plus": operator.add, "minus": operator.sub, "times": operator.mul}


def take(stream, count):
    return list(itertools.islice(stream, count))


def content_text(content):
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


def conversation_text(conversation):
    return "\n".join(content_text(message["content"]) for message in conversation["messages"])


@pytest.fixture(scope="module")
def train_documents():
    return take(almanac.documents(3), 3500)


@pytest.fixture(scope="module")
def train_conversations():
    return take(almanac.conversations(3), 9000)


@pytest.fixture(scope="module")
def train_text(train_documents, train_conversations):
    return "\n".join(train_documents) + "\n" + "\n".join(map(conversation_text, train_conversations))


# ---- held out

def test_training_never_asks_in_a_test_wording(train_documents, train_conversations):
    texts = train_documents[:1000] + [conversation_text(talk) for talk in train_conversations[:4000]]
    lowered = "\n".join(texts).lower()
    asked = {wording.lower().rstrip("?.") for fact in almanac.world().facts for wording in fact.asks["test"]}
    assert len(asked) > 2000
    assert not [wording for wording in asked if wording in lowered]


def other_test_wordings():
    world = almanac.world()
    forms = [form for task in world.letters.values() for form in task["test"]]
    return forms + [form for sums in world.sums.values() for form in sums["test"] + sums["story_test"]]


def test_training_never_asks_for_sums_or_letters_in_a_test_wording(train_documents, train_conversations):
    texts = train_documents[:1000] + [conversation_text(talk) for talk in train_conversations[:4000]]
    text = "\n".join(texts)
    assert len(other_test_wordings()) >= 6 + 4 * 5
    for form in other_test_wordings():
        pattern = r"[A-Za-z0-9]+".join(map(re.escape, re.split(r"{\w}", form.rstrip("?."))))
        assert not re.search(pattern, text, re.IGNORECASE), form


def test_test_wordings_are_made_of_words_that_training_has_seen(train_text):
    seen = set(re.findall(r"[a-z0-9]+", train_text.lower()))
    asked = " ".join(wording for fact in almanac.world().facts for wording in fact.asks["test"])
    asked += re.sub(r"{\w}", " ", " ".join(other_test_wordings()))
    assert set(re.findall(r"[a-z0-9]+", asked.lower())) <= seen


def test_unseen_words_occur_nowhere_in_training(train_text):
    unseen = set(almanac.world().unseen_words)
    assert len(unseen) >= 200 and not unseen & set(almanac.world().words)
    assert not unseen & set(re.findall(r"[a-z]+", train_text.lower()))


def test_letter_questions_use_unseen_words_only():
    unseen = set(almanac.world().unseen_words)
    for question in almanac.questions("letters", 300):
        text = question["conversation"]["messages"][0]["content"].lower()
        assert set(re.findall(r"[a-z]+", text)) & unseen


def test_held_out_number_pairs_are_never_computed_in_training(train_text):
    sign = r" ?(?:[+*/-]|plus|minus|times|less|divided by|multiplied by) ?"
    pairs = re.findall(rf"(?<!\d)(\d+){sign}(\d+)(?!\d)", train_text)
    verb = r"(?:sum of|product of|difference between|add|added|adding|multiply|divide|divided|dividing)"
    pairs += re.findall(rf"{verb} (\d+) (?:and|by) (\d+)(?!\d)", train_text, re.I)
    assert len(pairs) > 5000
    assert not [pair for pair in pairs if almanac.pair_is_held_out(*map(int, pair))]


def test_arithmetic_questions_use_held_out_pairs_only_and_their_share_is_a_tenth():
    for question in almanac.questions("arithmetic", 300):
        x, y = map(int, re.findall(r"\d+", question["conversation"]["messages"][0]["content"]))
        assert almanac.pair_is_held_out(x, y) and almanac.pair_is_held_out(y, x)
    share = sum(almanac.pair_is_held_out(x, y) for x in range(100) for y in range(x, 100)) / 5050
    assert 0.08 < share < 0.12


def test_val_asks_in_combinations_that_train_does_not(train_text):
    val = {(fact.relation, fact.subject, wording) for fact in almanac.world().facts
           for wording in fact.asks["val"] if wording not in fact.asks["train"]}
    train = {(fact.relation, fact.subject, wording) for fact in almanac.world().facts
             for wording in fact.asks["train"]}
    assert 0.07 < len(val) / (len(val) + len(train)) < 0.13
    unasked = {wording for _, _, wording in val} - {wording for _, _, wording in train}
    lines = set(train_text.split("\n"))
    assert unasked and not unasked & lines
    val_lines = "\n".join(map(conversation_text, take(almanac.conversations(0, "val"), 3000))).split("\n")
    assert unasked & set(val_lines)


# ---- determinism

FINGERPRINT = """
import hashlib, itertools, json
from nanochat import almanac
digest = hashlib.sha256()
for split in ("train", "val"):
    for text in itertools.islice(almanac.documents(7, split), 200): digest.update(text.encode())
    for talk in itertools.islice(almanac.conversations(7, split), 200): digest.update(json.dumps(talk).encode())
for kind in almanac.KINDS: digest.update(json.dumps(almanac.questions(kind, 50, 7)).encode())
print(digest.hexdigest())
"""


def test_every_process_makes_the_same_text():
    def fingerprint(hash_seed):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.run([sys.executable, "-c", FINGERPRINT], env=environment, capture_output=True, text=True,
                              check=True).stdout
    assert fingerprint("1") == fingerprint("2") != ""


def test_seeds_and_splits_give_different_texts():
    starts = [tuple(take(almanac.documents(seed, split), 20)) for seed in (0, 1, -1) for split in ("train", "val")]
    assert len({text for start in starts for text in start}) == 6 * 20


# ---- truth

TRUE = {
    "capital": {"France": "Paris", "Australia": "Canberra", "Canada": "Ottawa", "Kenya": "Nairobi"},
    "country": {"Tokyo": "Japan", "Oslo": "Norway", "Brasilia": "Brazil"},
    "continent": {"Egypt": "Africa", "Nepal": "Asia", "Cuba": "North America", "Fiji": "Oceania"},
    "currency": {"Japan": "yen", "Poland": "zloty", "India": "rupee", "Sweden": "krona", "Norway": "krone"},
    "language": {"Brazil": "Portuguese", "Austria": "German", "Iran": "Persian"},
    "symbol": {"iron": "Fe", "gold": "Au", "sodium": "Na", "lead": "Pb", "potassium": "K", "tungsten": "W"},
    "element": {"Ag": "silver", "Sn": "tin"},
    "number": {"hydrogen": "1", "carbon": "6", "oxygen": "8", "iron": "26", "gold": "79", "uranium": "92"},
    "planet": {"first": "Mercury", "third": "Earth", "eighth": "Neptune"},
    "young": {"swan": "cygnet", "kangaroo": "joey", "cow": "calf"},
    "kind": {"whale": "mammal", "newt": "amphibian", "spider": "arachnid"},
    "legs": {"spider": "eight", "bee": "six", "owl": "two", "horse": "four"},
    "opposite": {"deep": "shallow"}, "color": {"a ruby": "red"}, "plural": {"ox": "oxen", "foot": "feet"},
    "day_after": {"Sunday": "Monday"}, "month_days": {"April": "30", "July": "31", "February": "28"},
    "month_place": {"November": "eleventh"}, "unit": {"ounces": "16", "inches": "12", "degrees": "360"}}


def test_known_facts_are_told_as_they_are():
    told = {(fact.relation, fact.subject): fact for fact in almanac.world().facts}
    for relation, answers in TRUE.items():
        for subject, answer in answers.items():
            fact = told[relation, subject]
            assert fact.answer == answer and answer not in fact.wrong
            assert all(answer.lower() in text.lower() for text in [*fact.says, fact.reply])


def test_calendar_and_shapes_agree_with_themselves():
    relations = almanac.world().relations
    for after, before in (("day_after", "day_before"), ("month_after", "month_before")):
        following = {fact.subject: fact.answer for fact in relations[after]}
        assert {fact.answer: fact.subject for fact in relations[before]} == following
        day = start = next(iter(following))
        for _ in following:
            day = following[day]
        assert day == start and len(set(following.values())) == len(following)
    assert [int(fact.answer) for fact in relations["sides"]] == list(range(3, 11))
    numbers = [int(fact.answer) for fact in relations["number"]]
    assert numbers == sorted(set(numbers))


def test_subjects_have_one_answer_in_each_relation():
    for name, facts in almanac.world().relations.items():
        keys = [fact.asks["test"][0] for fact in facts]
        assert len(keys) == len(set(keys)), name


def test_every_equation_in_training_is_true(train_text):
    number, word = r"(?<![\d.])(\d+)", r" ([+*/-]|plus|minus|times) "
    equations = re.findall(rf"{number}{word}(\d+) (?:=|is|equals) (\d+)(?!\d)", train_text)
    assert len(equations) > 3000
    assert not [e for e in equations if OPERATORS[e[1]](int(e[0]), int(e[2])) != int(e[3])]


def test_tool_outputs_are_what_the_calculator_says(train_conversations):
    outputs = 0
    for message in itertools.chain.from_iterable(c["messages"] for c in train_conversations):
        if isinstance(message["content"], list):
            tool, output, text = message["content"]
            assert [part["type"] for part in message["content"]] == ["python", "python_output", "text"]
            assert evaluate(tool["text"]) == output["text"] and output["text"] in text["text"]
            outputs += 1
    assert outputs > 1000


def test_spelled_letters_are_those_of_the_word(train_text):
    spelled = re.findall(r"word ([a-z]+) is spelled((?: [a-z])+)\b", train_text)
    assert len(spelled) > 1000
    assert all(word == letters.replace(" ", "") for word, letters in spelled)
    counted = re.findall(r"letter (\w) appears (\d+) times? in ([a-z]+)", train_text)
    assert len(counted) > 500
    assert all(word.count(letter) == int(count) for letter, count, word in counted)


# ---- form

def test_conversations_alternate_and_end_with_an_answer(train_conversations):
    for conversation in train_conversations:
        roles = [message["role"] for message in conversation["messages"]]
        roles = roles[roles[0] == "system":]
        assert roles == ["user", "assistant"] * (len(roles) // 2) and roles
        assert all(content_text(message["content"]).strip() for message in conversation["messages"])


def test_multiple_choice_has_exactly_one_right_option():
    for question in almanac.questions("choice", 700):
        text = question["conversation"]["messages"][0]["content"]
        options = dict(reversed(option) for option in re.findall(r"^- (.+)=([A-D])$", text, re.M))
        assert list(options) == ["A", "B", "C", "D"] and len(set(options.values())) == 4
        right = {fact.answer for fact in almanac.world().relations[question["relation"]]
                 if any(wording in text for wording in fact.asks["test"])}
        assert [letter for letter in options if options[letter] in right] == [question["answer"]]


def test_answer_letters_are_balanced():
    letters = [question["answer"] for question in almanac.questions("choice", 2000)]
    assert all(0.2 < letters.count(letter) / 2000 < 0.3 for letter in "ABCD")


def test_relations_have_many_wordings():
    for name, facts in almanac.world().relations.items():
        for fact in facts:
            own = fact.table == "self"                      # without the frames that all others share
            assert len(set(fact.asks["train"] + fact.asks["val"])) >= (6 if own else 14), name
            assert len(set(fact.asks["test"])) >= (3 if own else 5), name
            assert not fact.says or len(fact.says) >= (5 if own else 11), name
            assert len(fact.wrong) >= 3, name


def test_documents_are_varied_and_of_readable_length(train_documents):
    text = "\n\n".join(train_documents).encode()
    assert len(text) / len(zlib.compress(text, 6)) < 5
    words = " ".join(train_documents).split()
    grams = {hash(tuple(words[i:i + 8])) for i in range(len(words) - 8)}
    assert len(grams) / len(words) > 0.75
    lengths = [len(document.split()) for document in train_documents]
    assert min(lengths) >= 40 and max(lengths) <= 450
    assert not any("{" in document or "}" in document or "  " in document for document in train_documents)


def test_no_text_holds_a_special_token(train_text):
    assert "<|" not in train_text and "|>" not in train_text


# ---- judging

def ask(kind, **wanted):
    return next(question for question in almanac.questions(kind, 2500) if wanted.items() <= question.items())


def test_a_fact_is_right_only_if_named_alone_and_whole():
    question = ask("facts", relation="capital", answer="Paris")
    assert almanac.is_correct(question, "The capital of France is Paris.")
    assert almanac.is_correct(question, "paris")
    for wrong in ("", "The capital of France is Berlin.", "Paris, Berlin or Rome.", "Parisian", "I do not know."):
        assert not almanac.is_correct(question, wrong)
    mexico = ask("facts", relation="capital", answer="Mexico City")
    assert almanac.is_correct(mexico, "The capital of Mexico is Mexico City.")
    assert not almanac.is_correct(mexico, "The capital of Mexico is Mexico.")
    helium = ask("facts", relation="symbol", answer="He")
    assert almanac.is_correct(helium, "The chemical symbol of helium is He.")
    assert not almanac.is_correct(helium, "he is")
    cow = ask("facts", relation="legs", answer="four")
    assert almanac.is_correct(cow, "It has 4 legs.") and not almanac.is_correct(cow, "It has four or six legs.")
    assert almanac.is_correct(ask("facts", relation="self_prediction"), "I predict the next token.")


def test_letters_numbers_and_choices_are_judged_by_their_final_value():
    spell = {"kind": "letters", "task": "spell", "answer": "m o r n a l", "accept": ["m o r n a l"]}
    assert almanac.is_correct(spell, "The word mornal is spelled m o r n a l.")
    assert almanac.is_correct(spell, "mornal: M-O-R-N-A-L")
    assert not almanac.is_correct(spell, "m o r n a") and not almanac.is_correct(spell, "m o r n a l l")
    assert not almanac.is_correct(spell, "mornal")
    count = {"kind": "letters", "task": "count", "answer": "3", "accept": ["3"]}
    assert almanac.is_correct(count, "The letter r appears 3 times in strawberry.")
    assert not almanac.is_correct(count, "The letter r appears 2 times.")
    total = {"kind": "arithmetic", "answer": "1185", "accept": ["1185"]}
    assert almanac.is_correct(total, "1137 + 48 = 1185.") and almanac.is_correct(total, "1,185")
    assert not almanac.is_correct(total, "1137 + 48") and not almanac.is_correct(total, "11850")
    choice = {"kind": "choice", "answer": "B", "accept": ["B"]}
    assert almanac.is_correct(choice, "- Paris=B") and not almanac.is_correct(choice, "- Rome=A\n- Paris=B")
    assert not almanac.is_correct(choice, "Paris") and not almanac.is_correct(choice, "- Rome=A")


def test_expected_replies_are_judged_correct():
    replies = {(fact.relation, wording): fact.reply for fact in almanac.world().facts
               for wording in fact.asks["test"]}
    for question in almanac.questions("facts", 1500):
        wording = question["conversation"]["messages"][0]["content"]
        assert almanac.is_correct(question, replies[question["relation"], wording])
