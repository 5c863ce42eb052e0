"""Training end to end at toy size: it learns, however it is split over ranks and whatever interrupts it."""

import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from nanochat import checkpoint, common, dataset, scaling, stage, train
from nanochat.common import RunLog
from nanochat.gpt import GPT
from nanochat.scaling import make_shape
from nanochat.tokenizer import Tokenizer
from nanochat.train import Step, accumulation_steps
from scripts import base_eval, base_train

ROOT = Path(__file__).parent.parent
TINY = ["--depth=2", "--head-dim=16", "--aspect-ratio=16", "--max-seq-len=32", "--device-batch-size=4",
        "--eval-every=-1", "--sample-every=-1", "--lr-scale=20", "--warmup-steps=2"]


@pytest.fixture
def corpus(tmp_path, words):
    """A folder of text and a saved byte-level tokenizer; returns the flag that names the folder."""
    folder = tmp_path / "text"
    folder.mkdir()
    pq.write_table(pa.table({"text": words(400)}), folder / "train_00000.parquet", row_group_size=100)
    pq.write_table(pa.table({"text": words(40, seed=1)}), folder / "val_00000.parquet")
    Tokenizer([bytes([i]) for i in range(256)]).save()
    return f"--data={folder}"


def run(*flags: str) -> list[dict]:
    """base_train in this process; its log records."""
    args = base_train.parser().parse_args([*TINY, *flags])
    base_train.main(args)
    return log(args.model_tag)


def log(tag: str, stage: str = "base") -> list[dict]:
    return RunLog(Path(os.environ["NANOCHAT_BASE_DIR"]) / "models" / tag / f"{stage}.jsonl").read()


def losses(records: list[dict]) -> list[float]:
    return [record["loss"] for record in records if "loss" in record]


def weights(tag: str) -> dict[str, torch.Tensor]:
    return checkpoint.load(checkpoint.find("base", tag), torch.device("cpu"), torch.float32)[0].state_dict()


