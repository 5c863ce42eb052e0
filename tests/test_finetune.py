"""From a base checkpoint through mid and sft to an evaluation and a report, at toy size, by the scripts."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
import pytest
import torch
import tasks
from nanochat import almanac, checkpoint, finetune, report
from nanochat.chat import render_conversation
from nanochat.common import RunLog
from nanochat.dataloader import ChatLoader
from nanochat.dist import World
from nanochat.evals import evaluate_bpb
from nanochat.tokenizer import Tokenizer
from scripts import base_eval, base_train, chat_eval, chat_sft, mid_train
from tasks.common import Task

ROOT = Path(__file__).parent.parent


@pytest.fixture
def base(tmp_path, words):
    """A toy base model of almanac-free text, context 192 so that questions fit."""
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(words(300)))
    Tokenizer([bytes([i]) for i in range(256)]).save()
    call(base_train, "--depth=2", "--head-dim=16", "--aspect-ratio=16", "--max-seq-len=192",
         "--device-batch-size=2", "--total-batch-size=384", "--num-iterations=2", "--eval-every=-1",
         "--sample-every=-1", f"--data={text}", "--model-tag=toy", "--lr-scale=20")
    return checkpoint.find("base")


def call(script, *flags: str) -> None:
    script.main(script.parser().parse_args(list(flags)))


def records(name: str, tag: str = "toy") -> list[dict]:
    return RunLog(Path(os.environ["NANOCHAT_BASE_DIR"]) / "models" / tag / f"{name}.jsonl").read()


def logged(name: str, tag: str, key: str) -> list:
    return [record[key] for record in records(name, tag) if key in record]


def say(answer: str) -> dict:
    return {"messages": [{"role": "user", "content": "And you?"}, {"role": "assistant", "content": answer}]}


def train(script, *flags):
    call(script, "--num-iterations=3", "--num-conversations=200", "--eval-every=3", *flags)


def test_the_chain_runs_and_ends_in_a_report(base, capsys):
    train(mid_train)
    train(chat_sft)
    call(chat_eval, "--max-questions=6", "--max-tokens=8")
    call(base_eval, "--eval=bpb,sample", "--eval-tokens=2000")
    judged = {record["task"]: record for record in records("eval") if "task" in record}
    assert set(judged) == {*(f"almanac-{kind}" for kind in almanac.KINDS), "almanac, mean"}
    assert judged.pop("almanac, mean")["questions"] == 30
    assert all(0 <= record["accuracy"] <= 1 and record["questions"] == 6 for record in judged.values())
    of = {(record["stage"], record["model_stage"], record["step"]) for record in judged.values()}
    assert of == {("eval", "sft", 3)}
    splits = {record["split"]: record["bpb"] for record in records("base_eval") if "split" in record}
    assert set(splits) == {"train", "val"} and all(0 < bpb < 9 for bpb in splits.values())
    text = report.markdown(report.blocks_of([report.Run("toy")]))
    assert all(name in text for name in ("base", "mid", "sft", "almanac-letters", "peak GiB"))
    header = next(line for line in text.splitlines() if line.startswith("| task"))
    assert [cell.strip() for cell in header.strip("|").split("|")] == ["task", "sft", "guessing", "questions"]


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


def test_validation_is_bits_per_byte_of_what_the_assistant_says(base):
    """Every target of the first rows whose token stands for bytes, one at a time; special tokens do not."""
    model, tokenizer, _ = checkpoint.load(base, torch.device("cpu"), torch.float32)
    own = almanac.conversations(7, "val")
    conversations = [next(own) for _ in range(100)]
    nats = count = 0
    with ChatLoader(tokenizer, conversations, 16, 64) as loader:
        for inputs, targets in (next(loader) for _ in range(4)):
            likely = model(inputs).log_softmax(-1)
            for b, t in (targets >= 0).nonzero().tolist():
                if targets[b, t] < 256:
                    nats, count = nats - likely[b, t, targets[b, t]].item(), count + 1
    result = evaluate_bpb(model, finetune.held_out_rows(tokenizer, conversations, 16, 64, World()))
    assert (result.documents, result.bytes) == (64, count)
    assert result.value == pytest.approx(nats / math.log(2) / count, rel=1e-5)


def test_learning_rates_are_those_of_pretraining_times_the_fraction_and_the_root_of_the_batch(base):
    """Those of pretraining, not of the stage before; a batch four times as large takes twice the rate."""
    rates, batch = (checkpoint.read_state(base)[name] for name in ("rates", "batch_tokens"))
    train(mid_train, "--init-lr-frac=0.5")
    train(chat_sft, "--init-lr-frac=0.25", f"--total-batch-size={4 * batch}")
    for name in ("mid", "sft"):
        used = next(record for record in records(name) if record.get("event") == "begin")["rates"]
        assert used == pytest.approx({role: rate / 2 for role, rate in rates.items()}), name


def test_a_stage_goes_once_through_its_conversations_unless_it_is_told_how_far(base):
    """As many steps as their tokens fill, of 384 each."""
    own = almanac.conversations(42, "train")
    lengths = [len(render_conversation(Tokenizer.load(), next(own), 193)[0]) for _ in range(300)]
    call(chat_sft, "-i=base", "--num-conversations=300", "--eval-every=-1", "--seed=41", "--out-tag=epoch")
    steps = checkpoint.read_state(checkpoint.find("sft", "epoch"))["step"]
    assert steps == pytest.approx(sum(lengths) / 384, abs=1)


@pytest.mark.parametrize("script, packed", [(mid_train, True), (chat_sft, False)])
def test_midtraining_packs_rows_full_and_finetuning_keeps_conversations_whole(base, script, packed,
                                                                             monkeypatch):
    made = []
    monkeypatch.setattr(finetune, "ChatLoader", lambda *args, **options: made.append((args, options))
                        or ChatLoader(*args, **options))
    call(script, "--num-iterations=1", "--num-conversations=200", "--eval-every=1",
         *(["-i=base"] if script is chat_sft else []))
    assert made[-1][1] == {"crop": packed}


def test_a_resumed_stage_is_the_uninterrupted_one(base):
    train(mid_train)
    whole = [record["loss"] for record in records("mid") if "loss" in record]
    train(mid_train, "--save-every=1")
    for path in checkpoint.checkpoints("mid", "toy")[1:]:
        (path / "manifest.json").unlink()
    train(mid_train, "--save-every=1", "--resume")
    assert [record["loss"] for record in records("mid") if "loss" in record][-2:] == whole[1:]


def test_two_ranks_finetune_like_one_and_only_two_can_resume_that(base, capsys):
    flags = ["--num-iterations=3", "--num-conversations=100", "--total-batch-size=768", "--eval-every=3",
             "--save-every=2", "--dtype=float32", "--device=cpu"]
    manifest = json.loads((base / "manifest.json").read_text())         # else one rank would go on with it
    del manifest["files"]["optimizer_0.pt"]
    (base / "manifest.json").write_text(json.dumps(manifest))
    (base / "optimizer_0.pt").unlink()
    call(mid_train, *flags, "--out-tag=one")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    subprocess.run([*torchrun, "scripts.mid_train", "--", *flags, "--out-tag=two"], cwd=ROOT, check=True,
                   env={**os.environ, "OMP_NUM_THREADS": "1"})
    for key in ("loss", "val_bpb"):
        one, two = (logged("mid", tag, key) for tag in ("one", "two"))
        assert one and one == pytest.approx(two, rel=1e-3)
    shutil.rmtree(checkpoint.find("mid", "two", step=3))
    with pytest.raises(SystemExit) as stop:
        call(mid_train, *flags, "--out-tag=two", "--resume")
    assert stop.value.code == 2 and "no whole optimizer state for 1 rank" in capsys.readouterr().err


def test_a_stage_of_a_retrained_base_model_starts_over(base, capsys):
    train(mid_train)
    train(mid_train, "--resume")
    assert "already complete: nothing to do" in capsys.readouterr().out
    manifest = json.loads((base / "manifest.json").read_text())
    (base / "manifest.json").write_text(json.dumps({**manifest, "created": manifest["created"] + 1}))
    train(mid_train, "--resume")
    assert "nothing to do" not in capsys.readouterr().out
    assert [record["step"] for record in records("mid") if "loss" in record] == [1, 2, 3, 1, 2, 3]


CHANGES = ["--num-conversations=201", "--seed=43", "--mixture=other", "--repeat=2", "own file"]


@pytest.mark.parametrize("change", CHANGES)
def test_a_stage_is_not_resumed_on_other_conversations(base, tmp_path, change, monkeypatch, capsys):
    monkeypatch.setitem(tasks.MIXTURES, "other", "almanac=10 + greetings=20")
    greetings = Task("greetings", lambda split, most, seed, data: [say("Hi")] * most)
    monkeypatch.setitem(tasks.REGISTRY, "greetings", greetings)
    own = tmp_path / "own.jsonl"
    own.write_text(json.dumps(say("I am Ada.")) + "\n")
    flags = [f"--conversations={own}", "--save-every=1"]
    train(mid_train, *flags)
    if change == "own file":
        own.write_text(json.dumps(say("I am Bob.")) + "\n")
    else:
        flags.append(change)
    with pytest.raises(SystemExit) as stop:
        train(mid_train, "--resume", *flags)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("error: ") and error.count("\n") == 2
    assert "of own.jsonl-" in error and "without --resume" in error


def test_a_model_goes_on_under_its_own_name_or_another(base, capsys):
    train(mid_train, "--model-tag=toy", "--out-tag=other", "--step=2")
    assert checkpoint.checkpoints("mid", "toy") == [] and len(checkpoint.checkpoints("mid", "other")) == 1
    assert checkpoint.read_state(checkpoint.find("mid"))["tag"] == "other"
    train(chat_sft)
    assert len(checkpoint.checkpoints("sft", "other")) == 1
    train(chat_sft, "--stage=base", "--model-tag=toy")
    assert len(checkpoint.checkpoints("sft", "toy")) == 1
    call(chat_eval, "--tasks=almanac-choice", "--max-questions=2", "--model-tag=other")
    assert [record["model_stage"] for record in records("eval", "other") if "task" in record] == ["sft"]


def test_dtype_and_text_of_the_base_model_are_handed_on(base, capsys, monkeypatch):
    monkeypatch.delenv("NANOCHAT_DTYPE", raising=False)               # it would go before the checkpoint
    trained = checkpoint.read_state(base)
    dtype, other = sorted(("float32", "bfloat16"), key=lambda name: name != trained["dtype"])
    train(mid_train)
    assert checkpoint.read_state(checkpoint.find("mid"))["dtype"] == dtype
    train(mid_train, f"--dtype={other}", "--out-tag=toy2")
    train(chat_sft, "--model-tag=toy2")
    saved = checkpoint.read_state(checkpoint.find("sft"))
    assert saved["dtype"] == other and saved["text"] == trained["text"]
    with pytest.raises(SystemExit) as stop:
        train(chat_sft, "--model-tag=toy2", "--resume", f"--dtype={dtype}")
    assert stop.value.code == 2 and f"was trained in {other}" in capsys.readouterr().err
    call(base_eval, "--stage=sft", "--eval=bpb", "--eval-tokens=500")
    assert logged("base_eval", "toy2", "split") == ["train", "val"]


def test_results_of_the_same_checkpoint_are_kept(base, capsys):
    train(mid_train)
    for _ in range(2):
        call(chat_eval, "--tasks=almanac-choice", "--max-questions=4", "--resume")
    assert len([record for record in records("eval") if "task" in record]) == 1
    assert "already" in capsys.readouterr().out
    call(chat_eval, "--tasks=almanac-choice", "--max-questions=5", "--resume")
    train(mid_train)
    call(chat_eval, "--tasks=almanac-choice", "--max-questions=4", "--resume")
    assert [record["questions"] for record in records("eval") if "task" in record] == [4, 5, 4]


def test_own_conversations_are_trained_on(base, tmp_path):
    own = tmp_path / "own.jsonl"
    own.write_text(json.dumps(say("I am Ada.")) + "\n")
    train(chat_sft, "--stage=base", f"--conversations={own}", "--repeat=5")
    train(chat_sft, "--stage=base", f"--conversations={own}", "--repeat=9", "--num-conversations=0")
    begins = [record for record in records("sft") if record.get("event") == "begin"]
    assert [begin["conversations"] for begin in begins] == [205, 9]
    assert "5 of own.jsonl-" in begins[0]["data"] and "almanac" not in begins[1]["data"]


@pytest.mark.parametrize("flags, says", [
    (["--mixture=nonsense"], "--mixture takes: almanac-mid, almanac-sft"),
    (["--num-conversations=0"], "nothing to learn from"),
    (["--conversations=/nowhere/own.jsonl"], "is not a file"), (["--repeat=0"], "--repeat is 0")])
def test_nothing_to_learn_from_is_said_before_anything_is_loaded(base, flags, says, tmp_path, capsys):
    own = tmp_path / "own.jsonl"
    own.write_text(json.dumps(say("I am Ada.")))
    if "--repeat=0" in flags:
        flags = [*flags, f"--conversations={own}"]
    for script in (mid_train, chat_sft):
        with pytest.raises(SystemExit) as stop:
            call(script, *(["--stage=base"] if script is chat_sft else []), *flags)
        assert stop.value.code == 2 and says in capsys.readouterr().err
    assert records("mid") == records("sft") == []


@pytest.mark.parametrize("script, flags", [
    (mid_train, []), (chat_sft, []), (chat_eval, []), (base_eval, []), (chat_eval, ["--tasks=nonsense"]),
    (chat_eval, ["--tasks=almanac"]), (chat_eval, ["--max-questions=0"])])
def test_a_step_without_anything_to_work_on_exits_with_code_2(script, flags, capsys):
    with pytest.raises(SystemExit) as stop:
        call(script, *flags)
    assert stop.value.code == 2 and capsys.readouterr().err.startswith("error: ")
