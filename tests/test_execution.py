"""Escape attempts. What namespaces alone and seccomp alone must hold is tested without the other one too."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum
from pathlib import Path
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nanochat import execution, sandbox
from nanochat.execution import Outcome, run_tests

ROOT = Path(__file__).parent.parent
GIB = 2 ** 30
BOTH, SPACES, SECCOMP, NONE = ("namespaces", "seccomp"), ("namespaces",), ("seccomp",), ()
TRY = '''
def attempt(what, *args):
    try: return what(*args)
    except BaseException as error: return type(error).__name__
'''


@pytest.fixture(autouse=True)
def marked(monkeypatch, tmp_path_factory):
    """A path to the sandbox that tells our processes from others'. Without namespaces the rest is tested all
    the same."""
    mark = tmp_path_factory.mktemp("sandbox") / "sandbox.py"
    mark.symlink_to(execution.SANDBOX)
    monkeypatch.setattr(execution, "SANDBOX", mark)
    monkeypatch.setattr(execution, "_allowed", True)


def under(walls: tuple[str, ...], program: str, tests: str, timeout: float = 10.0, memory=GIB) -> Outcome:
    """The outcome with these walls alone; skips where they do not hold."""
    needs(walls)
    return execution._run(TRY + program, tests, timeout, memory, walls)


def descendants() -> list[str]:
    """Processes of the host that this test's sandboxes became: all have its path in their command line."""
    if not Path("/proc/self/cmdline").exists():
        pytest.skip("no process table to look at")
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes()
        except OSError:                                 # it has just ended
            continue
        if os.fsencode(execution.SANDBOX) in line:
            found.append(process.name)
    return found


def none_left() -> bool:
    """A killed process takes a moment to go."""
    end = time.monotonic() + 10
    while descendants():
        if time.monotonic() > end:
            return False
        os.sched_yield()
    return True


def needs(walls: tuple[str, ...]) -> None:
    if missing := set(walls) - set(execution.isolation()):
        pytest.skip(f"no {' and '.join(missing)} here")


# ---- what a run is

@pytest.mark.parametrize("program, reason", [
    ("def f(x): return x + 1", "passed"), ("def f(x): return x", "failed"), ("f = 2", "failed"),
    ("", "failed"), ("def f(", "failed"), ("raise ValueError", "failed"), ("def f(x): return f(x)", "failed"),
    ("def f(x): return y", "failed"), ("def f(x): raise StopIteration", "failed"), ("import numpy", "failed"),
    ("def f(x):\n while True: pass", "timeout"), ("import time; time.sleep(60)", "timeout"),
    ("def f(x): return bytearray(2 ** 31)", "failed"), ("def f(x): return [0] * 2 ** 28", "failed"),
    ("import ctypes; ctypes.string_at(0)", "killed"), ("import os; os._exit(0)", "killed"),
])
def test_an_outcome_says_why(program, reason):
    outcome = run_tests(program, "assert f(1) == 2", timeout=0.5 if reason == "timeout" else 10.0)
    assert (outcome.passed, outcome.reason) == (reason == "passed", reason), outcome.output
    assert reason != "failed" or "Error" in outcome.output


def test_tests_reach_functions_and_values_of_the_program_and_their_own_names_go_first():
    program = "A = {'b': (1, 2.5)}\ndef f(*args, key): return args, key\ndef g(): return 'theirs'"
    tests = """
def g(): return "ours"
assert A == {"b": (1, 2.5)} and type(A["b"]) is tuple and g() == "ours"
assert f(1, [2], key=None) == ((1, [2]), None)
def check(candidate):
    assert candidate(key=3) == ((), 3) and len("abc") == 3
check(f)
try: nothing
except RuntimeError as error: assert "NameError: name 'nothing'" in str(error)
else: assert False
"""
    assert run_tests(program, tests).passed


def test_what_the_program_raises_reaches_the_tests():
    tests = "try: f(1)\nexcept RuntimeError as error: assert str(error) == 'ValueError: one'\nelse: 1 / 0"
    assert run_tests("def f(x): raise ValueError('one')", tests).passed
    assert not run_tests("def f(x): raise KeyError('one')", tests).passed


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5)
keys = st.integers() | st.text(max_size=5) | st.tuples(st.integers(), st.booleans())
values = st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(keys, inner)
                      | st.lists(inner).map(tuple), max_leaves=10)


