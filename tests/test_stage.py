"""The run log, the choice of a dtype, and that a missing optional logger never costs a run."""

import argparse
import builtins
import sys

import pytest
import torch

from nanochat.common import RunLog, atomic_write, compute_dtype
from nanochat.hardware import peaks
from nanochat.stage import add_stage_arguments, open_stage


def arguments(*flags):
    parser = argparse.ArgumentParser()
    add_stage_arguments(parser)
    return parser.parse_args(["--device=cpu", "--dtype=float32", *flags])


def test_what_is_logged_is_what_is_read(base_dir, capsys):
    with open_stage("base", arguments(), "a") as stage:
        stage.begin(plan={"depth": 2})
        stage.log(step=1, val_bpb=0.9312)
    records = RunLog(base_dir / "models" / "a" / "base.jsonl").read()
    assert [record.get("event") for record in records] == ["begin", None, "end"]
    assert records[0]["plan"] == {"depth": 2} and records[0]["argv"] and records[0]["torch"] == torch.__version__
    assert records[1]["stage"] == "base" and records[1]["step"] == 1 and records[1]["val_bpb"] == 0.9312
    assert records[2]["peak_memory"] > 2 ** 20 and "val_bpb 0.9312" in capsys.readouterr().out


def test_a_line_cut_off_by_a_crash_is_skipped(tmp_path):
    log = RunLog(tmp_path / "log.jsonl")
    log.write(a=1)
    with open(log.path, "a") as file:
        file.write('{"b": ')
    assert log.read() == [{"a": 1}]


def test_a_run_goes_on_without_wandb(monkeypatch, capsys):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "wandb":
            raise ImportError("No module named 'wandb'")
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(builtins, "__import__", missing)
    with open_stage("base", arguments("--run=mine"), "a") as stage:
        stage.begin()
        stage.log(step=1)
    assert "wandb is off" in capsys.readouterr().err


def test_signal_handlers_are_those_from_before_after_a_stage():
    import signal
    before = signal.getsignal(signal.SIGINT)
    with open_stage("base", arguments(), "a") as stage:
        assert signal.getsignal(signal.SIGINT) is before              # an evaluation is stopped by Ctrl-C as ever
        stage.catch_signals()
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_a_dtype_that_is_asked_for_is_taken():
    cpu = torch.device("cpu")
    assert compute_dtype(cpu, "bfloat16") == torch.bfloat16 and compute_dtype(cpu, "float32") == torch.float32
    assert compute_dtype(cpu) in (torch.bfloat16, torch.float32)


def test_a_device_is_found_by_the_longest_name_that_matches():
    assert peaks("NVIDIA H200")[0] == 989e12 and peaks("NVIDIA H100 PCIe")[0] == 756e12
    assert peaks("NVIDIA A10G")[0] == 70e12 and peaks("NVIDIA A100-SXM4-80GB")[0] == 312e12
    assert peaks("Some CPU") is None


def test_an_atomic_write_replaces_the_whole_file_and_leaves_nothing_else(tmp_path):
    atomic_write(tmp_path / "x" / "f.txt", "one")
    atomic_write(tmp_path / "x" / "f.txt", b"two")
    assert (tmp_path / "x" / "f.txt").read_text() == "two" and len(list((tmp_path / "x").iterdir())) == 1