def test_training_learns_and_bits_per_byte_falls(corpus):
    records = run(corpus, "--num-iterations=40", "--total-batch-size=256", "--eval-every=20",
                  "--eval-tokens=2000", "--sample-every=40", "--model-tag=a")
    first, *_, last = losses(records)
    speeds = [record["tokens_per_second"] for record in records if "loss" in record]
    assert max(speeds[1:]) < 20 * sorted(speeds)[len(speeds) // 2]    # also where two are told at once
    assert first == pytest.approx(math.log(265), rel=0.01) and last < 3.0
    bpb = [record["val_bpb"] for record in records if "val_bpb" in record]
    assert len(bpb) == 2 and bpb[1] < bpb[0] < 8
    assert all(0 < record["val_bpb_error"] < 0.2 for record in records if "val_bpb" in record)
    assert records[0]["event"] == "begin" and records[0]["plan"]["depth"] == 2 and "samples" in str(records)


def test_two_ranks_equal_one_rank_with_double_accumulation(corpus, base_dir):
    """torchrun under gloo, two ranks, against this process: the same losses, validation and weights. It takes
    flags as they are; with a `--` before them, as torchrun's own manual has it, in other tests."""
    flags = [corpus, "--num-iterations=6", "--total-batch-size=512", "--eval-every=6", "--eval-tokens=1000",
             "--device=cpu", "--dtype=float32"]         # bfloat16's rounding would hide other differences
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    expected = losses(run(*flags, "--model-tag=one"))
    subprocess.run([*torchrun, "-m", "scripts.base_train", *TINY, *flags, "--model-tag=two"], cwd=ROOT,
                   check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert losses(log("two")) == pytest.approx(expected, rel=1e-4)
    for key, near in (("val_bpb", 1e-3), ("val_bpb_error", 1e-2)):
        one, two = (next(record[key] for record in log(tag) if key in record) for tag in ("one", "two"))
        assert one == pytest.approx(two, rel=near)
    # Muon gives every direction of a gradient the same size, mere rounding errors too. So single weights may
    # differ, and how far all of them together have moved is compared.
    start = GPT(make_shape(2, 265, head_dim=16, aspect_ratio=16, sequence_len=32)).init_weights(42)
    before, one, two = (torch.cat([w.flatten() for w in state.values()])
                        for state in (start.state_dict(), weights("one"), weights("two")))
    assert (one - two).norm() < 0.02 * (one - before).norm()
    assert len(list(checkpoint.find("base", "two").glob("optimizer_*.pt"))) == 2


def test_the_split_into_micro_batches_keeps_the_first_loss(corpus):
    """Other rows, as there are fewer slots, but as many of them: the loss is that of the blank model."""
    flags = [corpus, "--num-iterations=1", "--total-batch-size=512"]
    more = losses(run(*flags, "--model-tag=a"))
    fewer = losses(run(*flags, "--device-batch-size=8", "--model-tag=b"))
    assert more == pytest.approx(fewer, rel=1e-3)


def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(corpus):
    flags = [corpus, "--num-iterations=8", "--total-batch-size=256"]
    whole = losses(run(*flags, "--model-tag=whole"))
    run(*flags, "--save-every=3", "--model-tag=cut")
    for path in checkpoint.checkpoints("base", "cut")[1:]:            # all that came after step 3 is lost
        for file in path.iterdir():
            file.rename(file.with_suffix(".gone"))
    assert losses(run(*flags, "--resume", "--model-tag=cut"))[-5:] == whole[-5:]
    assert all(map(torch.equal, weights("whole").values(), weights("cut").values()))


def resume_on_another_machine(corpus, monkeypatch, *flags: str) -> list[dict]:
    """Two steps where a trial finds bfloat16 faster, then two more where it finds it slower."""
    monkeypatch.delenv("NANOCHAT_DTYPE", raising=False)
    monkeypatch.setattr(common, "_bfloat16_gain", lambda: 4.0)
    common_flags = [corpus, "--num-iterations=4", "--total-batch-size=128", "--model-tag=a", "--device=cpu"]
    run(*common_flags, "--save-every=2")
    shutil.rmtree(checkpoint.newest("base", "a"))
    monkeypatch.setattr(common, "_bfloat16_gain", lambda: 0.5)
    return run(*common_flags, "--resume", *flags)


def test_a_resumed_run_keeps_its_dtype_whatever_a_trial_finds_faster_now(corpus, monkeypatch):
    records = resume_on_another_machine(corpus, monkeypatch)
    assert [record["dtype"] for record in records if "dtype" in record] == ["bfloat16", "bfloat16"]
    assert losses(records)[-2:] == losses(records)[2:4]               # the same numbers, bit for bit
    assert checkpoint.read_state(checkpoint.newest("base", "a"))["dtype"] == "bfloat16"


@pytest.mark.parametrize("by_flag", [True, False])
def test_resuming_in_another_dtype_is_refused(corpus, monkeypatch, by_flag, capsys):
    with pytest.raises(SystemExit) as stop:
        if by_flag:
            resume_on_another_machine(corpus, monkeypatch, "--dtype=float32")
        else:
            resume_on_another_machine(corpus, monkeypatch)
            monkeypatch.setenv("NANOCHAT_DTYPE", "float32")
            run(corpus, "--num-iterations=9", "--total-batch-size=128", "--resume", "--model-tag=a")
    assert stop.value.code == 2 and "was trained in bfloat16" in capsys.readouterr().err


def test_base_eval_reads_the_text_and_dtype_that_the_model_was_trained_with(corpus, monkeypatch):
    """What training chose is in the checkpoint; the defaults of the machine that evaluates do not count."""
    monkeypatch.setattr(common, "_bfloat16_gain", lambda: 4.0)
    monkeypatch.setattr(dataset, "default_source", lambda: "almanac")
    run("--num-iterations=1", "--total-batch-size=128", "--model-tag=a", "--almanac-mb=0.1",
        "--dtype=bfloat16", "--device=cpu")
    monkeypatch.setattr(common, "_bfloat16_gain", lambda: 0.5)
    monkeypatch.setattr(dataset, "default_source", lambda: "climbmix")
    monkeypatch.delenv("NANOCHAT_DTYPE", raising=False)
    flags = ["--model-tag=a", "--eval=bpb", "--eval-tokens=500", "--device=cpu"]
    base_eval.main(base_eval.parser().parse_args(flags))
    begun, trained = log("a", "base_eval")[0], log("a")[0]
    assert begun["dtype"] == "bfloat16" and begun["text"] == trained["text"]
    assert begun["text"] == {"source": "almanac", "path": None, "num_shards": 8, "almanac_mb": 0.1}
    assert begun["dataset"] == trained["dataset"] and begun["validation"] == trained["validation"]


def test_a_relative_folder_of_text_is_found_again_from_elsewhere(corpus, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    run("--data=text", "--num-iterations=1", "--total-batch-size=128", "--model-tag=a")
    monkeypatch.chdir("/")
    base_eval.main(base_eval.parser().parse_args(["--model-tag=a", "--eval=bpb", "--eval-tokens=500"]))
    assert checkpoint.read_state(checkpoint.newest("base", "a"))["text"]["path"] == str(tmp_path / "text")


def test_text_is_prepared_for_the_plan_before_the_ranks_meet_and_the_checkpoint_keeps_it(corpus, monkeypatch):
    here, done = dataset.prepare(path=corpus.removeprefix("--data=")), []
    open_world = stage.open_world
    monkeypatch.setattr(stage, "open_world", lambda device: done.append("ranks meet") or open_world(device))
    monkeypatch.setattr(dataset, "prepare", lambda **text: done.append(text) or here)
    monkeypatch.setattr(scaling, "SHARD_CHARS", 1000)
    flags = ["--source=climbmix", "--total-batch-size=128", "--model-tag=a"]
    run(*flags, "--num-iterations=3")                   # 3 x 128 tokens x 4.8 / 0.96 = 1920 characters
    run(*flags, "--num-iterations=6", "--resume")
    text = {"source": "climbmix", "path": None, "num_shards": 2, "almanac_mb": 24}
    assert done == [text, "ranks meet"] * 2
    for flag in ("--device=tpu", "--model-tag=../x"):   # and nobody waits for text that no run will read
        with pytest.raises(SystemExit):
            run(*flags, flag)
    assert len(done) == 4
    assert checkpoint.read_state(checkpoint.newest("base", "a"))["text"] == text


def test_a_finished_run_resumes_into_nothing_to_do(corpus, capsys):
    flags = [corpus, "--num-iterations=2", "--total-batch-size=128", "--model-tag=a"]
    run(*flags)
    run(*flags, "--resume")
    assert "already complete" in capsys.readouterr().out


@pytest.mark.parametrize("change, complaint", [("--depth=3", "shape"), ("--max-seq-len=16", "shape"),
                                               ("--device-batch-size=2", "saved position in the data")])
def test_resuming_with_another_shape_is_refused(corpus, change, complaint, capsys):
    flags = [corpus, "--num-iterations=2", "--total-batch-size=128", "--model-tag=a"]
    run(*flags)
    with pytest.raises(SystemExit) as stop:
        run(*flags, "--resume", change)
    assert stop.value.code == 2 and complaint in capsys.readouterr().err


def test_resuming_with_another_tokenizer_is_refused(corpus, capsys):
    flags = [corpus, "--num-iterations=2", "--total-batch-size=128", "--model-tag=a"]
    run(*flags)
    Tokenizer([bytes([i]) for i in range(256)] + [b"th"]).save()
    with pytest.raises(SystemExit) as stop:
        run(*flags, "--resume")
    assert stop.value.code == 2 and "another tokenizer" in capsys.readouterr().err


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_leaves_cleanly(corpus, signum, base_dir):
    command = [sys.executable, "-m", "scripts.base_train", *TINY, corpus, "--num-iterations=100000",
               "--total-batch-size=128", "--model-tag=s"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if re.match(r"base +\d+/100000", line):
            process.send_signal(signum)
            break
    rest = process.stdout.read()
    assert process.wait() == 128 + signum, rest         # so that a script of several stages stops
    saved, steps = checkpoint.find("base", "s"), [record["step"] for record in log("s") if "step" in record]
    assert f"saved {saved}" in rest and checkpoint.read_state(saved)["step"] == steps[-1]


def test_a_step_that_is_not_finite_leaves_the_weights_untouched(corpus, monkeypatch, capsys):
    """The second step's loss is poisoned: the third finds the weights that the second found, and goes on."""
    seen, forward = [], GPT.forward

    def poisoned(self, idx, targets=None, reduction="mean"):
        seen.append(self.embedding.detach().clone())
        return forward(self, idx, targets, reduction) * (float("nan") if len(seen) == 2 else 1.0)

    monkeypatch.setattr(GPT, "forward", poisoned)
    run(corpus, "--num-iterations=4", "--total-batch-size=128", "--model-tag=nan")
    _, second, third, fourth = seen
    assert torch.equal(second, third) and not torch.equal(third, fourth)
    assert all(torch.isfinite(w).all() for w in weights("nan").values())
    assert "step 2: loss is nan; step skipped" in capsys.readouterr().out


def test_a_diverged_run_stops(corpus, monkeypatch):
    forward = GPT.forward
    monkeypatch.setattr(GPT, "forward", lambda *args, **options: forward(*args, **options) * float("nan"))
    with pytest.raises(SystemExit) as stop:
        run(corpus, "--num-iterations=100", "--total-batch-size=128", "--model-tag=nan")
    assert stop.value.code == 2


def test_steps_are_optimizer_steps_and_due_at_the_right_ones():
    steps = [Step(i, i == 10) for i in range(1, 11)]
    assert [step.step for step in steps if step.due(4)] == [4, 8, 10]
    assert not any(step.due(0) or step.due(-1) for step in steps)
    assert [step.step for step in steps if step.due_save(-1)] == [10]
    interrupted = Step(3, False, interrupted=True)
    assert interrupted.due_save(-1) and not interrupted.due(3)


def test_a_batch_that_does_not_divide_is_refused_with_one_that_does(capsys):
    assert accumulation_steps(524288, 32, 2048, 8) == 1
    with pytest.raises(SystemExit) as stop:
        accumulation_steps(524288, 48, 2048, 1)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "524,288" in error and "--device-batch-size=16 divides it" in error


@pytest.mark.parametrize("flag, complaint", [
    ("--data=/nowhere", "/nowhere"), ("--device=tpu", "tpu"), ("--head-dim=5", "--head-dim is 5"),
    ("--model-tag=../x", "--model-tag"), ("--total-batch-size=100", "100 tokens"), ("--source=moon", "moon")])
def test_bad_input_gets_one_clear_line_and_exit_code_2(corpus, flag, complaint, capsys):
    with pytest.raises(SystemExit) as stop:
        run(corpus, "--num-iterations=1", "--model-tag=a", flag)      # the last --data counts
    assert stop.value.code == 2 and complaint in capsys.readouterr().err


def test_no_tokenizer_is_said_before_anything_starts(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run("--num-iterations=1", "--model-tag=a")
    assert stop.value.code == 2 and "tok_train" in capsys.readouterr().err


def test_the_plan_is_printed_without_tokenizer_or_data(capsys):
    base_train.main(base_train.parser().parse_args(["--depth=20", "--plan"]))
    out = capsys.readouterr().out
    assert re.search(r"scaling_params +435,159,040", out) and re.search(r"num_iterations +4,980", out)
    assert re.search(r"num_shards +105", out)


def test_core_is_measured_while_training_and_by_two_ranks_as_by_one(corpus, monkeypatch):
    """The scripts as they are typed, on the almanac's bundle; equal records but for their time."""
    core = ["--core-bundle=almanac", "--device=cpu", "--dtype=float32"]
    records = run(corpus, "--num-iterations=4", "--total-batch-size=128", "--core-metric-every=2",
                  "--core-metric-max-per-task=2", "--model-tag=a", *core)
    found = [(record["step"], record["questions"]) for record in records if "core" in record]
    assert found == [(2, 12), (4, 12)]

    flags = ["--model-tag=a", "--max-per-task=9", "--eval-tokens=900", "--eval=bpb,core", *core]
    base_eval.main(base_eval.parser().parse_args(flags))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    subprocess.run([*torchrun, "scripts.base_eval", "--", *flags], cwd=ROOT, check=True, capture_output=True,
                   env=os.environ | {"OMP_NUM_THREADS": "1"})
    one, two = split_at(log("a", "base_eval"), "begin")
    for alone, shared in zip(one, two, strict=True):
        for key in alone.keys() - {"seconds", "buckets", "peak_memory", "argv", "world_size", "time"}:
            same = pytest.approx(alone[key], rel=1e-6) if isinstance(alone[key], float) else alone[key]
            assert shared[key] == same, key
    assert [record["questions"] for record in two if "core" in record] == [54]

    # what the log has is not evaluated again; what it lacks is, but CORE not where no bundle can be had
    before = len(log("a", "base_eval"))
    base_eval.main(base_eval.parser().parse_args([*flags, "--resume"]))
    assert [record.get("event") for record in log("a", "base_eval")[before:]] == ["begin", "end"]

    def no_network(*_, **__):
        common.die("no network")
    monkeypatch.setattr("nanochat.hub.download", no_network)
    offline = ["--model-tag=a", "--eval-tokens=900", "--device=cpu", "--dtype=float32"]
    base_eval.main(base_eval.parser().parse_args([*offline, "--resume"]))
    assert [key for record in log("a", "base_eval")[before + 3:] for key in record if key == "samples"]
    with pytest.raises(SystemExit):
        base_eval.main(base_eval.parser().parse_args([*offline, "--eval=core"]))


def split_at(records: list[dict], event: str) -> list[list[dict]]:
    """The records of each run of a log."""
    starts = [i for i, record in enumerate(records) if record.get("event") == event] + [len(records)]
    return [records[a:b] for a, b in zip(starts, starts[1:])]


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_training_is_two_graphs_and_learns_what_the_plain_one_does(corpus, backend, monkeypatch):
    """One graph for training, one for evaluation, none of them broken (fullgraph) or made twice: the losses,
    so the gradients too, are those of the eager run."""
    flags = [corpus, "--num-iterations=5", "--total-batch-size=256", "--eval-every=2", "--eval-tokens=900",
             "--dtype=float32", "--device=cpu"]
    plain, counter = run(*flags, "--model-tag=plain"), CompileCounterWithBackend(backend)
    compile_it = torch.compile
    monkeypatch.setattr(train.torch, "compile", lambda f, **options: compile_it(
        f, **options | ({"backend": counter} if isinstance(f, GPT) else {"backend": "eager"})))
    compiled = run(*flags, "--compile", "--model-tag=compiled")
    assert counter.frame_count == 2
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-4)
    bpb = [[record["val_bpb"] for record in records if "val_bpb" in record] for records in (plain, compiled)]
    assert len(bpb[0]) == 3 and bpb[1] == pytest.approx(bpb[0], rel=1e-4)


def test_float8_trains_nearly_as_the_plain_run_does_and_says_what_it_computes(corpus, capsys):
    flags = [corpus, "--num-iterations=20", "--total-batch-size=256", "--dtype=bfloat16", "--device=cpu"]
    plain, narrow = run(*flags, "--model-tag=a"), run(*flags, "--fp8", "--model-tag=b")
    assert "linear layers: 12 in fp8" in capsys.readouterr().out and "12 in fp8" in narrow[0]["kernels"][0]
    assert losses(narrow) != losses(plain) and losses(narrow)[-1] < 0.8 * losses(narrow)[0]
    assert losses(narrow) == pytest.approx(losses(plain), rel=0.03)


def test_where_memory_ends_one_line_names_the_flag_to_lower(corpus, monkeypatch, capsys):
    def exhausted(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nAnd more of the kind.")
    monkeypatch.setattr(GPT, "forward", exhausted)
    with pytest.raises(SystemExit) as stop:
        run(corpus, "--num-iterations=2", "--total-batch-size=256", "--model-tag=a")
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "ran out of memory: CUDA out of memory. Tried to allocate 2.00" in error
    assert "lower --device-batch-size" in error and "And more" not in error
    assert log("a")[-1]["event"] == "end"


FAILING = """
import argparse
import torch
from nanochat.stage import add_stage_arguments, open_stage
parser = argparse.ArgumentParser()
add_stage_arguments(parser)
with open_stage("base", parser.parse_args(["--device=cpu"]), "failing") as stage:
    if stage.world.rank == 1:
        raise {error}
    stage.world.sum(torch.ones(1))                      # for which the other one never comes
"""


@pytest.mark.parametrize("error, shown", [("ValueError('no such luck')", "Traceback"),
                                          ("torch.OutOfMemoryError('too much')", "hint: lower")])
def test_a_rank_that_fails_says_why_and_leaves_though_others_wait_for_it(tmp_path, error, shown, base_dir):
    script = tmp_path / "failing.py"
    script.write_text(FAILING.format(error=error))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*torchrun, script], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and shown in done.stderr and error.split("'")[1] in done.stderr
