"""chat_eval from its flags to its log, on a random model of toy size."""

import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
import pytest
import torch
import tasks
from nanochat import checkpoint, execution
from nanochat.common import RunLog
from nanochat.gpt import GPT
from nanochat.scaling import make_shape
from nanochat.stage import open_stage
from nanochat.tokenizer import Tokenizer
from scripts import chat_eval
from tasks.common import Missing, Task

ROOT = Path(__file__).parent.parent
SIX = tasks.GROUPS["chatcore"]


@pytest.fixture(autouse=True)
def model(base_dir):
    """A checkpoint of a base model that says anything."""
    tokenizer = Tokenizer([bytes([i]) for i in range(256)])
    net = GPT(make_shape(1, tokenizer.vocab_size, head_dim=16, aspect_ratio=16, sequence_len=192))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.4, generator=generator)
    args = Namespace(device="cpu", dtype="float32", seed=0, run="dummy")
    with open_stage("base", args, "toy") as stage:
        checkpoint.save(stage, net, tokenizer, 1)


@pytest.fixture
def six(monkeypatch):
    """The six tasks of ChatCORE by their names, with questions made up: two of letters, four of words."""
    monkeypatch.setattr(execution, "require_isolation", lambda unsafe: f"isolated, unsafe={unsafe}")
    for number, name in enumerate(SIX):
        letters = {"letters": ["A", "B", "C", "D"]} if number < 2 else {}
        chance = 0.25 if letters else 0.0
        made = Task(name, questions=questions(letters), judge=is_right, chance=chance, max_tokens=9)
        monkeypatch.setitem(tasks.REGISTRY, name, made)


def is_right(question: dict, reply: str) -> bool:
    return reply == "A" if "letters" in question else len(reply) % 2 == 0


def questions(more: dict):
    return lambda split, most, seed, data: [
        {"conversation": {"messages": [{"role": "user", "content": f"{split} {i}"}]}, "answer": "A", **more}
        for i in range(10)][:most]


def run(*flags: str) -> None:
    chat_eval.main(chat_eval.parser().parse_args(["--device=cpu", *flags]))


def results() -> list[dict]:
    log = RunLog(Path(os.environ["NANOCHAT_BASE_DIR"]) / "models" / "toy" / "eval.jsonl").read()
    return [record for record in log if "task" in record]


def test_chatcore_is_the_mean_of_the_six_centred_accuracies_and_has_an_interval(six, capsys):
    run("--tasks=chatcore", "--max-questions=0")
    *each, core = results()
    assert [record["task"] for record in [*each, core]] == [*SIX, "ChatCORE"]
    assert all(record["questions"] == 10 and record["model_stage"] == "base" for record in each)
    assert all(record["verdicts"].count("1") == round(10 * record["accuracy"]) for record in each)
    by_hand = sum((record["accuracy"] - 0.25) / 0.75 for record in each[:2])
    by_hand += sum(record["accuracy"] for record in each[2:])
    assert core["accuracy"] == pytest.approx(by_hand / 6) and core["questions"] == 60
    assert all(r["interval"][0] <= r["accuracy"] <= r["interval"][1] for r in [*each, core])
    assert "isolated, unsafe=False" in capsys.readouterr().out


def test_a_mean_is_not_made_of_less_than_all_its_tasks_and_those_of_before_count_when_resumed(six):
    first, last = ",".join(SIX[:5]), SIX[5]
    run(f"--tasks={first}")
    run(f"--tasks={last}")
    assert [record["task"] for record in results()] == list(SIX)
    run("--tasks=chatcore", "--resume")
    assert [record["task"] for record in results()[6:]] == ["ChatCORE"]


def test_programs_that_nothing_isolates_are_left_out_where_something_may_be_missing(six, monkeypatch, capsys):
    monkeypatch.setattr(execution, "isolation", lambda: ("rlimits",))
    run("--tasks=humaneval,gsm8k", "--allow-missing")
    assert [record["task"] for record in results()] == ["gsm8k"]
    assert "without humaneval: its programs cannot be isolated here" in capsys.readouterr().out
    run("--tasks=humaneval", "--allow-missing", "--unsafe-execution")
    assert results()[-1]["task"] == "humaneval" and "unsafe=True" in capsys.readouterr().out


def test_results_are_kept_only_where_the_same_was_asked_in_the_same_way(six):
    flags = ["--tasks=gsm8k", "--resume"]
    run(*flags), run(*flags)
    assert len(results()) == 1
    for more in (["--max-questions=9"], ["--max-tokens=3"], ["--num-samples=2"], ["--temperature=0.5"],
                 ["--temperature=0.5", "--seed=1"]):
        before = len(results())
        run(*flags, *more), run(*flags, *more)
        assert len(results()) == before + 1


def test_several_samples_give_pass_at_1_to_k(six):
    run("--tasks=gsm8k", "--num-samples=3")
    record, = results()
    passed = [record["pass_at"][k][0] for k in ("1", "2", "3")]
    assert record["pass_at"]["1"] == [record["accuracy"], record["standard_error"]]
    assert passed == sorted(passed) and record["accuracy"] == passed[0] and record["temperature"] == 1
    assert 0 < passed[0] < passed[2]


def test_a_task_whose_data_is_missing_is_named_with_the_remedy_or_left_out(six, monkeypatch, capsys):
    def missing(*_):
        raise Missing("no such set")
    monkeypatch.setitem(tasks.REGISTRY, "mmlu", Task("mmlu", questions=missing, judge=lambda *_: True))
    with pytest.raises(SystemExit) as stop:
        run("--tasks=mmlu,gsm8k")
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "task mmlu: no such set" in error and "--allow-missing" in error
    assert results() == []
    run("--tasks=mmlu,gsm8k", "--allow-missing")
    assert [record["task"] for record in results()] == ["gsm8k"]
    assert "without mmlu: no such set" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        run("--tasks=mmlu", "--allow-missing")
    assert stop.value.code == 2 and "no questions of mmlu" in capsys.readouterr().err


@pytest.mark.parametrize("flags, says", [
    (["--num-samples=0"], "--num-samples is 0"), (["--batch-size=0"], "--batch-size is 0"),
    (["--max-tokens=0"], "--max-tokens is 0"), (["--temperature=-1"], "--temperature is -1")])
def test_settings_that_make_no_sense_die_in_one_line(flags, says, capsys):
    with pytest.raises(SystemExit) as stop:
        run(*flags)
    assert stop.value.code == 2 and says in capsys.readouterr().err


def test_two_ranks_find_what_one_does():
    """Records are equal but for their time."""
    flags = ["--tasks=almanac-facts,almanac-letters", "--max-questions=9", "--max-tokens=12",
             "--temperature=1", "--num-samples=2"]
    run(*flags)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    subprocess.run([*torchrun, "-m", "scripts.chat_eval", "--", "--device=cpu", *flags], cwd=ROOT, check=True,
                   env=os.environ | {"OMP_NUM_THREADS": "1"})
    one, two = ([{key: value for key, value in record.items() if key != "seconds"} for record in some]
                for some in (results()[:2], results()[2:]))
    assert one == two and len(two) == 2
