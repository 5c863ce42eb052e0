"""The run log, the choice of a dtype, and that a missing optional logger never costs a run."""

import argparse
import ast
import builtins
import os
import signal
import subprocess
import sys
from pathlib import Path
import pytest
import torch
from nanochat import common
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
        stage.log("validation 0.9312", step=1, val_bpb=0.9312)
    records = RunLog(base_dir / "models" / "a" / "base.jsonl").read()
    assert [record.get("event") for record in records] == ["begin", None, "end"]
    begin, step, end = records
    assert begin["plan"] == {"depth": 2} and begin["argv"] and begin["torch"] == torch.__version__
    assert step["stage"] == "base" and step["step"] == 1 and step["val_bpb"] == 0.9312
    assert end["peak_memory"] > 2 ** 20 and "validation 0.9312\n" in capsys.readouterr().out


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
    before = signal.getsignal(signal.SIGINT)
    with open_stage("base", arguments(), "a") as stage:
        assert signal.getsignal(signal.SIGINT) is before              # Ctrl-C stops an evaluation as ever
        stage.catch_signals()
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_a_dtype_that_is_asked_for_is_taken():
    cpu = torch.device("cpu")
    assert compute_dtype(cpu, "bfloat16") == torch.bfloat16 and compute_dtype(cpu, "float32") == torch.float32
    assert compute_dtype(cpu) in (torch.bfloat16, torch.float32)


def test_a_flag_goes_before_the_environment_the_checkpoint_and_the_trial(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(common, "_bfloat16_gain", lambda: 4.0)
    monkeypatch.delenv("NANOCHAT_DTYPE", raising=False)
    assert compute_dtype(cpu) == torch.bfloat16
    assert compute_dtype(cpu, saved="float32") == torch.float32
    monkeypatch.setenv("NANOCHAT_DTYPE", "bfloat16")
    assert compute_dtype(cpu, saved="float32") == torch.bfloat16
    assert compute_dtype(cpu, "float32", saved="bfloat16") == torch.float32


def test_a_dtype_that_is_none_is_refused_by_name(monkeypatch, capsys):
    monkeypatch.setenv("NANOCHAT_DTYPE", "half")
    with pytest.raises(SystemExit) as stop:
        compute_dtype(torch.device("cpu"))
    assert stop.value.code == 2 and "NANOCHAT_DTYPE is 'half'" in capsys.readouterr().err


@pytest.mark.parametrize("given, chosen", [
    ({}, "expandable_segments:True -"), ({"PYTORCH_ALLOC_CONF": "x"}, "x -"),
    ({"PYTORCH_CUDA_ALLOC_CONF": "y"}, "- y")])
def test_gpu_memory_is_taken_in_growing_segments_unless_the_user_says_otherwise(given, chosen):
    names = "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"
    code = f"import os, nanochat; print(*(os.environ.get(name, '-') for name in {names}))"
    env = {name: value for name, value in os.environ.items() if name not in names} | given
    printed = subprocess.check_output([sys.executable, "-c", code], env=env, text=True)
    assert printed.strip() == chosen


@pytest.mark.parametrize("given, spin", [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7"),
                                         ({"OMP_WAIT_POLICY": "active"}, "-")])
def test_how_threads_wait_is_set_before_torch_loads_them_unless_the_user_has_said_so(given, spin):
    code = "import os, sys, nanochat; print(os.environ.get('GOMP_SPINCOUNT', '-'), 'torch' in sys.modules)"
    ours = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {key: value for key, value in os.environ.items() if key not in ours} | given
    printed = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert printed.split() == [spin, "False"]


ENTRY_POINTS = [*sorted(Path("scripts").glob("[!_]*.py")), *sorted(Path("dev").glob("*.py"))]


@pytest.mark.parametrize("script", ENTRY_POINTS, ids=str)
def test_every_entry_point_imports_nanochat_before_torch(script):
    """The first import of either, anywhere in the file: torch alone would load its threads too early."""
    names = []
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom):
            names.append((node.lineno, node.module))
        elif isinstance(node, ast.Import):
            names += [(node.lineno, alias.name) for alias in node.names]
    packages = [name.split(".")[0] for _, name in sorted(names)]
    order = [package for package in packages if package in ("torch", "nanochat")]
    assert not order or order[0] == "nanochat"


def test_a_device_is_found_by_the_longest_name_that_matches():
    assert peaks("NVIDIA H200")[0] == 989e12 and peaks("NVIDIA H100 PCIe")[0] == 756e12
    assert peaks("NVIDIA A10G")[0] == 70e12 and peaks("NVIDIA A100-SXM4-80GB")[0] == 312e12
    assert peaks("Some CPU") is None


def test_an_atomic_write_replaces_the_whole_file_and_leaves_nothing_else(tmp_path):
    atomic_write(tmp_path / "x" / "f.txt", "one")
    atomic_write(tmp_path / "x" / "f.txt", b"two")
    assert (tmp_path / "x" / "f.txt").read_text() == "two" and len(list((tmp_path / "x").iterdir())) == 1
