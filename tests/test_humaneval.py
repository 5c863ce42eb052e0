"""HumanEval's questions and verdicts, on problems of our own in its columns."""

from concurrent.futures import ThreadPoolExecutor
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from nanochat import execution
from nanochat.chat import check_conversation
from tasks import humaneval

PROBLEMS = [
    {"task_id": "Own/0", "entry_point": "double", "prompt":
     'from typing import List\n\n\ndef double(values: List[int]) -> List[int]:\n    """ Twice each value.\n'
     '    >>> double([1, 2])\n    [2, 4]\n    """\n',
     "canonical_solution": "    found = []\n    for value in values:\n        found.append(2 * value)\n"
     "    return found\n",
     "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    assert candidate([1, 2]) == [2, 4]\n"
     "    assert candidate([]) == []\n"},
    {"task_id": "Own/1", "entry_point": "decode", "prompt":
     'def encode(text: str) -> str:\n    """ Moves each letter on. """\n'
     '    return "".join(chr(ord(letter) + 1) for letter in text)\n\n\ndef decode(text: str) -> str:\n'
     '    """ Undoes encode. """\n',
     "canonical_solution": '    return "".join(chr(ord(letter) - 1) for letter in text)\n',
     "test": 'def check(candidate):\n    from random import choice\n    for _ in range(20):\n'
     '        text = "".join(choice("abc") for _ in range(9))\n'
     '        assert candidate(encode(text)) == text\n'},
    {"task_id": "Own/2", "entry_point": "root", "prompt":
     "import math\n\n\ndef root(x: float) -> float:\n    ''' The square root. '''\n",
     "canonical_solution": "    if x < 0:\n        return float('nan')\n    return math.sqrt(x)\n",
     "test": "def check(candidate):\n    assert abs(candidate(2.0) - 1.41421356) < 1e-6\n"
     "    assert candidate(-1.0) != candidate(-1.0), 'not a number'\n"},
]
FORMS = {
    "fence": lambda row: f"Here it is:\n```python\n{row['prompt']}{row['canonical_solution']}```\nIt works.",
    "fence of no language": lambda row: f"```\n{row['prompt']}{row['canonical_solution']}\n```",
    "no closing fence": lambda row: f"```Python\n{row['prompt']}{row['canonical_solution']}",
    "second fence": lambda row: f"```sh\nls\n```\n```python\n{row['prompt']}{row['canonical_solution']}```",
    "no fence": lambda row: row["prompt"] + row["canonical_solution"],
    "function alone": lambda row: (row["prompt"] + row["canonical_solution"])[
        row["prompt"].index(f"def {row['entry_point']}"):],
    "body": lambda row: row["canonical_solution"],
    "body in a fence": lambda row: f"```python\n{row['canonical_solution']}```",
}
WRONG = ["", "pass", "I do not know.", "```python\n```", "    return None", "    import sys; sys.exit(0)",
         "    import os; os._exit(0)", "    raise SystemExit", "    return double(values", "    return (",
         "```python\ndef other(values): return [2 * value for value in values]\n```",
         "```python\ndef double(values): return double(values)\n```", "\x00", "\ud800", "```python\n" * 1000,
         "```python\ndef check(candidate): pass\ndef double(values): pass\n```",
         "```python\nclass All:\n    __eq__ = lambda *_: True\ndef double(values): return All()\n```"]


@pytest.fixture(autouse=True)
def unisolated_is_allowed(monkeypatch):
    monkeypatch.setattr(execution, "_allowed", True)


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    path = tmp_path / "data" / "openai_humaneval" / "openai_humaneval" / "test.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(PROBLEMS), path)
    return tmp_path / "data"


@pytest.fixture
def questions(data):
    return humaneval.TASKS[0].questions("test", None, 0, data)


def test_questions_are_the_rows_and_the_answer_to_each_is_right(data, questions):
    assert len(questions) == 3 and len(humaneval.TASKS[0].questions("test", 2, 0, data)) == 2
    for question, row in zip(questions, PROBLEMS):
        check_conversation(question["conversation"], answered=False)
        assert row["prompt"] in question["conversation"]["messages"][0]["content"]
        assert humaneval.TASKS[0].judge(question, question["answer"])


@pytest.mark.parametrize("form", FORMS)
def test_a_right_solution_passes_in_whatever_form_it_comes(form, questions):
    replies = map(FORMS[form], PROBLEMS)
    assert all(map(humaneval.judge, questions, replies))


def test_a_wrong_reply_fails(questions):
    with ThreadPoolExecutor(2) as pool:                 # some take their ten seconds
        verdicts = list(pool.map(humaneval.judge, [questions[0]] * len(WRONG), WRONG))
    assert dict(zip(WRONG, verdicts)) == dict.fromkeys(WRONG, False)


def test_the_solution_of_another_problem_fails(questions):
    assert not any(humaneval.judge(questions[i], FORMS["body"](PROBLEMS[i - 1])) for i in range(3))


def test_a_reply_cannot_change_the_helpers_that_the_tests_use(questions):
    cheat = "```python\ndef encode(text): return text\ndef decode(text): return text\n```"
    assert not humaneval.judge(questions[1], cheat)
