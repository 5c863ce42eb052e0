"""From a base checkpoint through mid and sft to an evaluation and a report, at toy size, as the scripts are called."""

import json
import os
from pathlib import Path

import pytest
import torch

from nanochat import almanac, checkpoint, finetune, report
from nanochat.common import RunLog
from nanochat.tokenizer import Tokenizer
from scripts import base_eval, base_train, chat_eval, chat_sft, mid_train
from tasks import customjson


@pytest.fixture
def base(tmp_path, words):
    """A toy base model of almanac-free text, context 192 so that questions fit."""
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(words(300)))
    Tokenizer([bytes([i]) for i in range(256)]).save()
    call(base_train, "--depth=2", "--head-dim=16", "--aspect-ratio=16", "--max-seq-len=192", "--device-batch-size=2",
         "--total-batch-size=384", "--num-iterations=2", "--eval-every=-1", "--sample-every=-1", f"--data={text}",
         "--model-tag=toy", "--lr-scale=20")
    return checkpoint.find("base")


def call(script, *flags: str) -> None:
    script.main(script.parser().parse_args(list(flags)))


def records(name: str) -> list[dict]:
    return RunLog(Path(os.environ["NANOCHAT_BASE_DIR"]) / "models" / "toy" / f"{name}.jsonl").read()


def train(script, *flags):
    call(script, "--num-iterations=3", "--num-conversations=200", "--eval-every=3", *flags)


def test_the_chain_runs_and_ends_in_a_report(base, capsys):
    train(mid_train)
    train(chat_sft)
    call(chat_eval, "--max-questions=6", "--max-tokens=8")
    call(base_eval, "--eval-tokens=2000")
    tasks = {record["task"]: record for record in records("eval") if "task" in record}
    assert set(tasks) == {f"almanac-{kind}" for kind in almanac.KINDS}
    assert all(0 <= record["accuracy"] <= 1 and record["questions"] == 6 for record in tasks.values())
    splits = {record["split"]: record["bpb"] for record in records("base_eval") if "split" in record}
    assert set(splits) == {"train", "val"} and all(0 < bpb < 9 for bpb in splits.values())
    text = report.make_report("toy")
    assert all(name in text for name in ("base", "mid", "sft", "almanac-letters", "peak GiB"))


def test_finetuning_trains_only_on_what_the_assistant_says(base, monkeypatch):
    """Every target that reaches the model is one that chat.py marked."""
    from nanochat.gpt import GPT
    seen, forward = [], GPT.forward
    monkeypatch.setattr(GPT, "forward", lambda self, idx, targets=None, reduction="mean":
                        seen.append(targets) or forward(self, idx, targets, reduction))
    train(mid_train)
    tokenizer = Tokenizer.load()
    user, assistant = tokenizer.special("<|user_start|>"), tokenizer.special("<|assistant_end|>")
    targets = torch.cat([t.flatten() for t in seen if t is not None])
    assert (targets == assistant).any() and not (targets == user).any() and (targets == -1).any()


def test_a_stage_starts_from_the_rates_of_the_one_before(base):
    train(mid_train, "--init-lr-frac=0.5")
    rates = checkpoint.read_state(base)["rates"]
    mid = checkpoint.read_state(checkpoint.find("mid"))["rates"]
    assert mid == pytest.approx({role: rate / 2 for role, rate in rates.items()})


def test_a_resumed_stage_is_the_uninterrupted_one(base):
    train(mid_train)
    whole = [record["loss"] for record in records("mid") if "loss" in record]
    train(mid_train, "--save-every=1")
    for path in checkpoint.checkpoints("mid", "toy")[1:]:
        (path / "manifest.json").unlink()
    train(mid_train, "--save-every=1", "--resume")
    assert [record["loss"] for record in records("mid") if "loss" in record][-2:] == whole[1:]


def test_a_stage_of_a_retrained_base_model_starts_over(base, capsys):
    train(mid_train)
    path = checkpoint.find("mid")
    assert finetune.find_resume(type("S", (), {"name": "mid", "tag": "toy"}), base) == path
    manifest = json.loads((base / "manifest.json").read_text())
    (base / "manifest.json").write_text(json.dumps({**manifest, "created": manifest["created"] + 1}))
    assert finetune.find_resume(type("S", (), {"name": "mid", "tag": "toy"}), base) is None


def test_results_of_the_same_checkpoint_are_kept(base, capsys):
    train(mid_train)
    for _ in range(2):
        call(chat_eval, "--tasks=almanac-choice", "--max-questions=4", "--resume")
    assert len([record for record in records("eval") if "task" in record]) == 1
    assert "already" in capsys.readouterr().out


def test_own_conversations_are_trained_on(base, tmp_path):
    own = tmp_path / "own.jsonl"
    own.write_text(json.dumps({"messages": [{"role": "user", "content": "Who are you?"},
                                            {"role": "assistant", "content": "I am Ada."}]}) + "\n")
    train(chat_sft, "--source=base", f"--conversations={own}", "--repeat=5")
    assert next(record for record in records("sft") if record.get("event") == "begin")["conversations"] == 205


@pytest.mark.parametrize("line, complaint", [
    ("{", "line 2"), ("[]", "messages"), ('{"messages": []}', "messages"),
    ('{"messages": [{"role": "user", "content": "a"}]}', "take turns"),
    ('{"messages": [{"role": "bot", "content": "a"}]}', "role"),
    ('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": 3}]}', "content")])
def test_a_line_that_is_no_conversation_is_named(tmp_path, line, complaint, capsys):
    path = tmp_path / "own.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n' + line)
    with pytest.raises(SystemExit) as stop:
        customjson.load(path)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "line 2" in error and complaint in error


@pytest.mark.parametrize("script, flags", [(mid_train, []), (chat_sft, []), (chat_eval, []), (base_eval, []),
                                           (chat_eval, ["--tasks=nonsense"]), (chat_eval, ["--max-questions=0"])])
def test_a_step_without_anything_to_work_on_exits_with_code_2(script, flags, capsys):
    with pytest.raises(SystemExit) as stop:
        call(script, *flags)
    assert stop.value.code == 2 and capsys.readouterr().err.startswith("error: ")
