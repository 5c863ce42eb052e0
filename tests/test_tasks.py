"""The registry, the mixtures and one's own conversations."""

import contextlib
import io
import itertools
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
import pytest
from hypothesis import given
from hypothesis import strategies as st
import tasks
from nanochat.chat import check_conversation, render_conversation
from nanochat.tokenizer import Tokenizer
from tasks import customjson
from tasks.common import Part, Task, TaskMixture, shuffled

ROOT = Path(__file__).parent.parent
MADE = [task for name, task in tasks.REGISTRY.items() if name.startswith("almanac")]     # without a hub
ASKED = [task for task in MADE if task.questions]
TAUGHT = [task for task in MADE if task.conversations]
ORDER_OF_SEED_42 = [4, 9, 2, 7, 6, 0, 3, 1, 5, 8]
MODULES = ["tasks", *(f"tasks.{path.stem}" for path in sorted((ROOT / "tasks").glob("[!_]*.py")))]


def talk(answer: str, question: str = "?") -> dict:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def numbered(name: str, count: int) -> list[dict]:
    return [talk(f"{name} {i}") for i in range(count)]


def answers(conversations) -> list[str]:
    return [conversation["messages"][1]["content"] for conversation in conversations]


# ---- modules and registry

@pytest.mark.parametrize("module", MODULES)
def test_each_module_is_imported_first_without_a_circle_and_without_work(module, base_dir):
    """In a process of its own: no file but Python's is opened, and the almanac is not built."""
    code = f"""
import sys
import nanochat.chat, nanochat.almanac, nanochat.common             # whatever these need is not counted
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
import {module}
from nanochat import almanac
assert almanac.almanac.cache_info().currsize == 0, "the almanac was built"
bad = [path for path in opened if not path.endswith((".py", ".pyc")) and ".pyc." not in path]
assert not bad, bad
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    subprocess.run([sys.executable, "-c", f"import {module}"], cwd=ROOT, check=True)
    assert not base_dir.exists()


def test_the_registry_knows_every_task_by_its_own_name():
    assert all(task.name == name for name, task in tasks.REGISTRY.items())
    for task in tasks.REGISTRY.values():
        assert task.conversations or (task.questions and task.judge), f"{task.name} does nothing"
        assert 0 <= task.chance < 1


@pytest.mark.parametrize("task", ASKED, ids=lambda task: task.name)
def test_questions_are_conversations_to_be_answered_and_the_answer_is_judged_right(task):
    questions = task.questions("test", 20, 0, None)
    assert len(questions) == 20
    for question in questions:
        check_conversation(question["conversation"], answered=False)
    replies = [f"={question['answer']}" for question in questions]
    assert all(task.judge(question, reply) for question, reply in zip(questions, replies))
    assert not any(task.judge(question, "") for question in questions)


@pytest.mark.parametrize("task", TAUGHT, ids=lambda task: task.name)
def test_conversations_of_all_splits_are_fit_to_learn_from_and_differ(task):
    splits = {split: task.conversations(split, 50, 3, None) for split in ("train", "val")}
    for conversations in splits.values():
        assert 0 < len(conversations) <= 50
        for conversation in conversations:
            check_conversation(conversation, answered=True)
    assert splits["train"] != splits["val"]
    assert splits["train"] == task.conversations("train", 50, 3, None)
    assert splits["train"] != task.conversations("train", 50, 4, None)


def test_tasks_are_found_by_name_and_a_wrong_name_dies_with_the_known_ones(capsys):
    asked = [task.name for task in ASKED]
    assert tasks.find_tasks("almanac") == ASKED
    assert tasks.find_tasks(f"{asked[1]}, {asked[0]},almanac") == [ASKED[1], ASKED[0], *ASKED[2:]]
    for name in ("nonsense", "", "almanac facts"):
        with pytest.raises(SystemExit) as stop:
            tasks.find_tasks(f"{asked[0]},{name}")
        error = capsys.readouterr().err
        assert stop.value.code == 2 and repr(name) in error and ", ".join(asked) in error


# ---- mixtures

def test_every_mixture_is_of_tasks_that_have_conversations_to_train_and_to_validate_on():
    for name in ("almanac-mid", "almanac-sft"):
        for split in ("train", "val"):
            assert len(tasks.mixture(name, split, total=30)) == 30


def test_a_mixture_has_as_many_conversations_as_it_says_or_as_it_is_told():
    assert len(tasks.mixture("almanac-sft")) == 10_000
    assert len(tasks.mixture("almanac-sft", total=7)) == 7
    assert len(tasks.mixture("almanac-sft", total=0)) == len(tasks.mixture("almanac-sft", total=-1)) == 0


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 40)), max_size=4), st.integers())
def test_a_mixture_is_its_parts_each_gone_through_as_evenly_as_can_be(sizes, seed):
    parts = [Part(str(i), numbered(str(i), held), count) for i, (held, count) in enumerate(sizes)]
    mix = TaskMixture(parts, seed)
    expected = Counter()
    for part in parts:
        expected.update(itertools.islice(itertools.cycle(answers(part.conversations)), part.count))
    assert Counter(answers(mix)) == expected and len(mix) == sum(count for _, count in sizes)
    for part in parts:
        times = [expected[answer] for answer in answers(part.conversations)]
        assert max(times) - min(times) <= 1


def test_a_mixture_is_mixed():
    """Every tenth of it has its share of each part, within four standard deviations of a random draw."""
    parts = [Part(name, numbered(name, count), count) for name, count in (("a", 3000), ("b", 1000))]
    mix = answers(TaskMixture(parts, seed=1))
    for start in range(0, 4000, 400):
        share = sum(answer.startswith("b") for answer in mix[start:start + 400])
        assert abs(share - 100) < 4 * (400 * 0.25 * 0.75 * 0.9) ** 0.5
    order = [int(answer.split()[1]) for answer in mix if answer.startswith("a")]
    assert order != sorted(order)


def test_the_order_of_a_mixture_is_the_same_on_every_machine():
    """Written down once; the seed alone moves it, its sign too."""
    assert shuffled(10, 42) == ORDER_OF_SEED_42
    code = "from tasks.common import shuffled; print(shuffled(1000, 7))"
    runs = [subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
                           env=os.environ | {"PYTHONHASHSEED": seed}).stdout for seed in ("1", "2")]
    assert runs[0] == runs[1] == f"{shuffled(1000, 7)}\n"
    assert shuffled(1000, 1) != shuffled(1000, -1) and sorted(shuffled(1000, -1)) == list(range(1000))


def test_a_mixture_reads_a_conversation_only_when_it_is_asked_for():
    class Shelf(list):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)
    read = []
    mix = TaskMixture([Part("a", Shelf(numbered("a", 10)), 30)], seed=0)
    assert read == [] and mix[3] and len(read) == 1
    with pytest.raises(IndexError):
        mix[30]


def test_weights_epochs_and_own_conversations_come_together(monkeypatch):
    """Two tasks 3 : 1, the second with fewer conversations than its share, and a file of one's own on top."""
    for name, held in (("big", 1000), ("small", 10)):
        make = lambda split, most, seed, data, name=name, held=held: numbered(name, min(most, held))
        monkeypatch.setitem(tasks.REGISTRY, name, Task(name, make))
    monkeypatch.setitem(tasks.MIXTURES, "both", "big=300 + small=100")
    own = [Part("own", numbered("own", 2), 6)]
    mix = answers(tasks.mixture("both", total=80, own=own))
    assert Counter(answer.split()[0] for answer in mix) == {"big": 60, "small": 20, "own": 6}
    times = {(answer.split()[0], count) for answer, count in Counter(mix).items()}
    assert times == {("big", 1), ("small", 2), ("own", 3)}
    assert mix == answers(tasks.mixture("both", total=80, own=own))
    assert mix != answers(tasks.mixture("both", total=80, own=own, seed=1))


