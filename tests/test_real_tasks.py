"""The sets of the hub and the spelling tasks: what they ask and teach, to the token, and how they judge."""

import argparse
import re
import string
from collections import Counter
from decimal import Decimal
from pathlib import Path
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
import tasks
from nanochat.almanac import documents
from nanochat.calculator import evaluate
from nanochat.chat import check_conversation, render_conversation, visible_text
from nanochat.common import RunLog
from nanochat.dataloader import ChatLoader
from nanochat.tokenizer import Tokenizer
from tasks import gsm8k, spellingbee
from tasks.common import Missing, Rows, choice_question, names_number, number_behind_hashes

BYTES = Tokenizer([bytes([i]) for i in range(256)])
WORDS = ["".join(letters) for letters in zip(*(string.ascii_lowercase[i:] * 40 for i in (0, 7, 11, 4)))][:900]
ARC_ROWS = [
    {"id": "a", "question": "Which is a planet? ", "answerKey": "B",
     "choices": {"text": ["the Moon", "Mars", "Sirius."], "label": ["A", "B", "C"]}},
    {"id": "b", "question": "What do bees make?", "answerKey": "4",
     "choices": {"text": ["milk", "silk", "wax paper", "honey", "5%"], "label": ["1", "2", "3", "4", "5"]}},
]
MMLU_ROWS = [{"question": "2 + 2 is", "subject": "x", "choices": ["3", "4", "5", "22"], "answer": 1}]
GSM8K_ROWS = [
    {"question": "Ann has 48 clips and sells half. How much at $.50?", "answer":
     "She sells 48/2 = <<48/2=24>>24 clips.\nThat is 24*.50 = $<<24*.50=12.00>>12.00 or 3/4.\n#### 12"},
    {"question": "Owes?", "answer": "He owes 1,000.\n#### -1,000"},
]
TALKS = [
    [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello."), ("user", "Bye"),
     ("assistant", "Bye.")],
    [("user", "no answer")], [("assistant", "out of turn")], [("user", "1"), ("assistant", "one")],
]
SETS = {
    "ai2_arc/ARC-Easy": ARC_ROWS, "ai2_arc/ARC-Challenge": ARC_ROWS[:1], "mmlu/all": MMLU_ROWS,
    "gsm8k/main": GSM8K_ROWS,
    "smol-smoltalk/default": [
        {"messages": [{"role": role, "content": text} for role, text in talk], "source": "x"}
        for talk in TALKS],
}
SPELLING_OF_SEED_42 = [
    "How many letters v are there in RZOV?", "quick question: How often does the letter 'v' occur in fzvf?",
    "Hi! Spell the word 'sole'", 'hi! Please spell "zimz" for me.',
]
REAL = ("arc-easy", "arc-challenge", "mmlu", "gsm8k", "smoltalk", "spellingbee", "simplespelling")
ASKED = [name for name in REAL if tasks.REGISTRY[name].questions]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """What `datasets` makes of a parquet file goes elsewhere than to the user's cache, and is never told."""
    import datasets
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(spellingbee, "SYSTEM_WORDS", tmp_path / "words")
    spellingbee.words.cache_clear()
    yield
    spellingbee.words.cache_clear()


@pytest.fixture
def words(tmp_path):
    (tmp_path / "words").write_text("\n".join([*WORDS, "Paris", "don't", "ab", "caf\u00e9", "x" * 40]))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Small sets in the columns of the hub's, one in two files."""
    root = tmp_path_factory.mktemp("data")

    def write(name: str, rows: list[dict]) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), root / f"{name}.parquet")

    for name, rows in SETS.items():
        for split in ("train", "validation", "test"):
            if (name, split) != ("gsm8k/main", "train"):
                write(f"{name}/{split}-00000-of-00001", rows)
    write("gsm8k/main/train-00000-of-00002", GSM8K_ROWS[:1])
    write("gsm8k/main/train-00001-of-00002", GSM8K_ROWS[1:])
    write("mmlu/all/auxiliary_train", MMLU_ROWS)
    return root