@settings(max_examples=50)
@given(values, st.sets(keys))
def test_plain_values_travel_unchanged(value, members):
    def travelled(value):
        return sandbox.unpack(json.loads(json.dumps(sandbox.pack(value))))
    assert repr(travelled(value)) == repr(value)
    assert travelled(members) == members == travelled({member: 0 for member in members}.keys())
    assert type(travelled(Counter("aab"))) is dict and travelled(IntEnum("A", "B C").C) == 2


def test_many_programs_run_at_once_and_outcomes_come_in_order():
    jobs = [(f"def f(): return {i % 3}", "assert f() == 0") for i in range(9)]
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(lambda job: run_tests(*job), jobs))
    assert [outcome.passed for outcome in outcomes] == [i % 3 == 0 for i in range(9)]
    assert none_left()


def test_a_program_may_be_longer_than_an_argument_may_be():
    assert run_tests("x = 1\n" + "# filler\n" * 400_000 + "y = 2", "assert x + y == 3").passed


def test_a_program_may_use_standard_modules():
    program = """
import asyncio, collections, hashlib, json, math, random, re, threading, typing
async def f(): return hashlib.md5(b"").hexdigest()
digest = asyncio.run(f())
"""
    assert run_tests(program, "assert digest == 'd41d8cd98f00b204e9800998ecf8427e'").passed


# ---- refusal

def test_what_is_in_force_is_said_and_without_namespaces_programs_are_refused(monkeypatch, capsys):
    if "namespaces" in execution.isolation():
        said = execution.require_isolation(unsafe=False)
        assert "isolated" in said and all(name in said for name in execution.isolation())
        assert "rlimits" in said
    monkeypatch.setattr(execution, "isolation", lambda: ("rlimits",))
    monkeypatch.setattr(execution, "_allowed", False)
    for refused in (lambda: execution.require_isolation(unsafe=False), lambda: run_tests("", "")):
        with pytest.raises(SystemExit) as stop:
            refused()
        error = capsys.readouterr().err
        assert stop.value.code == 2 and "--unsafe-execution" in error and error.count("\n") == 2
    assert "NOT isolated" in execution.require_isolation(unsafe=True)
    assert run_tests("x = 1", "assert x == 1").passed


def test_a_wall_that_cannot_be_built_fails_the_run_instead_of_being_left_out():
    """Within a user namespace that allows no more of them, the sandbox does not run the program."""
    needs(SPACES)
    code = f"""
import ctypes, sys
sys.path.insert(0, {str(ROOT)!r})
from nanochat import execution
from pathlib import Path
uid = __import__("os").getuid()
assert ctypes.CDLL(None).unshare(0x10000000) == 0
Path("/proc/self/uid_map").write_text(f"0 {{uid}} 1")
Path("/proc/sys/user/max_user_namespaces").write_text("0")
outcome = execution._run("print('it ran')", "", 10, 2 ** 30, ("namespaces",))
assert not outcome.passed and "it ran" not in outcome.output
print(execution.isolation())
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if "PermissionError" in run.stderr and "max_user_namespaces" in run.stderr:
        pytest.skip("limits of namespaces cannot be set here")
    assert run.returncode == 0 and "namespaces" not in run.stdout, run.stderr


# ---- files

def test_no_file_of_the_user_is_read_or_written(tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    secret.chmod(0o666)
    program = f"""
import os, sys
paths = [{str(secret)!r}, {str(Path.home())!r} + "/.bashrc", "/etc/passwd", "/etc/hostname", {__file__!r},
         sys.argv[0], "/proc/self/environ", "/proc/1/cmdline", "/dev/null", "/dev/shm/x", "/sys/kernel"]
def reads(): return [path for path in paths if not isinstance(attempt(open, path), str)]
def writes():
    places = [{str(tmp_path)!r}, "/", "/usr/lib", os.path.dirname(os.__file__), "/dev/shm", "/var/tmp"]
    return [place for place in places if not isinstance(attempt(open, place + "/new", "w"), str)]
def changes(): return [attempt(os.chmod, os.__file__, 0o777), attempt(os.unlink, os.__file__)]
"""
    tests = "assert reads() == writes() == [], (reads(), writes())\nassert set(changes()) == {'OSError'}"
    outcome = under(SPACES, program, tests)
    assert outcome.passed, outcome.output
    assert os.listdir(tmp_path) == ["secret.txt"] and secret.read_text() == "secret"


@pytest.mark.parametrize("walls", [BOTH, SECCOMP, NONE])
def test_the_folder_is_empty_and_gone_afterwards(walls, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = "import os\nbefore = os.listdir('.')\nopen('new', 'w').write('x')\nafter = os.listdir('.')"
    for _ in range(2):
        assert under(walls, program, "assert before == [] and after == ['new']").passed
    assert os.listdir(tmp_path) == []


def test_what_files_take_is_bounded():
    program = """
