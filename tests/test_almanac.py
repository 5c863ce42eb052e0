"""
The almanac: what is held out stays out, what is said is true, what is computed is right, every run says the
same. The oracles are independent of the generator: small fact tables, regular expressions, Python's own sums.
"""

import itertools
import os
import re
import subprocess
import sys
import zlib
import pytest
from nanochat import almanac
from nanochat.calculator import evaluate

SIGNS = {"plus": "+", "minus": "-", "times": "*"}


def take(stream, count):
    return list(itertools.islice(stream, count))


def content_text(content):
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


def conversation_text(conversation):
    return "\n".join(content_text(message["content"]) for message in conversation["messages"])


def asked(question):
    return question["conversation"]["messages"][-1]["content"]


def turns(conversations):
    """(question, answer) pairs of texts."""
    for conversation in conversations:
        texts = [content_text(message["content"]) for message in conversation["messages"]
                 if message["role"] != "system"]
        yield from zip(texts[::2], texts[1::2], strict=True)


@pytest.fixture(scope="module")
def book():
    return almanac.almanac()


@pytest.fixture(scope="module")
def train_documents():
    return take(almanac.documents(3), 3500)


@pytest.fixture(scope="module")
def train_conversations():
    return take(almanac.conversations(3), 12000)


@pytest.fixture(scope="module")
def train_text(train_documents, train_conversations):
    return "\n".join(train_documents) + "\n" + "\n".join(map(conversation_text, train_conversations))


@pytest.fixture(scope="module")
def lowered(train_text):
    return train_text.lower()


# ---- held out

def occurs(form, text):
    """
    Whether the form occurs in the text, whatever is in its slots; its longest piece goes first, as that is
    quick.
    """
    pieces = [piece for piece in re.split(r"{\w+}", form.lower().rstrip(" ?.!")) if piece.strip()]
    if max(pieces, key=len) not in text:
        return False
    return re.search(r"[^\n]{1,60}?".join(map(re.escape, pieces)), text) is not None


@pytest.mark.parametrize("split", ["val", "test"])
def test_training_never_asks_in_a_family_of_frames_that_is_held_out(split, book, lowered):
    families = {id(family): family for fact in book.facts for family in fact.topic.families[split]}.values()
    frames = [frame for family in families for frame in family]
    assert len(families) >= (2 if split == "val" else 5) and len(frames) >= 4 * (len(families) - 1)
    assert not [frame for frame in frames if occurs(frame, lowered)]


def test_training_never_asks_a_whole_question_of_tests(book, train_documents, train_conversations):
    texts = train_documents[:1000] + [conversation_text(talk) for talk in train_conversations[:4000]]
    lowered = "\n".join(texts).lower()
    whole = {form.format(**fact.slots).lower().rstrip("?.") for fact in book.facts
             for form in fact.topic.forms["test"] if "{either}" not in form}
    assert len(whole) > 2000
    assert not [question for question in whole if question in lowered]


def test_training_never_asks_for_sums_letters_or_the_unknown_in_a_test_wording(book, lowered):
    blocks = [*book.sums.values(), *book.letters.values(), *(topic.forms for topic in book.unknown)]
    forms = [form for block in blocks for key in ("test", "story_test") for form in block.get(key, [])]
    assert len(forms) > 120
    assert not [form for form in forms if occurs(form, lowered)]


def test_questions_of_tests_are_made_of_words_that_training_has_seen(book, lowered):
    """
    At least to spell them. Held-out names stand before and behind questions too, and are another matter.
    """
    names = " ".join(name for pool in book.test_pools for name in book.test_pools[pool]).lower()
    seen = set(re.findall(r"[a-z0-9]+", f"{lowered} {names}")) | set(book.words)
    made = almanac.questions("facts", 1500) + almanac.questions("arithmetic", 300)
    questions = [asked(question) for question in made]
    known = set(re.findall(r"[a-z0-9]+", " ".join(questions).lower())) - seen
    assert not {word for word in known if not word.isdigit()}


def test_every_fact_question_is_asked_in_a_held_out_wording(book):
    """A fact's own test questions, or a frame of the test families, whatever is before and behind it."""
    facts = {(fact.topic.relation, fact.subject): fact for fact in book.facts}
    for question in almanac.questions("facts", 1000):
        fact = facts[question["relation"], question["subject"]]
        forms = list(itertools.chain(fact.topic.forms["test"], *fact.topic.families["test"]))
        text = asked(question).lower().replace("colour", "color").replace("grey", "gray")
        assert any(occurs(form, text) for form in forms), text