def taught(name: str, split: str, data: Path | None, most: int | None = None, seed: int = 0):
    return tasks.REGISTRY[name].conversations(split, most, seed, data)


def asked(name: str, split: str, data: Path | None, most: int | None = None, seed: int = 0):
    return tasks.REGISTRY[name].questions(split, most, seed, data)


def batch_text(conversation: dict) -> str:
    """Inputs and targets of the loader, decoded: what is a target stands between braces."""
    length = len(render_conversation(BYTES, conversation)[0])
    with ChatLoader(BYTES, [conversation], 1, length - 1) as batches:
        inputs, targets = (tensor[0].tolist() for tensor in next(batches))
    assert all(target in (-1, token) for target, token in zip(targets, inputs[1:]))
    shown, open = BYTES.decode(inputs[:1]), False
    for token, target in zip([*inputs[1:], targets[-1]], targets):
        shown += "{" if target >= 0 and not open else "}" if open and target < 0 else ""
        shown += BYTES.decode([token])
        open = target >= 0
    return shown + "}" * open


# ---- to the token, through the loader

def golden(name: str, data: Path, index: int, expected: str) -> None:
    expected = expected.replace("<U>", "<|user_start|>").replace("</U>", "<|user_end|>")
    expected = expected.replace("<A>", "<|assistant_start|>").replace("</A>", "<|assistant_end|>")
    expected = expected.replace("<P>", "<|python_start|>").replace("</P>", "<|python_end|>")
    expected = expected.replace("<O>", "<|output_start|>").replace("</O>", "<|output_end|>")
    assert batch_text(taught(name, "train", data)[index]) == "<|bos|>" + expected


def test_the_loader_trains_the_letter_of_a_multiple_choice_alone(data):
    golden("arc-easy", data, 0, "<U>Which is a planet?\n- the Moon (A)\n- Mars (B)\n- Sirius. (C)\n"
           "Which one is right? Reply with its letter and no more.</U><A>{B</A>}")
    golden("arc-easy", data, 1, "<U>What do bees make?\n- milk (1)\n- silk (2)\n- wax paper (3)\n"
           "- honey (4)\n- 5% (5)\nWhich one is right? Reply with its letter and no more.</U><A>{4</A>}")
    golden("mmlu", data, 0, "<U>2 + 2 is\n- 3 (A)\n- 4 (B)\n- 5 (C)\n- 22 (D)\n"
           "Which one is right? Reply with its letter and no more.</U><A>{B</A>}")


def test_the_loader_trains_calls_and_never_their_outputs(data):
    golden("gsm8k", data, 0, "<U>Ann has 48 clips and sells half. How much at $.50?</U><A>{She sells 48/2 = "
           "<P>48/2</P>}<O>24</O>{24 clips.\nThat is 24*.50 = $<P>24*.50</P>}<O>12</O>{12.00 or 3/4.\n#### 12"
           "</A>}")
    golden("gsm8k", data, 1, "<U>Owes?</U><A>{He owes 1,000.\n#### -1,000</A>}")


def test_the_loader_trains_every_answer_of_several_turns_and_never_the_system_message(data):
    golden("smoltalk", data, 0, "<U>Be brief.\n\nHi</U><A>{Hello.</A>}<U>Bye</U><A>{Bye.</A>}")


def test_the_loader_trains_spelling_its_call_and_the_final_number(words):
    for index in range(5):
        conversation = taught("spellingbee", "train", None)[index]
        question, answer = (message["content"] for message in conversation["messages"])
        word, letter = re.fullmatch(r'"(\w+)"\.count\("(\w)"\)', answer[1]["text"]).groups()
        golden("spellingbee", None, index, f"<U>{question}</U><A>{{Letter by letter: {' '.join(word)}\n"
               f'Now I count {letter} in it: <P>"{word}".count("{letter}")</P>}}<O>{word.count(letter)}</O>'
               f"{{\n#### {word.count(letter)}</A>}}")
        golden("simplespelling", None, index, "<U>{}</U><A>{{{}</A>}}".format(*(
            message["content"] for message in taught("simplespelling", "train", None)[index]["messages"])))