import os
def fill(name, size):
    with open(name, 'wb') as file: file.write(bytes(size))
one = attempt(fill, 'one', 17 * 2 ** 20)
os.unlink('one')
many = [attempt(fill, str(i), 2 ** 20) for i in range(40)]
"""
    tests = "assert one == 'OSError' and 10 < many.count(None) <= 16 and many[-1] == 'OSError', (one, many)"
    outcome = under(SPACES, program, tests)
    assert outcome.passed, outcome.output


def test_nothing_is_mounted_or_left_on_the_host():
    needs(SPACES)
    before = Path("/proc/self/mountinfo").read_text(), set(os.listdir(tempfile.gettempdir()))
    run_tests("while True: pass", "", timeout=0.5)
    assert run_tests("", "").passed
    after = Path("/proc/self/mountinfo").read_text(), set(os.listdir(tempfile.gettempdir()))
    assert after[0] == before[0] and not {name for name in after[1] - before[1] if "sandbox" in name}


# ---- network

@pytest.mark.parametrize("walls", [BOTH, SPACES, SECCOMP])
def test_no_network_is_reached(walls):
    needs(walls)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        name = f"\0nanochat-{os.getpid()}-{walls}"
        local.bind(name)
        local.listen()
        program = f"""
import socket
def reach(family, address):
    socket.socket(family).connect(address)
tries = [attempt(reach, socket.AF_INET, {server.getsockname()!r}), attempt(reach, socket.AF_UNIX, {name!r}),
         attempt(reach, socket.AF_INET, ("192.0.2.1", 80))]
"""
        outcome = under(walls, program, "assert all(isinstance(one, str) for one in tries), tries", timeout=5)
        assert outcome.passed, outcome.output
        for listener in (server, local):
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):        # nobody called
                listener.accept()


# ---- processes and signals

BOMB = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
DAEMON = """
import os, time
def daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork(): os._exit(0)
        os.closerange(0, 1024)
        while True: time.sleep(1)
    return 'made'
made = attempt(daemon)
"""


@pytest.mark.parametrize("walls", [BOTH, SPACES])      # seccomp alone: see daemons; a bomb is too bold a test
def test_a_fork_bomb_is_contained_and_killed(walls):
    outcome = under(walls, BOMB, "", timeout=0.5)
    assert outcome.reason == "timeout" and none_left()


def test_processes_are_few_where_there_can_be_some():
    program = """
import os, time
def children():
    for count in range(100):
        try:
            if os.fork() == 0:
                while True: time.sleep(60)
        except OSError: return count
"""
    outcome = under(SPACES, program, "assert 10 < children() < 32")
    assert outcome.passed and none_left(), outcome.output


@pytest.mark.parametrize("walls, made", [(BOTH, "PermissionError"), (SPACES, "made"),
                                         (SECCOMP, "PermissionError")])
def test_daemons_end_with_the_run(walls, made):
    for tests in (f"assert made == {made!r}, made", "while True: pass"):
        outcome = under(walls, DAEMON, tests, timeout=10.0 if "assert" in tests else 0.5)
        assert outcome.reason == ("passed" if "assert" in tests else "timeout"), outcome.output
        assert none_left()


@pytest.mark.parametrize("walls", [BOTH, SECCOMP])
def test_no_other_program_is_started(walls):
    program = f"""
import os, subprocess, multiprocessing
tries = [attempt(subprocess.run, [{sys.executable!r}]), attempt(os.execv, {sys.executable!r}, ["x"]),
         attempt(os.fork), attempt(os.posix_spawn, {sys.executable!r}, ["x"], {{}}), attempt(os.setsid)]
"""
    outcome = under(walls, program, "assert set(tries) == {'PermissionError'}, tries")
    assert outcome.passed, outcome.output


@pytest.mark.parametrize("walls", [BOTH, SPACES, SECCOMP])
def test_signals_reach_neither_the_parent_nor_the_tester(walls):
    caught, numbers = [], (signal.SIGTERM, signal.SIGUSR1)
    program = f"""