def test_validation_has_the_proportions_of_training(monkeypatch):
    """Whatever the sizes of the validation splits are."""
    for name, sizes in (("big", {"train": 3000, "val": 10}), ("small", {"train": 1000, "val": 5000})):
        make = lambda split, most, seed, data, name=name, sizes=sizes: numbered(name, sizes[split])[:most]
        monkeypatch.setitem(tasks.REGISTRY, name, Task(name, make))
    for recipe, share in (("big + small", 300), ("big=1000 + small", 200), ("big*2 + small=2000", 300)):
        mix = answers(tasks.mixture(recipe, "val", total=400))
        assert sum(answer.startswith("big") for answer in mix) == share, recipe


def test_the_identity_of_a_mixture_changes_with_counts_and_seed():
    def identity(count=10, seed=0) -> str:
        return TaskMixture([Part("x", numbered("x", 10), count)], seed).identity

    same = identity()
    assert same == identity() == "10 of x, seed 0"
    assert len({same, identity(count=11), identity(seed=1)}) == 3


# ---- one's own conversations

@pytest.mark.parametrize("line, complaint", [
    (b"{", "Expecting property name"), (b"[]", '"messages"'), (b'{"messages": []}', "at least one message"),
    (b'{"messages": [{"role": "user", "content": "a"}]}', "must be from 'assistant'"),
    (b'{"messages": [{"role": "bot", "content": "a"}]}', "message 1 is from 'bot'"),
    (json.dumps({"messages": [*talk("b")["messages"], *talk("c")["messages"][1:]]}).encode(), "take turns"),
    (json.dumps(talk(3)).encode(), '"content"'),
    (json.dumps(talk(" ")).encode(), "says nothing"),
    (b'{"messages": "\xff"}', "utf-8"), (b"[" * 100_000, "recursion"), (b"1" * 5000, "digit"),
])
def test_a_line_that_is_no_conversation_is_named(tmp_path, line, complaint, capsys):
    path = tmp_path / "own.jsonl"
    path.write_bytes(json.dumps(talk("b")).encode() + b"\n\n" + line + b"\n")
    with pytest.raises(SystemExit) as stop:
        customjson.load(path)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 2
    assert "own.jsonl line 3: " in error and complaint in error