# ---- letters

def merging() -> Tokenizer:
    """One that joins a letter with whatever it can stand beside."""
    beside = [b"(", b" (", b"=", b" ", b"\n", b"- ", b".", b":"]
    merges = {pair for letter in b"ABCDE12345" for other in beside
              for pair in (other + bytes([letter]), bytes([letter]) + other, bytes([letter]) + b")")}
    return Tokenizer([*(bytes([i]) for i in range(256)), b" (", b"- ", *sorted(merges - {b" (", b"- "})])


MERGING = merging()


def choice_text(letters, choices) -> str:
    return choice_question("?", letters, choices, letters[0])["conversation"]["messages"][0]["content"]


@given(st.text(max_size=8), st.sampled_from("ABCDE12345"))
def test_a_letter_is_one_token_the_same_in_the_question_and_as_the_answer(choice, letter):
    before, bracket, behind = choice_text([letter], [choice]).rpartition(f"({letter})")
    answer, = MERGING.encode(letter)
    assert MERGING.encode(before + bracket + behind) == [
        *MERGING.encode(f"{before}("), answer, *MERGING.encode(f"){behind}")]


def test_the_almanacs_tokenizer_too_has_the_letter_alone_and_would_not_behind_an_equals_sign():
    """Its documents are full of "=A", which becomes a token: why the letter stands between brackets."""
    texts = [text for text, _ in zip(documents(0), range(600))]
    tokenizer = Tokenizer.train(texts, 1500)
    pieces = [tokenizer.decode([token]) for token in tokenizer.encode(choice_text("AB", ["x", "y."]))]
    assert [pieces[place + 1] for place, piece in enumerate(pieces) if piece.endswith("(")] == ["A", "B"]
    assert "=A" in [tokenizer.decode([token]) for token in tokenizer.encode("- x=A\n")]


@pytest.mark.parametrize("reply, right", [
    ("B", True), (" B\n", True), ("B.", True), ("B) Mars", True), ("(B)", True),
    ("**B**", True), ("B: it is Mars", True), ("B bee", False),
    ("", False), ("A", False), ("b", False), ("Bees", False),
    ("B the Moon", False), ("BMars", False),
    ("Mars", False), ("AB", False), ("A or B", False), ("B2", False),
])
def test_a_free_reply_to_a_multiple_choice_is_judged_by_its_letter(data, reply, right):
    assert tasks.REGISTRY["arc-easy"].judge(asked("arc-easy", "test", data)[0], reply) == right


# ---- numbers

@pytest.mark.parametrize("text, number", [
    ("#### 18", "18"), ("so\n####18.", "18"), ("#### $18", "18"), ("#### $ 1,000.50", "1000.5"),
    ("#### -7", "-7"), ("#### -$7", "-7"), ("#### $-7", "-7"), ("#### \u22127", "-7"), ("#### .5", "0.5"),
    ("#### 18.0", "18"), ("#### **18**", "18"), ("#### 18 apples", "18"), ("#### \u20ac18", "18"),
    ("#### 18\n#### 20", "18"), ("####\n18", "18"), ("####", None), ("18", None), ("", None),
    ("### 18", None), ("#### eighteen", None), ("#### x = 18", None),
])
def test_the_number_is_the_first_behind_hashes_however_it_is_written(text, number):
    assert number_behind_hashes(text) == (None if number is None else Decimal(number))


@given(st.text() | st.text(alphabet="# -$.,0123456789\n"))
def test_no_reply_breaks_a_judge(reply):
    assert names_number({"answer": "18"}, reply) in (True, False)
    assert spellingbee.spells_right({"answer": "c a t"}, reply) in (True, False)