import os, signal
processes, numbers = [{os.getpid()}, os.getppid()], [signal.SIGTERM, signal.SIGUSR1]
if os.getppid() == 1:                                   # else what is tested had better hold
    processes, numbers = [*processes, -1], [*numbers, signal.SIGINT, signal.SIGKILL]
for process in processes:
    for number in numbers:
        attempt(os.kill, process, number)
        attempt(os.killpg, process, number)
def f(): return 1
"""
    needs(walls)
    before = [signal.signal(number, lambda *args: caught.append(args)) for number in numbers]
    try:
        assert under(walls, program, "assert f() == 1").passed
        assert not under(walls, program, "assert f() == 2").passed
    finally:
        for number, handler in zip(numbers, before):
            signal.signal(number, handler)
    assert caught == [] and none_left()


@pytest.mark.parametrize("count", [1, 2, 3])            # from the first process on to tester and worker
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_programs_end_with_the_parent(number, count):
    if sys.platform != "linux":
        pytest.skip("only Linux ends children with their parent")
    count = count if "namespaces" in execution.isolation() else min(count, 2)
    code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from nanochat import execution
print(execution.require_isolation(unsafe=True), flush=True)
execution.SANDBOX = {str(execution.SANDBOX)!r}
execution.run_tests("while True: pass", "", timeout=60)
"""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as parent:
        parent.stdout.readline()                        # walls have been tried
        while len(descendants()) < count:
            assert parent.poll() is None
        os.kill(parent.pid, number)
        parent.wait(10)
    assert none_left()


def test_there_are_no_privileges_and_no_way_to_some():
    program = """
import ctypes, os
libc = ctypes.CDLL(None)
calls = [libc.unshare(0x10000000), libc.unshare(0x20000), libc.setns(0, 0), libc.chroot(b"/tmp"),
         libc.mount(b"none", b"/tmp", b"tmpfs", 0, None), libc.umount2(b"/tmp", 2), libc.setuid(0),
         libc.ptrace(16, 1, 0, 0), libc.sethostname(b"x", 1)]
ids = os.getresuid(), os.getresgid()
no_new = libc.prctl(39, 0, 0, 0, 0)
"""
    tests = "assert set(calls) == {-1} and no_new == 1 and ids == ((65534,) * 3,) * 2, (calls, ids)"
    outcome = under(SPACES, program, tests)
    assert outcome.passed, outcome.output


# ---- memory and output

@pytest.mark.parametrize("walls", [BOTH, NONE])
def test_an_output_flood_is_stopped_and_never_held(walls):
    program = "import os\nwhile True: os.write(1, b'x' * 65536); os.write(2, b'y' * 65536)"
    execution.isolation()
    tracemalloc.start()
    outcome = under(walls, program, "")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not outcome.passed and len(outcome.output) <= execution.TAIL and peak < 2 ** 22
    assert none_left()


def test_output_need_not_be_text():
    program = "import os\ndef f(): os.write(1, bytes(range(256))); print('\\udcff'); return '\\ud800'"
    outcome = run_tests(program, "assert f() == '\\ud800'")
    assert outcome.passed and "\ufffd" in outcome.output


def test_memory_is_bounded_in_all_its_kinds():
    program = """
import ctypes, mmap, os
libc = ctypes.CDLL(None)
shared = libc.shmget(0, 2 ** 30, 0o1600)
kinds = [attempt(bytearray, 2 ** 29), attempt(mmap.mmap, -1, 2 ** 29), attempt(os.memfd_create, 'x')]
"""
    tests = "assert shared == -1 and kinds == ['MemoryError', 'OSError', 'PermissionError'], (shared, kinds)"
    outcome = under(BOTH, program, tests, memory=2 ** 28)
    assert outcome.passed, outcome.output


# ---- the verdict

