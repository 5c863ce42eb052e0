"""runs/_env.sh on a machine that lacks things: a PATH of stand-ins, an empty home, no network."""

import shutil
import subprocess
from pathlib import Path
import pytest

ROOT = Path(__file__).parent.parent
BASICS = ("bash", "sh", "dirname", "mkdir", "sed", "sort", "head", "cat", "chmod", "cp")     # the real ones

CARGO = 'echo "cargo ${FAKE_CARGO:-1.95.0} (f2d3ce0bd 2026-03-21)"'
UV = '''
case "$*" in
  --version) echo "uv 0.13.9" ;;
  "sync --frozen --check") [ -e .venv/whole ] ;;
  "sync --frozen") echo "uv syncs"; mkdir -p .venv/bin; : > .venv/whole; : > .venv/bin/activate ;;
esac'''
# the two installers, as their sites would send them: what they are asked for goes to a log
RUSTUP = '''echo "Welcome to Rust!"; echo "rustup $*" >> "$HOME/log"
mkdir -p "$HOME/.cargo/bin"; cp "$STANDINS/cargo" "$HOME/.cargo/bin/cargo"'''
ASTRAL = '''echo "uv into $UV_INSTALL_DIR, path untouched: $UV_NO_MODIFY_PATH" >> "$HOME/log"
mkdir -p "$UV_INSTALL_DIR"; cp "$STANDINS/uv" "$UV_INSTALL_DIR/uv"'''
CURL = '''
for url; do :; done
echo "curl $url" >> "$HOME/log"
case "$url" in
  https://sh.rustup.rs) cat "$STANDINS/rustup" ;;
  https://astral.sh/uv/install.sh) cat "$STANDINS/astral" ;;
  *) exit 6 ;;
esac'''
OFFLINE = 'echo "curl" >> "$HOME/log"; exit 6'
PYTHON = 'case "$*" in *cuda*) echo 0 ;; *) exit 1 ;; esac'     # no pip


@pytest.fixture
def machine(tmp_path):
    """run(*commands that are there, **environment) -> the finished set-up. All runs share one machine."""
    tools, standins = tmp_path / "tools", tmp_path / "standins"
    home, repository = tmp_path / "home", tmp_path / "repository"
    for folder in (tools, standins, home, repository / "runs", repository / "rustbpe"):
        folder.mkdir(parents=True)
    shutil.copy(ROOT / "runs" / "_env.sh", repository / "runs")
    shutil.copy(ROOT / "rustbpe" / "Cargo.toml", repository / "rustbpe")
    for name in BASICS:
        (tools / name).symlink_to(shutil.which(name))

    def write(path, body):
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def run(*names, **environment):
        bodies = {"cargo": CARGO, "uv": UV, "curl": CURL, "offline": OFFLINE, "wget": CURL, "python": PYTHON,
                  "python3": PYTHON, "cc": "", "rustup": RUSTUP, "astral": ASTRAL}
        for name, body in bodies.items():
            write(standins / name, body)
            (tools / name).unlink(missing_ok=True)
        for name in (*names, "python"):
            target = "curl" if name == "offline" else name
            write(tools / target, bodies[name])
        script = 'set -euo pipefail; source runs/_env.sh; echo "ready: $(command -v cargo) $GPUS"'
        return subprocess.run(["bash", "-c", script], cwd=repository, capture_output=True, text=True, env={
            "PATH": str(tools), "HOME": str(home), "STANDINS": str(standins)} | environment)

    run.home, run.tools = home, tools
    run.log = lambda: (home / "log").read_text().splitlines() if (home / "log").exists() else []
    return run


def refused(result, *words):
    lines = result.stderr.splitlines()
    assert result.returncode == 2 and "ready" not in result.stdout, result
    assert len(lines) == 2, result.stderr
    assert lines[0].startswith("error: ") and lines[1].startswith("  hint: "), result.stderr
    assert all(word in result.stderr for word in words), result.stderr


def test_with_everything_here_nothing_is_fetched_and_the_second_time_nothing_is_said(machine):
    first = machine("cargo", "cc", "uv", "curl", "python3")
    assert first.returncode == 0 and "uv syncs" in first.stdout and "installing" not in first.stdout, first
    again = machine("cargo", "cc", "uv", "curl", "python3")
    assert again.stdout.splitlines() == [f"ready: {machine.tools}/cargo 0"] and not again.stderr
    assert machine.log() == []


def test_missing_rust_is_installed_into_the_home_in_one_line_and_found(machine):
    result = machine("cc", "uv", "curl", "python3")
    assert result.returncode == 0 and not result.stderr, result
    said = [line for line in result.stdout.splitlines() if "Rust" in line]
    assert said[0].startswith(f"installing Rust into {machine.home}/.cargo (rustup, minimal profile)")
    assert "Welcome" not in result.stdout and f"ready: {machine.home}/.cargo/bin/cargo" in result.stdout
    assert machine.log() == [
        "curl https://sh.rustup.rs", "rustup -y --quiet --profile minimal --no-modify-path"]
    assert "installing" not in machine("cc", "uv", "curl", "python3").stdout and len(machine.log()) == 2


def test_rust_that_is_too_old_is_treated_as_missing(machine):
    result = machine("cargo", "cc", "uv", "offline", FAKE_CARGO="1.63.0")
    refused(result, "cargo 1.83 or newer", "https://rustup.rs")
    newer = machine("cargo", "cc", "uv", "offline", FAKE_CARGO="1.100.0")       # numbers, not letters
    assert newer.returncode == 0


@pytest.mark.parametrize("tools", [("offline",), ()], ids=["no network", "neither curl nor wget"])
def test_where_rust_cannot_be_fetched_the_error_says_what_to_do(machine, tools):
    result = machine("cc", "uv", "python3", *tools)
    if tools:
        refused(result, "cargo", "https://rustup.rs", "run this again")
    assert result.returncode == 2 and "hint: install Rust" in result.stderr and "ready" not in result.stdout


def test_wget_does_where_there_is_no_curl(machine):
    assert machine("cc", "uv", "wget", "python3").returncode == 0
    assert machine.log()[0] == "curl https://sh.rustup.rs"


def test_a_missing_linker_is_named_before_anything_is_fetched(machine):
    result = machine("cargo", "uv", "curl", "python3")
    refused(result, "C linker", "build-essential", "xcode-select --install")
    assert machine.log() == []


def test_missing_uv_comes_from_its_site_where_there_is_no_pip_or_python(machine):
    result = machine("cargo", "cc", "curl")
    assert result.returncode == 0 and not result.stderr and "installing uv" in result.stdout, result
    asked, installed = machine.log()
    assert asked == "curl https://astral.sh/uv/install.sh"
    assert installed == f"uv into {machine.home}/.local/bin, path untouched: 1"


def test_where_uv_cannot_be_fetched_the_error_says_what_to_do(machine):
    refused(machine("cargo", "cc", "offline", "python3"), "uv is not installed", "https://docs.astral.sh/uv")


def test_an_environment_that_cannot_be_made_ends_with_code_2(machine):
    (machine.tools.parent / "repository" / ".venv").write_text("in the way")
    result = machine("cargo", "cc", "uv", "python3")
    assert result.returncode == 2 and "Python 3.11" in result.stderr.splitlines()[-1]