@pytest.mark.parametrize("call, value", [
    ("24*.50=12.00", "12"), ("3/4=3/4", "0.75"), ("1,000*2=2000", "2000"), ("10/4=2.50", "2.5"),
    ("1/0=5", None), ("=5", None), ("x*2=5", None)])
def test_an_output_is_what_the_calculator_says_and_a_refused_call_is_no_call(call, value):
    parts = gsm8k.solution(f"a <<{call}>>b\n#### 1")
    called = [{"type": "python", "text": call.rpartition("=")[0]}, {"type": "python_output", "text": value}]
    text = [{"type": "text", "text": "a "}, {"type": "text", "text": "b\n#### 1"}]
    assert parts == (text if value is None else [text[0], *called, text[1]])


# ---- every task

@pytest.mark.parametrize("name", REAL)
def test_conversations_to_train_and_to_validate_on_are_sound_and_repeat(name, data, words):
    for split in ("train", "val"):
        found = taught(name, split, data, 40, seed=3)
        assert 0 < len(found) <= 40
        for conversation in found:
            check_conversation(conversation, answered=True)
            for message in conversation["messages"]:
                parts = message["content"] if isinstance(message["content"], list) else []
                calls = [part["text"] for part in parts if part["type"] == "python"]
                assert [part["text"] for part in parts if part["type"] == "python_output"] == [
                    evaluate(call) for call in calls]
        assert list(found) == list(taught(name, split, data, 40, seed=3))


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("name", ASKED)
def test_a_reference_answer_is_right_and_an_empty_or_another_one_is_not(name, split, data, words):
    task, questions = tasks.REGISTRY[name], asked(name, split, data, 40)
    for question in questions:
        check_conversation(question["conversation"], answered=False)
        assert isinstance(question["answer"], str) and not task.judge(question, "")
        assert task.judge(question, question["answer"]) or task.judge(question, f"#### {question['answer']}")
        assert not task.judge(question, question["answer"] + "x") and not task.judge(question, "#### 77777")
    if split != "test":
        for question, conversation in zip(questions, taught(name, split, data, 40)):
            assert conversation["messages"][:-1] == question["conversation"]["messages"]
            assert task.judge(question, visible_text(conversation["messages"][-1]["content"]))


@pytest.mark.parametrize("name", ["arc-easy", "gsm8k", "smoltalk"])
def test_some_of_a_set_are_drawn_by_the_seed(name, data):
    every = list(taught(name, "train", data))
    drawn = [taught(name, "train", data, 1, seed)[0] for seed in range(9)]
    assert all(one in every for one in drawn) and len({str(one) for one in drawn}) > 1


# ---- rows that are no conversation

def test_another_row_stands_in_for_one_that_is_no_conversation(data):
    said = [conversation["messages"][-1]["content"] for conversation in taught("smoltalk", "train", data)]
    assert said == ["Bye.", "one", "one", "one"]
    rows = Rows([1, 0, 0], lambda row: row or None)
    assert list(rows) == [1, 1, 1]
    with pytest.raises(Missing, match="none of 2 rows"):
        Rows([0, 0], lambda row: row or None)[0]


def test_rows_read_a_row_only_when_it_is_asked_for():
    read = []
    rows = Rows(range(10), lambda row: read.append(row) or row + 1)
    assert read == [] and len(rows) == 10 and rows[3] == 4 and rows[-1] == 10 and read == [3, 9]
    drawn = Rows(range(10), lambda row: row + 1, [5, 2])
    assert len(drawn) == 2 and list(drawn) == [6, 3]
    with pytest.raises(IndexError):
        rows[10]


# ---- spelling

def test_words_of_the_splits_are_disjoint_and_do_not_depend_on_the_list(words, tmp_path):
    splits = {split: set(spellingbee.words(split)) for split in ("train", "val", "test")}
    assert set.union(*splits.values()) == set(WORDS) and sum(map(len, splits.values())) == len(set(WORDS))
    assert all(splits.values()) and len(splits["train"]) > 8 * len(splits["test"])
    (tmp_path / "words").write_text("\n".join(reversed(WORDS[::2])))
    spellingbee.words.cache_clear()
    for split, known in splits.items():
        assert set(spellingbee.words(split)) == known & set(WORDS[::2])


