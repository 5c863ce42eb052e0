"""The run scripts and the guides: commands that people copy exist, with their flags; chains run as toys."""

import csv
import importlib
import json
import math
import os
import re
import shlex
import subprocess
import xml.etree.ElementTree as xml
from pathlib import Path
from subprocess import CompletedProcess
import pytest
from forks import serving
from torch.distributed.run import get_args_parser
from nanochat.common import RunLog

ROOT = Path(__file__).parent.parent
GUIDES = [ROOT / "README.md", ROOT / "dev" / "LEADERBOARD.md"]
SCRIPTS = sorted(path.stem for path in (ROOT / "runs").glob("[!_]*.sh"))
CHAINS = ("speedrun", "miniseries", "scaling_laws")
TRAINING = ("scripts.base_train", "scripts.mid_train", "scripts.chat_sft", "scripts.chat_rl")
MODULE = r"((?:scripts|nanochat|dev)\.\w+)"
COMMAND = re.compile(r"^(?!\s*(?:#|echo))[^\n]*?(?:python -m|torchrun [^\n]*? -m) "
                     + MODULE + r"""((?:"[^"\n]*"|'[^'\n]*'|[^\n;|"'])*)""", re.M)

# Functions come before programs of their name. With these set-up finds all done, and tries nothing ...
SET_UP = 'uv() { :; }; cargo() { echo "cargo 9.9.9"; }; export -f uv cargo; '
# ... and with these a script runs none of its commands: their words are noted, but for a failing one's.
DRY = SET_UP + r"""
note() {
  if [ -n "${FAILING:-}" ]; then case "$*" in *$FAILING*) return 1 ;; esac; fi
  (IFS=$(printf '\037'); printf '%s\n' "$*" >> "$NOTES")
}
python() { case "$*" in *device_count*) echo "$GPUS_HERE" ;; *) note "$@" ;; esac; }
torchrun() { note "$@"; }
ruff() { :; }
export -f note python torchrun ruff; """


def dry(script: str, folder: Path, *arguments: str, **environment: str) -> tuple[list, CompletedProcess]:
    """(module, arguments) of every command that a script would run, and how the script ended."""
    (notes := folder / "notes").write_text("")
    given = {"GPUS_HERE": "0", "DEPTHS": "1 2", "SMOKE": "", "NOTES": str(notes), **environment}
    ended = subprocess.run(["bash", "-c", f'{DRY} exec bash "$0" "$@"', f"runs/{script}.sh", *arguments],
                           cwd=ROOT, capture_output=True, text=True, env=os.environ | given)
    found = []
    for line in notes.read_text().splitlines():
        _, _, words = line.partition("-m\037")
        module, *words = words.split("\037")
        found += [(module, [word for word in words if word != "--"])] if "." in module else []
    return found, ended


def understand(module: str, words: list[str]):
    return importlib.import_module(module).parser().parse_args(words)


def commands(path: Path) -> list[tuple[str, list[str]]]:
    """(module, arguments) of every `python -m` and `torchrun -m` in the bash blocks of a guide."""
    text = "\n".join(re.findall(r"```bash\n(.*?)```", path.read_text().replace("\\\n", " "), re.S))
    return [(module, [word for word in shlex.split(rest, comments=True) if word != "--"])
            for module, rest in COMMAND.findall(text)]


GUIDED = [(path.name, module, words) for path in GUIDES for module, words in commands(path)]


@pytest.mark.parametrize("name, module, words", GUIDED,
                         ids=[f"{name}-{module}-{i}" for i, (name, module, _) in enumerate(GUIDED)])
def test_a_command_that_people_copy_is_understood(name, module, words):
    understand(module, words)


def test_the_commands_of_the_guides_are_found():
    modules = {module for _, module, _ in GUIDED}
    assert modules >= {"scripts.base_train", "scripts.chat_cli", "scripts.chat_web", "scripts.tok_train"}
    assert len(GUIDED) > 15