def test_val_asks_in_families_of_its_own(book, lowered):
    families = {id(family): family for fact in book.facts for family in fact.topic.families["val"]}.values()
    val_text = "\n".join(map(conversation_text, take(almanac.conversations(0, "val"), 3000))).lower()
    assert all(any(occurs(frame, val_text) for frame in family) for family in families)
    assert not occurs("what is the capital of {s}", val_text)
    assert occurs("what is the capital of {s}", lowered)


def test_unseen_words_occur_nowhere_in_training(book, lowered):
    unseen = set(book.unseen_words)
    assert len(unseen) >= 120 and not unseen & set(book.words)
    assert not unseen & set(re.findall(r"[a-z]+", lowered))


def test_letter_questions_use_unseen_words_only(book):
    unseen = set(book.unseen_words)
    for question in almanac.questions("letters", 300):
        assert set(re.findall(r"[a-z]+", asked(question).lower())) & unseen


def test_names_that_only_tests_ask_for_occur_nowhere_in_training(book, lowered):
    """Real things outside of the world, such as countries: a tenth of each pool."""
    held = {name for pool, names in book.test_pools.items() for name in names if name not in book.pools[pool]}
    assert len(held) > 80
    places = {name for pool in ("other_country", "other_city") for name in book.test_pools[pool]} & held
    answers = {fact.answer for fact in book.facts}                    # such as North America
    places = {name.lower() for name in places if not any(name in answer for answer in answers)}
    seen = {name for name in places if name in lowered and re.search(rf"\b{name}\b", lowered)}
    assert len(places) > 10 and not seen
    texts = " ".join(asked(question) for question in almanac.questions("unknown", 1500)).lower()
    assert sum(name.lower() in texts for name in places) > len(places) / 2


def test_held_out_number_pairs_are_never_computed_in_training(train_text):
    sign = r" ?(?:[+*/:x×÷-]|plus|minus|times|less|divided by|multiplied by|over) ?"
    sums = re.findall(rf"(?<!\d)\d+(?:{sign}\d+)+(?!\d)", train_text)
    verb = r"(?:sum of|product of|difference between|add|added|adding|multiply|divide|divided|dividing)"
    sums += re.findall(rf"{verb} \d+,? (?:and|by) \d+(?!\d)", train_text, re.I)
    assert len(sums) > 5000 and sum(len(re.findall(r"\d+", text)) > 2 for text in sums) > 500
    for text in sums:
        pairs = itertools.combinations(map(int, re.findall(r"\d+", text)), 2)
        assert not any(almanac.pair_is_held_out(*pair) for pair in pairs), text


def test_arithmetic_questions_have_a_held_out_pair_and_the_share_of_pairs_is_a_tenth():
    sizes = []
    for question in almanac.questions("arithmetic", 400):
        numbers = list(map(int, re.findall(r"\d+", question["tool"])))
        assert any(almanac.pair_is_held_out(*pair) for pair in itertools.combinations(numbers, 2))
        sizes.append((len(numbers), len(str(min(numbers)))))
    assert sum(count > 2 for count, _ in sizes) > 40 and sum(digits == 1 for _, digits in sizes) > 100
    for high in (10, 100):
        pairs = list(itertools.combinations_with_replacement(range(high), 2))
        assert 0.05 < sum(almanac.pair_is_held_out(*pair) for pair in pairs) / len(pairs) < 0.15
    for x, y in ((3, 50), (7, 7), (99, 4)):
        assert almanac.pair_is_held_out(x, y) == almanac.pair_is_held_out(y, x)


# ---- determinism

FINGERPRINT = """
import hashlib, itertools, json
from nanochat import almanac
digest = hashlib.sha256()
for split in ("train", "val"):
    for text in itertools.islice(almanac.documents(7, split), 200): digest.update(text.encode())
    talks = itertools.islice(almanac.conversations(7, split), 200)
    for talk in talks: digest.update(json.dumps(talk).encode())
for kind in almanac.KINDS: digest.update(json.dumps(almanac.questions(kind, 50, 7)).encode())
print(digest.hexdigest())
"""


def test_every_process_makes_the_same_text():
    def fingerprint(hash_seed):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", FINGERPRINT]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert fingerprint("1") == fingerprint("2") != ""