def test_words_come_from_the_text_of_the_tokenizer_where_the_system_has_no_list(base_dir):
    shard = base_dir / "train_00000.parquet"
    base_dir.mkdir()
    text = " ".join(3 * f"{word} " for word in WORDS[:300]) + "seldom seldom Paris Paris Paris it's it's it's"
    pq.write_table(pa.table({"text": [text]}), shard)
    RunLog(base_dir / "tokenizer" / "tok_train.jsonl").write(files=["/another"])
    RunLog(base_dir / "tokenizer" / "tok_train.jsonl").write(files=["/gone", shard])
    found = [word for split in ("train", "val", "test") for word in spellingbee.words(split)]
    assert sorted(found) == sorted(set(WORDS[:300]))


@pytest.mark.parametrize("name", ["spellingbee", "simplespelling"])
def test_without_a_list_or_a_text_words_are_missing_with_what_to_do(name):
    with pytest.raises(Missing, match="apt install wamerican.* train the tokenizer"):
        taught(name, "train", None)


def test_every_letter_of_a_spelled_word_is_the_same_token_wherever_it_stands(words):
    tokenizer = Tokenizer([*(bytes([i]) for i in range(256)),
                           *(b" " + letter.encode() for letter in string.ascii_lowercase)])
    for conversation in taught("simplespelling", "train", None, 200):
        spelled = conversation["messages"][1]["content"].partition(":")[2]
        ids = tokenizer.encode(conversation["messages"][1]["content"])[-len(spelled) // 2:]
        assert ids == [tokenizer.encode(f" {letter}")[0] for letter in spelled[1::2]]


def test_spelling_is_endless_lazy_asked_in_many_ways_and_says_which_word(words):
    for name in ("spellingbee", "simplespelling"):
        many = taught(name, "train", None, 10**9)
        assert len(many) == 10**9 and many[10**9 - 1]["messages"]
        questions = [question["conversation"]["messages"][0]["content"]
                     for question in asked(name, "test", None, 300)]
        held_out = set(spellingbee.words("test"))
        named = [held_out & set(re.findall("[a-z]+", question.lower())) for question in questions]
        assert all(named)
        starts = Counter(re.split(r"\W", question.lower())[0] for question in questions)
        assert len(starts) > 10 and starts.most_common(1)[0][1] < 150
        assert list(asked(name, "train", None, 5)) != list(asked(name, "train", None, 5, seed=1))


@pytest.mark.parametrize("reply, right", [
    ("Letter by letter: c a t", True), ("C-A-T.", True), ("c\na\nt", True), ("1. c 2. a 3. t", True),
    ("b c a t", False), ("c a t s", False), ("cat", False), ("", False), ("c a", False),
    ("c a t, cat", False),
])
def test_a_spelling_is_judged_by_the_letters_in_its_end(reply, right):
    assert spellingbee.spells_right({"answer": "c a t"}, reply) == right


def test_spelling_draws_the_same_on_every_machine(words):
    """Written down once."""
    made = [*asked("spellingbee", "test", None, 2, 42), *asked("simplespelling", "test", None, 2, 42)]
    questions = [question["conversation"]["messages"][0]["content"] for question in made]
    assert questions == SPELLING_OF_SEED_42


# ---- recipes

def test_the_webs_mixtures_are_made_of_their_tasks(data, words):
    for name, parts in (("web-mid", 5), ("web-sft", 6)):
        for split in ("train", "val"):
            mix = tasks.mixture(name, split, total=60, data=data)
            assert abs(len(mix) - 60) <= 2 <= mix.identity.count(" of ") <= parts
            for conversation in mix:
                check_conversation(conversation, answered=True)


@pytest.mark.parametrize("recipe, total, expected", [
    ("gsm8k", None, {"gsm8k": 2}), ("gsm8k*3 + smoltalk=10", None, {"gsm8k": 6, "smoltalk": 10}),
    ("arc-easy + arc-easy*2+mmlu", None, {"arc-easy": 6, "mmlu": 1}),
    ("gsm8k=30+smoltalk=10", 8, {"gsm8k": 6, "smoltalk": 2}), (" smoltalk=5 ", None, {"smoltalk": 5}),
])
def test_a_recipe_says_how_many_of_what(data, recipe, total, expected):
    mix = tasks.mixture(recipe, "train", total, data=data)
    found = Counter()
    for count, name in re.findall(r"([\d,]+) of ([a-z0-9-]+)", mix.identity):
        found[name] += int(count)
    assert found == expected and len(mix) == sum(expected.values())


@pytest.mark.parametrize("recipe", [
    "", "gsm8k +", "nonsense", "gsm8k*", "gsm8k=2*3", "gsm8k=-1", "gsm8k[1]", "gsm8k arc-easy",
    "almanac-facts", "web-mid + gsm8k"])
def test_what_is_no_recipe_dies_with_what_there_is(data, recipe, capsys):
    with pytest.raises(SystemExit) as stop:
        tasks.mixture(recipe, data=data)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "no mixture and no task" in error and "smoltalk" in error


@pytest.mark.parametrize("recipe", ["gsm8k=0", "gsm8k*0"])
def test_nothing_of_a_task_is_not_an_error(data, recipe):
    assert len(tasks.mixture(recipe, data=data)) == len(tasks.mixture(recipe, total=9, data=data)) == 0


def test_what_is_missing_dies_or_is_named_and_left_out(data, capsys):
    recipe = "gsm8k + simplespelling=100 + arc-easy"
    with pytest.raises(SystemExit) as stop:
        tasks.mixture(recipe, data=data)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "task simplespelling: no list of English words" in error
    assert "--allow-missing" in error and error.count("\n") == 2
    mix = tasks.mixture(recipe, data=data, allow_missing=True)
    assert len(mix) == 4 and "without simplespelling: no list of English words" in mix.identity


def test_a_folder_without_a_set_or_with_a_damaged_or_an_empty_one_is_named(tmp_path):
    folder = tmp_path / "gsm8k" / "main"
    with pytest.raises(Missing, match=r"openai/gsm8k \(main, test\): there is no .*/gsm8k/main/test"):
        asked("gsm8k", "test", tmp_path)
    folder.mkdir(parents=True)
    (folder / "train.parquet").write_bytes(b"PAR1 what")
    with pytest.raises(Missing, match=r"openai/gsm8k \(main, train\): "):
        asked("gsm8k", "train", tmp_path)
    pq.write_table(pa.Table.from_pylist(GSM8K_ROWS)[:0], folder / "test.parquet")
    with pytest.raises(Missing, match=r"openai/gsm8k \(main, test\): "):
        asked("gsm8k", "test", tmp_path)


@pytest.mark.parametrize("flags, complaint", [
    (["--mixture=gsm8k+arc-easy", "--allow-missing"], "nothing to learn from: the mixture is nothing"),
    (["--mixture=gsm8k", "--num-conversations=0"], "nothing to learn from"),
    (["--mixture=gsm8k"], "task gsm8k: openai/gsm8k (main, train): there is no"),
])
def test_a_mixture_of_nothing_is_refused_with_what_is_missing(data, flags, complaint, tmp_path, capsys):
    parser = argparse.ArgumentParser()
    tasks.add_mixture_arguments(parser, default="almanac-mid")
    where = data if "--num-conversations=0" in flags else tmp_path
    with pytest.raises(SystemExit) as stop:
        tasks.mixtures(parser.parse_args([*flags, f"--task-data={where}"]), seed=0)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and complaint in error and error.count("\n") == 2