@pytest.mark.parametrize("gpus", ["0", "8"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_the_commands_of_a_run_script_are_understood(script, gpus, tmp_path):
    found, ended = dry(script, tmp_path, GPUS_HERE=gpus, SMOKE="" if gpus == "8" else "1", WANDB_RUN="name",
                       DOLLARS_PER_HOUR="24")
    assert ended.returncode == 0, ended.stderr
    assert len(found) >= {"runcpu": 10, "speedrun": 13, "miniseries": 7, "scaling_laws": 11}.get(script, 0)
    for module, words in found:
        understand(module, words)
        assert "--resume" in words or module not in TRAINING


@pytest.mark.parametrize("script", CHAINS)
def test_a_toy_goes_through_the_same_lines_with_flags_behind_them(script, tmp_path):
    sizes = {"DEPTH": "2", "DEPTHS": "1 2", "FLOPS": "2e9 6e9"}
    real, _ = dry(script, tmp_path, GPUS_HERE="8", **sizes)
    toy, _ = dry(script, tmp_path, GPUS_HERE="0", **sizes, SMOKE="1")
    assert len(real) == len(toy) >= 7
    for module, words in real:
        words = [word.replace(str(tmp_path / "base"), str(tmp_path / "base" / "smoke")) for word in words]
        assert any(words == theirs[:len(words)] for name, theirs in toy if name == module), (module, words)


def test_speedrun_fails_clearly_where_the_shards_that_come_meanwhile_do_not(tmp_path):
    found, ended = dry("speedrun", tmp_path, SMOKE="1", FAILING="dataset*--depth")
    assert ended.returncode == 2 and "not all shards" in ended.stderr
    assert found[-1][0] == "scripts.tok_eval"


@pytest.mark.parametrize("script", SCRIPTS)
def test_run_scripts_are_valid_bash(script):
    subprocess.run(["bash", "-n", f"runs/{script}.sh"], cwd=ROOT, check=True)


@pytest.mark.parametrize("script, arguments, complaint", [
    *((name, [], "no NVIDIA GPU") for name in CHAINS), ("runcpu", ["--frsh"], "--frsh")])
def test_run_scripts_refuse_what_they_cannot_do_with_exit_code_2(script, arguments, complaint, tmp_path):
    found, ended = dry(script, tmp_path, *arguments)
    assert ended.returncode == 2 and complaint in ended.stderr and not found
    assert len(ended.stderr.splitlines()) == 2


def test_torchrun_takes_a_stage_and_its_flags_as_they_are_typed():
    given = get_args_parser().parse_args(["-m", "scripts.base_train", "--depth=12"])
    assert given.training_script == "scripts.base_train" and given.training_script_args == ["--depth=12"]


# The three chains as toys, end to end

@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """All three at once, without a network: name -> the folder of what it made."""
    folder = tmp_path_factory.mktemp("toys")
    nowhere = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    environment = os.environ | nowhere | {"SMOKE": "1", "OMP_NUM_THREADS": "1"}
    with serving(folder) as python:
        running = {name: subprocess.Popen(
            ["bash", "-c", f'{SET_UP} {python} exec bash runs/{name}.sh &> "$NANOCHAT_BASE_DIR.log"'],
            cwd=ROOT, env=environment | {"NANOCHAT_BASE_DIR": str(folder / name)}) for name in CHAINS}
        ended = {name: process.wait() for name, process in running.items()}
    for name, code in ended.items():
        assert code == 0, (folder / f"{name}.log").read_text()[-3000:]
    return {name: folder / name / "smoke" for name in CHAINS}


def models(path: Path, *numbers: str) -> dict[str, dict]:
    """The rows of a CSV by tag; `numbers` are columns that must hold positive ones."""
    with open(path, newline="") as file:
        rows = {row["tag"]: row for row in csv.DictReader(file)}
    assert all(0 < float(row[key]) < math.inf for row in rows.values() for key in numbers)
    return rows


def is_svg(path: Path) -> bool:
    return xml.parse(path).getroot().tag.endswith("svg") and path.stat().st_size > 5000


def test_speedrun_goes_from_text_to_a_report(toys):
    model = toys["speedrun"] / "models" / "d2"
    for stage in ("base", "mid", "sft", "rl"):
        assert list((model / stage).glob("step_*/manifest.json")), stage
        assert [record for record in RunLog(model / f"{stage}.jsonl").read() if "loss" in record]
    evaluated = RunLog(model / "base_eval.jsonl").read()
    assert [record["split"] for record in evaluated if "split" in record] == ["train", "val"]
    assert [record for record in evaluated if "core" in record]
    assert {record["model_stage"] for record in RunLog(model / "eval.jsonl").read() if "task" in record} == {
        "mid", "sft", "rl"}
    page = (model / "report.html").read_text()
    assert page.startswith("<!doctype html>") and "<svg" in page and "CORE" in page


def test_miniseries_compares_a_model_per_depth(toys):
    folder = toys["miniseries"] / "miniseries"
    rows = models(folder / "miniseries.csv", "flops", "hours", "val_bpb", "val_bpb_error")
    assert list(rows) == ["mini_d1", "mini_d2"] and all(float(row["core"]) < 1 for row in rows.values())
    assert float(rows["mini_d1"]["flops"]) < float(rows["mini_d2"]["flops"])
    assert is_svg(folder / "miniseries.svg") and (folder / "report.html").exists()


def test_scaling_laws_trains_each_depth_on_each_budget(toys):
    folder = toys["scaling_laws"] / "scaling_laws"
    rows = models(folder / "scaling_laws.csv", "flops", "tokens", "scaling_params", "val_bpb")
    assert list(rows) == [f"scale_{flops}_d{depth}" for flops in ("2e9", "6e9") for depth in (1, 2)]
    for tag, row in rows.items():
        step = float(row["flops_per_token"]) * float(row["batch_tokens"])
        assert abs(float(row["flops"]) - float(tag.split("_")[1])) <= max(step / 2, 1)
    fit = json.loads((folder / "scaling_laws.json").read_text())
    assert [budget["C"] for budget in fit["budgets"]] == [2e9, 6e9]
    assert [len(budget["N"]) for budget in fit["budgets"]] == [2, 2]
    assert is_svg(folder / "scaling_laws.svg")