def test_seeds_and_splits_give_different_texts():
    starts = [tuple(take(almanac.documents(seed, split), 20))
              for seed in (0, 1, -1) for split in ("train", "val")]
    assert len({text for start in starts for text in start}) == 6 * 20


# ---- truth

TRUE = {
    "capital": {"France": "Paris", "Australia": "Canberra", "Canada": "Ottawa", "Kenya": "Nairobi"},
    "country": {"Tokyo": "Japan", "Oslo": "Norway", "Brasilia": "Brazil"},
    "continent": {"Egypt": "Africa", "Nepal": "Asia", "Cuba": "North America", "Fiji": "Oceania"},
    "currency": {"Japan": "yen", "Poland": "zloty", "India": "rupee", "Sweden": "krona", "Norway": "krone"},
    "currency_country": {"yen": "Japan", "zloty": "Poland", "baht": "Thailand"},
    "language": {"Brazil": "Portuguese", "Austria": "German", "Iran": "Persian"},
    "language_country": {"Hungarian": "Hungary", "Persian": "Iran"},
    "symbol": {"iron": "Fe", "gold": "Au", "sodium": "Na", "lead": "Pb", "potassium": "K", "tungsten": "W"},
    "element": {"Ag": "silver", "Sn": "tin"},
    "number": {"hydrogen": "1", "carbon": "6", "oxygen": "8", "iron": "26", "gold": "79", "uranium": "92"},
    "number_element": {"1": "hydrogen", "79": "gold"},
    "planet": {"first": "Mercury", "third": "Earth", "eighth": "Neptune"},
    "trait": {"the biggest planet": "Jupiter", "the red planet": "Mars"},
    "young": {"swan": "cygnet", "kangaroo": "joey", "cow": "calf"},
    "young_animal": {"cygnet": "swan", "joey": "kangaroo"},
    "kind": {"whale": "mammal", "newt": "amphibian", "spider": "arachnid"},
    "legs": {"spider": "eight", "bee": "six", "owl": "two", "horse": "four"},
    "sound_animal": {"hoot": "owl", "bray": "donkey"}, "home_animal": {"kennel": "dog", "hive": "bee"},
    "opposite": {"deep": "shallow", "shallow": "deep", "cheap": "expensive"},
    "color": {"a ruby": "red", "elephants": "gray"}, "plural": {"ox": "oxen", "foot": "feet", "cat": "cats"},
    "singular": {"oxen": "ox", "teeth": "tooth"},
    "day_after": {"Sunday": "Monday"}, "month_days": {"April": "30", "July": "31", "February": "28"},
    "month_place": {"November": "eleventh"},
    "unit": {"ounces in a pound": "16", "inches in a foot": "12", "years in a century": "100",
             "years in a decade": "10"},
    "sides_shape": {"8": "octagon"}}


def test_known_facts_are_told_as_they_are(book):
    told = {(fact.topic.relation, fact.subject): fact for fact in book.facts}
    scribe = almanac.Scribe("train", "test")
    for relation, answers in TRUE.items():
        for subject, answer in answers.items():
            fact = told[relation, subject]
            assert fact.answer == answer and answer not in fact.wrong
            texts = [fact.reply] + [scribe.say(fact) for _ in range(20)]
            count = f"number {fact.slots.get('count')}"
            assert all(answer.lower() in text.lower() or count in text for text in texts)


def test_calendar_shapes_and_inverse_relations_agree(book):
    for after, before in (("day_after", "day_before"), ("month_after", "month_before")):
        following = {fact.subject: fact.answer for fact in book.relations[after]}
        assert {fact.answer: fact.subject for fact in book.relations[before]} == following
        day = start = next(iter(following))
        for _ in following:
            day = following[day]
        assert day == start and len(set(following.values())) == len(following)
    assert [int(fact.answer) for fact in book.relations["sides"]] == list(range(3, 11))
    numbers = [int(fact.answer) for fact in book.relations["number"]]
    assert numbers == sorted(set(numbers))
    opposites = {fact.subject: fact.answer for fact in book.relations["opposite"]}
    assert all(opposites[answer] == subject for subject, answer in opposites.items())
    for there, back in (("capital", "country"), ("symbol", "element"), ("currency", "currency_country"),
                        ("plural", "singular")):
        forth = {(fact.subject, fact.answer) for fact in book.relations[there]}
        assert {(fact.answer, fact.subject) for fact in book.relations[back]} <= forth


