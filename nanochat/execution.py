"""Runs model-written programs against tests, isolated. Used by tasks/humaneval.py; the walls are in
sandbox.py.

What is guaranteed where namespaces are (Linux, as root or not; util-linux 2.36): a program reads Python's own
files and no others, writes into an empty folder that is gone with it, reaches no network and no process, and
is bounded in time, memory, output and files. All that it started ends with it, and with us. Without
namespaces (macOS, most containers) it reads and writes what the user may: run_tests() refuses until
require_isolation(unsafe=True) was called.

The verdict is a secret that this process makes up and the tester prints after the tests. As model code sees
the arguments of its calls and nothing else, all it can do is return what the tests ask for."""
import json
import math
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from nanochat.common import die

SANDBOX = Path(__file__).with_name("sandbox.py")
# By util-linux: setpriv's process ends with us, and unshare's child with it. sandbox.py makes root nobody.
UNSHARE = ["/usr/bin/env", "setpriv", "--pdeathsig=KILL", "unshare", "--mount", "--pid", "--net", "--ipc",
           "--fork", "--kill-child"]
NOBODY = ["--user", "--map-user=65534", "--map-group=65534", "--keep-caps"]
TAIL = 4096                                             # bytes of output that are kept
_allowed = False                                        # to run without namespaces

@dataclass(frozen=True)
class Outcome:
    passed: bool
    reason: str                                         # passed, failed, timeout or killed
    output: str                                         # the end of what was written, tracebacks included

@cache
def isolation() -> tuple[str, ...]:
    """The walls that are in force here, found by trying."""
    tries = (("namespaces", "seccomp"), ("namespaces",), ("seccomp",))
    return (*next((walls for walls in tries if _run("", "", 10, 2 ** 30, walls).passed), ()), "rlimits")

def require_isolation(unsafe: bool) -> str:
    """A line that says what is in force. Dies where that lacks namespaces, unless `unsafe` is good enough."""
    global _allowed
    _allowed = _allowed or unsafe
    if "namespaces" in isolation():
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
    return _run(program, tests, timeout, memory, isolation())

def _run(program: str, tests: str, timeout: float, memory: int, walls: tuple[str, ...]) -> Outcome:
    secret, code = secrets.token_hex(16), program.encode(errors="surrogatepass")
    job = {"size": len(code), "walls": walls, "seconds": math.ceil(timeout) + 1, "memory": memory}
    command = [sys.executable, "-I", "-S", "-u", "-X", "utf8", SANDBOX, json.dumps(job)]
    if "namespaces" in walls:
        command = [*UNSHARE, *(NOBODY if os.geteuid() else []), *command]
    with (tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
          tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as output):
        source.write(code + json.dumps([secret, tests]).encode())      # no program is too long for a file
        source.seek(0)
        with subprocess.Popen(command, stdin=source, stdout=subprocess.PIPE, stderr=output, env={},
                              cwd=folder, start_new_session=True) as process:
            try:
                verdict = process.communicate(timeout=timeout)[0].decode(errors="replace")
            except subprocess.TimeoutExpired:
                verdict = f"{secret} timeout"
            finally:
                with suppress(ProcessLookupError, PermissionError):     # macOS forbids it for the dead
                    os.killpg(process.pid, signal.SIGKILL)
        output.seek(max(0, output.seek(0, os.SEEK_END) - TAIL))
        end = output.read().decode(errors="replace")
    said, _, reason = verdict.partition(" ")
    reason = reason if said == secret else "killed"
    return Outcome(reason == "passed", reason, end)
