"""Runs model-written programs against tests, isolated. Used by tasks/humaneval.py; the walls are in
sandbox.py.

What is guaranteed where namespaces are (Linux, as root or not): a program reads Python's own files and no
others, writes into an empty folder that is gone with it, reaches no network and no process, and is bounded in
time, memory, output, files and threads. All that it started ends with it, and with us.

The verdict is a secret that this process makes up and the tester prints after the tests. As they run in
another process than model code, which sees the arguments of its calls and nothing else, there is one way to
pass: to return what the tests ask for. Patched builtins, frames, exits, objects equal to all do not help.

Not guaranteed: that what passes is honest (answers can be guessed), or that kernels have no bugs. Without
namespaces (macOS, most containers) the limits hold, and seccomp where it is there, but the program reads and
writes what the user may: run_tests() refuses until require_isolation(unsafe=True) was called."""

import json
import math
import os
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nanochat.common import die

SANDBOX = Path(__file__).with_name("sandbox.py")
WALLS = {"namespaces": [f"{kind} namespace" for kind in ("user", "mount", "pid", "network", "ipc")],
         "seccomp": ["seccomp"]}
FLOOD = 2 ** 20                                         # bytes of output at which a program is stopped
TAIL = 4096                                             # bytes of output that are kept
_allowed = False                                        # to run without namespaces


@dataclass(frozen=True)
class Outcome:
    passed: bool
    reason: str                                         # passed, failed, timeout, memory, output or killed
    output: str                                         # the end of what was written, tracebacks included


def isolation() -> list[str]:
    """Names of what is in force here, found by trying."""
    return [*(name for wall in _walls() for name in WALLS[wall]), "rlimits"]


@cache
def _walls() -> tuple[str, ...]:
    tries = (("namespaces", "seccomp"), ("namespaces",), ("seccomp",))
    return next((walls for walls in tries if _run("", "", 10, 2 ** 30, walls).passed), ())


def require_isolation(unsafe: bool) -> str:
    """A line that says what is in force. Dies where that lacks namespaces, unless `unsafe` is good enough."""
    global _allowed
    _allowed = _allowed or unsafe
    if "namespaces" in _walls():
        return f"model programs run isolated: {', '.join(isolation())}"
    if not _allowed:
        why = _run("", "", 10, 2 ** 30, ("namespaces",)).output.strip().rpartition("\n")[2]
        die(f"model programs cannot be isolated here ({why or 'no answer'}), only {', '.join(isolation())}",
            hint="--unsafe-execution runs them all the same: they may read and write what you may")
    return f"model programs run NOT isolated from your files: {', '.join(isolation())} alone"


def run_tests(program: str, tests: str, timeout: float = 10.0, memory: int = 2 ** 30) -> Outcome:
    """Run `program`, then `tests`, in which the program's functions and plain values go by their names,
    unless they define them. `timeout` in seconds, `memory` in bytes of address space. Threads may call it."""
    require_isolation(unsafe=False)
    return _run(program, tests, timeout, memory, _walls())


def _run(program: str, tests: str, timeout: float, memory: int, walls: tuple[str, ...]) -> Outcome:
    secret, code = secrets.token_hex(16), program.encode(errors="surrogatepass")
    job = {"parent": os.getpid(), "size": len(code), "walls": walls, "seconds": math.ceil(timeout) + 1,
           "memory": memory}
    command = [sys.executable, "-I", "-S", "-u", "-X", "utf8", SANDBOX, json.dumps(job)]
    elsewhere = nullcontext("/") if "namespaces" in walls else tempfile.TemporaryDirectory()
    with elsewhere as folder, tempfile.TemporaryFile() as source:      # no program is too long for a file
        source.write(code + json.dumps([secret, tests]).encode())
        source.seek(0)
        process = subprocess.Popen(command, stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   env={}, cwd=folder, start_new_session=True)
        return _outcome(process, secret, time.monotonic() + timeout)


def _outcome(process: subprocess.Popen, secret: str, deadline: float) -> Outcome:
    """Listen until the verdict, the deadline or too much; leave nothing that runs."""
    heard = {process.stdout: b"", process.stderr: b""}
    with process, selectors.DefaultSelector() as pipes:
        for pipe in heard:
            pipes.register(pipe, selectors.EVENT_READ)
        try:
            stopped = _listen(pipes, heard, process.stdout, deadline)
        finally:
            with suppress(ProcessLookupError, PermissionError):     # macOS forbids it for the dead
                os.killpg(process.pid, signal.SIGKILL)
        _listen(pipes, heard, process.stderr, time.monotonic() + 2)     # until all that hold it are dead
    verdict = heard[process.stdout].decode()
    passed = verdict == f"{secret} passed" and not stopped
    reason = stopped or (verdict.removeprefix(f"{secret} ") if verdict.startswith(secret) else "killed")
    return Outcome(passed, reason, heard[process.stderr].decode(errors="replace"))


def _listen(pipes: selectors.BaseSelector, heard: dict, until, deadline: float) -> str:
    """Keep the end of what comes until that pipe is closed ("") or a limit is passed (which one)."""
    total = 0
    while until in pipes.get_map():
        for key, _ in pipes.select(max(0.0, deadline - time.monotonic())):
            data = os.read(key.fd, 2 ** 16)
            heard[key.fileobj] = (heard[key.fileobj] + data)[-TAIL:]
            total += len(data)
            if not data:
                pipes.unregister(key.fileobj)
        if total > FLOOD or time.monotonic() > deadline:
            return "output" if total > FLOOD else "timeout"
    return ""