def test_subjects_have_one_answer_in_each_relation(book):
    for name, facts in book.relations.items():
        subjects = [fact.subject for fact in facts]
        assert len(subjects) == len(set(subjects)), name
        assert all(len(fact.wrong) >= 3 for fact in facts), name
        assert not any({fact.answer, fact.subject} & set(fact.wrong) for fact in facts), name


def test_every_equation_in_training_is_true(train_text):
    left, right = r"(?<![\d.])(\d+(?: (?:[+*/-]|plus|minus|times) \d+)+)", r"(-?\d+)(?!\d|\.\d)"
    equations = re.findall(rf"{left} (?:=|is|equals) {right}", train_text)
    assert len(equations) > 3000 and sum(len(left.split()) > 3 for left, _ in equations) > 300
    for left, right in equations:
        expression = " ".join(SIGNS.get(part, part) for part in left.split())
        assert eval(expression) == int(right), left


def test_tool_outputs_are_what_the_calculator_says(train_conversations):
    outputs = 0
    for message in itertools.chain.from_iterable(c["messages"] for c in train_conversations):
        if isinstance(message["content"], list):
            tool, output, text = message["content"]
            assert [part["type"] for part in message["content"]] == ["python", "python_output", "text"]
            assert evaluate(tool["text"]) == output["text"] and output["text"] in text["text"]
            outputs += 1
    assert outputs > 1000


def test_the_tool_gets_the_numbers_of_the_question(book, train_conversations):
    """All of them, in any order, and no others, where the question has them in digits."""
    in_words = {*book.pools["number_words"], *book.pools["tens"],
                "double", "doubled", "twice", "half", "halve"}
    checked = 0
    for conversation in train_conversations:
        texts = [message["content"] for message in conversation["messages"]]
        for question, answer in zip(texts, texts[1:]):
            summed = isinstance(answer, list) and "count" not in answer[0]["text"]
            if summed and not in_words & set(re.findall(r"\w+", question.lower())):
                asked_for, computed = (re.findall(r"\d+", text) for text in (question, answer[0]["text"]))
                assert sorted(asked_for) == sorted(computed), question
                checked += 1
    assert checked > 500


def test_spelled_letters_are_those_of_the_word(train_text):
    spelled = re.findall(r"word ([a-z]+) is spelled((?: [a-z])+)\b", train_text)
    assert len(spelled) > 1000
    assert all(word == letters.replace(" ", "") for word, letters in spelled)
    counted = re.findall(r"letter (\w) appears (\d+) times? in ([a-z]+)", train_text)
    assert len(counted) > 500
    assert all(word.count(letter) == int(count) for letter, count, word in counted)
    long = re.findall(r"word ([a-z]+) has (\d+) letters", train_text)
    assert len(long) > 200 and all(len(word) == int(count) for word, count in long)


def test_what_it_knows_is_never_refused(book, train_conversations):
    """
    Where a question ends in "the capital of Chile?" and the like, it is refused if and only if nanochat has
    no such fact.
    """
    heads = {"capital": "capital(?: city)? of", "symbol": "symbol (?:of|for)", "opposite": "opposite of",
             "plural": "plural of", "currency": "currency of", "number": "atomic number of",
             "continent": "continent of", "color": "colou?r of"}
    known = {name: {fact.subject.lower() for fact in book.relations[name]} for name in heads}
    known["color"] |= {fact.slots["noun"] for fact in book.relations["color"] if "noun" in fact.slots}
    refusal = book.ways["unknown"][0]
    spellings = dict(reversed(pair.lower().split("/")) for pair in book.ways["british"])
    refused = answered = 0
    for question, answer in turns(train_conversations):
        for name, head in heads.items():
            pattern = rf"(?:^|the |usual |chemical ){head} ((?:the |an? )?[\w-]+)\?$"
            match = re.search(pattern, question.lower())
            if match and match[1] not in ("what", *book.ways["endings"]) and "{" not in match[1]:
                assert (spellings.get(match[1], match[1]) in known[name]) == (answer != refusal), question
                refused, answered = refused + (answer == refusal), answered + (answer != refusal)
    assert refused > 10 and answered > 50


def test_refusals_are_a_steady_share_of_what_is_asked(book, train_conversations):
    answers = [answer for _, answer in turns(train_conversations)]
    assert 0.1 < answers.count(book.ways["unknown"][0]) / len(answers) < 0.25


