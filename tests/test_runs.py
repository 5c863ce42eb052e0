"""The run scripts and the README: commands that people copy must exist, with the flags they are given."""

import importlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
SOURCES = [ROOT / "README.md", *sorted((ROOT / "runs").glob("*.sh"))]


MODULE = r"((?:scripts|nanochat|dev)\.\w+)"
COMMAND = re.compile(r"^(?!\s*(?:#|echo))[^\n]*?(?:python -m|torchrun [^\n]*? -m|^launch) "
                     + MODULE + r"""((?:"[^"\n]*"|'[^'\n]*'|[^\n;|"'])*)""", re.M)


def commands(path: Path) -> list[tuple[str, list[str]]]:
    """(module, arguments) of every `python -m`, `torchrun -m` and `launch` in a file."""
    text = path.read_text().replace("\\\n", " ")
    if path.suffix == ".md":
        text = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.S))
    return [(module, [word for word in shlex.split(rest, comments=True) if word != "--"])
            for module, rest in COMMAND.findall(text)]


ALL = [(path.name, module, words) for path in SOURCES for module, words in commands(path)]


def test_the_commands_are_found():
    modules = {module for _, module, _ in ALL}
    assert modules >= {"scripts.base_train", "scripts.chat_cli", "scripts.chat_web", "scripts.tok_train",
                       "nanochat.report"}
    assert len(ALL) > 25


@pytest.mark.parametrize("name, module, words", ALL,
                         ids=[f"{name}-{module}-{i}" for i, (name, module, _) in enumerate(ALL)])
def test_a_command_that_people_copy_is_understood(name, module, words):
    """Parsed by the script's own parser; shell variables stand for a number, but $stage for a stage."""
    parser = importlib.import_module(module).parser()
    parser.parse_args([re.sub(r"\$\{?\w+\}?", "1", word.replace("$stage", "sft")) for word in words])


@pytest.mark.parametrize("script", sorted((ROOT / "runs").glob("*.sh")), ids=lambda path: path.name)
def test_run_scripts_are_valid_bash(script):
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("command, complaint", [
    (["runs/speedrun.sh"], "no NVIDIA GPU"), (["runs/runcpu.sh", "--frsh"], "--frsh")])
def test_run_scripts_refuse_what_they_cannot_do_with_exit_code_2(command, complaint, base_dir):
    result = subprocess.run(["bash", *command], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and complaint in result.stderr, result.stderr