@pytest.mark.parametrize("text, count", [
    ("\ufeff" + json.dumps(talk("b")), 1),              # as Windows writes it
    (json.dumps(talk("b")) + "\r\n  \r\n" + json.dumps(talk("c")) + "\r\n", 2),
    (json.dumps(talk("one\u2028line\x85\x0c of \x1c text"), ensure_ascii=False) + "\n", 1),
    (json.dumps(talk([{"type": "python", "text": "1+1"}, {"type": "text", "text": "2"}]) | {"id": 7}), 1),
])
def test_files_as_people_have_them_are_read(tmp_path, text, count):
    path = tmp_path / "own.jsonl"
    path.write_bytes(text.encode())
    lines = [line for line in text.lstrip("\ufeff").split("\n") if line.strip()]
    assert customjson.load(path) == list(map(json.loads, lines)) and len(lines) == count
    assert customjson.part(path, 3).count == 3 * count


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_a_file_without_a_conversation_is_refused(tmp_path, content, capsys):
    path = tmp_path / "own.jsonl"
    path.write_bytes(content)
    with pytest.raises(SystemExit) as stop:
        customjson.part(path)
    assert stop.value.code == 2 and "holds no conversation" in capsys.readouterr().err


texts = st.text(max_size=6) | st.sampled_from(["<|assistant_end|>", "\ud800", " ", "\n", "3*4"])
kinds = st.sampled_from(["text", "python", "python_output", "image", None])
parts = st.lists(st.fixed_dictionaries({"type": kinds, "text": texts | st.integers()}), max_size=3)
contents = texts | parts | st.none() | st.integers()
roles = st.sampled_from(["user", "assistant", "system", "tool", None])
keys = st.sampled_from(["messages", "role", "content"])
leaves = st.none() | st.booleans() | st.floats() | texts
nest = lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner)
anything = st.recursive(leaves, nest, max_leaves=8)
wild = st.fixed_dictionaries({"messages": st.lists(
    st.fixed_dictionaries({"role": roles, "content": contents}) | anything, max_size=5)})
spoken = st.lists(texts | parts, min_size=1, max_size=5).map(lambda said: {"messages": [
    {"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(said)]})
TOKENIZER = Tokenizer([bytes([i]) for i in range(256)])


@given(st.lists(spoken | wild | anything, min_size=1, max_size=4))
def test_what_is_accepted_renders_with_a_target_and_what_is_refused_is_named(tmp_path_factory, conversations):
    path = tmp_path_factory.mktemp("own") / "own.jsonl"
    path.write_text("\n".join(map(json.dumps, conversations)) + "\n")
    refused = refused_line(path)
    if refused:
        with pytest.raises(ValueError):
            check_conversation(conversations[refused - 1])
    for conversation in conversations[:refused - 1] if refused else conversations:
        ids, mask = render_conversation(TOKENIZER, conversation)
        trained = [token for token, flag in zip(ids, mask) if flag and token < 256]
        assert len(ids) == len(mask) and trained, "nothing to learn but markers"


def refused_line(path: Path) -> int | None:
    """Number of the line that the loader names, None where it takes the whole file."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            customjson.load(path)
    except SystemExit as stop:
        assert stop.code == 2
        return int(re.search(r"own\.jsonl line (\d+): ", said.getvalue())[1])