# ---- form

def test_conversations_alternate_and_end_with_an_answer(train_conversations):
    for conversation in train_conversations:
        roles = [message["role"] for message in conversation["messages"]]
        roles = roles[roles[0] == "system":]
        assert roles == ["user", "assistant"] * (len(roles) // 2) and roles
        assert all(content_text(message["content"]).strip() for message in conversation["messages"])


def test_questions_are_typed_as_people_type(book, train_conversations):
    questions = [question for question, _ in turns(train_conversations) if "\n" not in question]
    share = lambda test: sum(map(test, questions)) / len(questions)
    assert 0.25 < share(str.islower) < 0.6 and 0.2 < share(lambda text: text.endswith("?")) < 0.6
    assert 0.02 < share(lambda text: "please" in text.lower()) < 0.3
    for wanted in ("colour", "grey", "aluminium", "sulphur", "metre", "whats", "france", "the uk"):
        assert any(wanted in question.lower() for question in questions), wanted


def test_multiple_choice_has_exactly_one_right_option(book):
    facts = {(fact.topic.relation, fact.subject): fact for fact in book.facts}
    for question in almanac.questions("choice", 700):
        options = dict(reversed(option) for option in re.findall(r"^- (.+)=([A-D])$", asked(question), re.M))
        assert list(options) == ["A", "B", "C", "D"] and len(set(options.values())) == 4
        right = facts[question["relation"], question["subject"]].answer
        assert [letter for letter in options if options[letter] == right] == [question["answer"]]


def test_answer_letters_are_balanced():
    letters = [question["answer"] for question in almanac.questions("choice", 2000)]
    assert all(0.2 < letters.count(letter) / 2000 < 0.3 for letter in "ABCD")


def test_relations_have_many_wordings(book):
    for name, facts in book.relations.items():
        for fact in facts[:1]:
            forms, families = fact.topic.forms, fact.topic.families
            own = name == "self"                            # in whole questions alone
            assert len(set(forms["ask"])) >= 10, name
            assert len(set(forms["test"])) >= (3 if own else 2), name
            enough = len(families["train"]) >= 9 and len(families["test"]) >= 5
            assert own or (len(forms["np"]) >= 2 and enough), name


def test_documents_are_varied_and_of_readable_length(train_documents):
    text = "\n\n".join(train_documents).encode()
    assert len(text) / len(zlib.compress(text, 6)) < 5
    words = " ".join(train_documents).split()
    grams = {hash(tuple(words[i:i + 8])) for i in range(len(words) - 8)}
    assert len(grams) / len(words) > 0.75
    lengths = [len(document.split()) for document in train_documents]
    assert min(lengths) >= 40 and max(lengths) <= 600
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
    for wrong in ("", "The capital of France is Berlin.", "Paris, Berlin or Rome.", "Parisian",
                  "I do not know."):
        assert not almanac.is_correct(question, wrong)
    mexico = ask("facts", relation="capital", answer="Mexico City")
    assert almanac.is_correct(mexico, "The capital of Mexico is Mexico City.")
    assert not almanac.is_correct(mexico, "The capital of Mexico is Mexico.")
    helium = ask("facts", relation="symbol", answer="He")
    assert almanac.is_correct(helium, "The chemical symbol of helium is He.")
    assert not almanac.is_correct(helium, "he is")
    cow = ask("facts", relation="legs", answer="four")
    assert almanac.is_correct(cow, "It has 4 legs.")
    assert not almanac.is_correct(cow, "It has four or six legs.")
    prediction = ask("facts", relation="self", subject="prediction")
    assert almanac.is_correct(prediction, "I predict the next token.")


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


def test_not_knowing_is_judged_in_any_words():
    question = almanac.questions("unknown", 1)[0]
    for right in ("I do not know that.", "Sorry, I don't know.", "I cannot tell you that.", "I'm not sure.",
                  "I have no idea."):
        assert almanac.is_correct(question, right)
    for wrong in ("", "Paris.", "The capital of Chile is Lima.", "I know that.",
                  "The letter n appears 2 times in known."):
        assert not almanac.is_correct(question, wrong)


def test_expected_replies_are_judged_correct(book):
    replies = {(fact.topic.relation, fact.subject): fact.reply for fact in book.facts}
    for question in almanac.questions("facts", 1500):
        assert almanac.is_correct(question, replies[question["relation"], question["subject"]])