TESTS = "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate([1]) == [1, 1]\ncheck(f)\n"
FORGERIES = {
    "exit": "import sys\ndef f(x): sys.exit(0)",
    "exit at once": "raise SystemExit(0)",
    "hard exit": "import os\ndef f(x): os._exit(0)",
    "at exit": "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): raise SystemExit",
    "no program": "",
    "its own tests": "def check(f): pass\ndef f(x): pass\ndef assert_(x): pass\nTESTS = ''",
    "equal to all": "class A:\n    __eq__ = lambda self, other: True\ndef f(x): return A()",
    "an integer equal to all": "class A(int):\n    __eq__ = lambda self, other: True\ndef f(x): return A()",
    "a list equal to all": "class A(list):\n    __eq__ = lambda self, other: True\ndef f(x): return A()",
    "builtins": "import builtins\nbuiltins.AssertionError = builtins.compile = builtins.exec = None\n"
                "builtins.print = builtins.isinstance = lambda *args: True\ndef f(x): return None",
    "trace": "import sys\ndef trace(frame, *rest):\n    frame.f_trace_lines = False\n    return trace\n"
             "sys.settrace(trace)\nsys.setprofile(trace)\ndef f(x): return None",
    "frames": "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n"
              "        frame.f_globals.update(judge=print, check=print, passed=True, reason='passed')\n"
              "        frame = frame.f_back\n",
    "the sandbox's own code": "import sys\ndef f(*args): return '[\"value\", 4]\\n'\n"
                              "main = sys.modules['__main__']\nfor name in dir(main): setattr(main, name, f)",
    "passed on every descriptor": "import os\ndef f(x):\n    for fd in range(64):\n"
                                  "        for text in ('passed', ' passed', '[\"value\", true]\\n'):\n"
                                  "            attempt(os.write, fd, text.encode())",
    "endless answers": "import os\nfor fd in range(3, 64):\n"
                       "    attempt(os.write, fd, b'[\"value\", null]\\n' * 100)\ndef f(x): return None",
    "answers of no kind": "import os\nfor fd in range(3, 64):\n"
                          "    attempt(os.write, fd, b'[\"value\", [[\"list\"]]]\\n[]\\n{}\\n')",
    "end of iteration": "def f(x): raise StopIteration",
    "closed pipes": "import os\nos.closerange(0, 1024)",
    "poisoned modules": "import sys, os\nfor name in ('math', 'random', 'json', 'traceback'):\n"
                        "    attempt(lambda: open(name + '.py', 'w').write('import os; os._exit(0)'))\n"
                        "sys.path.insert(0, '.')\ndef f(x): return 5",
}


@pytest.mark.parametrize("walls", [BOTH, NONE])
@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_verdict_cannot_be_forged(forgery, walls):
    assert not under(walls, FORGERIES[forgery], TESTS, timeout=5).passed


def test_the_forgeries_tests_can_be_passed():
    assert run_tests("def f(x): return x + x", TESTS).passed


LOOK = """
import ctypes, gc, glob, os, sys
LETTERS = [102, 101, 101, 100] + [102, 97, 99, 101] * 2
def look(found):
    frame = sys._getframe()
    while frame:
        found += [repr(frame.f_locals), repr(list(frame.f_globals))]
        frame = frame.f_back
    found += [repr(sys.argv), repr(sys.orig_argv), repr(dict(os.environ))]
    found += [repr(thing) for thing in gc.get_objects() if isinstance(thing, (str, bytes, list, tuple, dict))]
    found += [repr(vars(module)) for module in list(sys.modules.values())]
    for fd in range(64):
        found.append(repr(attempt(os.lseek, fd, 0, 0)))
        if fd not in CALLS:                             # these would wait for the tester
            attempt(os.set_blocking, fd, False)
            found.append(repr(attempt(os.read, fd, 10 ** 6)))
    for name in ('environ', 'cmdline', *(f'fd/{fd}' for fd in range(12))):
        path = f'/proc/{os.getppid()}/{name}'
        found.append(repr(attempt(lambda: os.read(os.open(path, os.O_RDONLY | os.O_NONBLOCK), 10 ** 6))))
    return found
CALLS = [fd for fd in range(3, 64) if not isinstance(attempt(os.fstat, fd), str)]
def seen():
    found = look([])
    return sum(bytes(LETTERS).decode() in thing for thing in found)
def memory(): return attempt(lambda: str(open(f'/proc/{os.getppid()}/mem', 'rb', 0)))
def ptrace(): return ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0)
"""


@pytest.mark.parametrize("walls", [BOTH, SPACES, SECCOMP, NONE])
def test_the_secret_is_nowhere_to_be_found(walls, monkeypatch):
    """Neither in argv, environment, frames, objects, descriptors nor in /proc, by who knows what it is."""
    monkeypatch.setattr(execution.secrets, "token_hex", lambda size: "feedfacefaceabcd")
    tests = "assert len(CALLS) == 2 and seen() == 0 and ptrace() == -1 and memory() in NOT"
    outcome = under(walls, LOOK + "NOT = ('PermissionError', 'FileNotFoundError')", tests)
    assert outcome.passed, outcome.output
    outcome = under(walls, LOOK + "secret = 'feedfaceface'", "assert seen() > 0")
    assert outcome.passed, "it would not be found"
