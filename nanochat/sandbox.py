"""The inside of execution.py, which starts it as a script, alone, once per program: it locks itself in, then
becomes two processes.

The worker runs the model's program and answers calls of its functions, one line of JSON each. The tester runs
the tests; a name that neither the tests nor Python define is asked for in the worker. So no model code ever
runs where the tests, the verdict and its secret are: all that it can do is answer, in copies of Python's own
kinds of values (None, bool, int, float, str, bytes, list, tuple, set, dict; subclasses arrive as these).

The walls, each used where execution.py found that it holds: namespaces (own user, mounts, process ids,
network, System V objects; a root of Python's own files, read-only; no /proc, no /dev; an empty folder in
memory), seccomp (one process, no sockets, no signals, no looking into others), and limits of the kernel.
Linux 5.12 or newer for namespaces, x86-64 or ARM for seccomp. The standard library alone."""

import builtins
import contextlib
import ctypes
import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Set

NOBODY = 65534
FOLDER = 16 * 2 ** 20                                   # bytes of all files, and of any one
KINDS = {"list": list, "tuple": tuple, "set": Set, "dict": dict, "bytes": bytes}       # as values travel
NAMESPACES = 0x20000 | 0x8000000 | 0x10000000 | 0x20000000 | 0x40000000     # mount, IPC, user, pid, network
BIND, REC, PRIVATE, DETACH = 4096, 16384, 1 << 18, 2    # of mount and umount2
SET_PDEATHSIG, SET_DUMPABLE, SET_SECCOMP, CAPBSET_DROP, SET_NO_NEW_PRIVS = 1, 4, 22, 24, 38     # of prctl

# System calls that a program does without, by number on x86-64 and ARM (None: not there): those that reach
# other processes or a network, gain privileges, or get memory that no limit counts.
DENIED = {"fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
          "setsid": (112, 157), "setpgid": (109, 154), "unshare": (272, 97), "setns": (308, 268),
          "socket": (41, 198), "io_uring_setup": (425, 425), "bpf": (321, 280), "userfaultfd": (323, 282),
          "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
          "rt_tgsigqueueinfo": (297, 240), "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424),
          "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
          "prlimit64": (302, 261), "perf_event_open": (298, 241), "kcmp": (312, 272), "keyctl": (250, 219),
          "add_key": (248, 217), "request_key": (249, 218), "shmget": (29, 194), "msgget": (68, 186),
          "semget": (64, 190), "mq_open": (240, 180), "memfd_create": (319, 279), "memfd_secret": (447, 447)}
MACHINES = {"x86_64": (0, 0xC000003E, 56), "aarch64": (1, 0xC00000B7, 220)}     # column, audit number, clone
CLONE3, CLONE_THREAD, MOUNT_SETATTR, RECURSIVE = 435, 0x10000, 442, 0x8000


def main() -> None:
    """argv: the job as JSON. Standard input: the program, then the secret and the tests as JSON."""
    job = json.loads(sys.argv[1])
    die_with_parent()
    if os.getppid() != job["parent"]:                   # it died before that line
        os._exit(1)
    program = read_bytes(0, job["size"]).decode(errors="surrogatepass")
    rest, verdict = os.dup(0), os.dup(1)                # the rest is read when the worker is on its own
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)        # process 1 gets no signal that it has no handler for
    sys.set_int_max_str_digits(0)                       # long numbers are answers too
    if "namespaces" in job["walls"]:
        enter_namespaces()
        enter_root()
    drop_privileges()
    questions, answers = os.pipe(), os.pipe()
    worker = os.fork()
    set_limits(job["seconds"], job["memory"])
    if worker == 0:
        serve(program, questions[0], answers[1], "seccomp" in job["walls"])
    os.close(questions[0])
    os.close(answers[1])
    judge(rest, verdict, Worker(worker, questions[1], answers[0]))


def read_bytes(fd: int, count: int) -> bytes:
    """Exactly so many, none ahead; all that there are when `count` is negative."""
    data = b""
    while len(data) != count and (more := os.read(fd, count - len(data) if count >= 0 else 2 ** 20)):
        data += more
    return data


def serve(program: str, questions: int, answers: int, deny: bool) -> None:
    """Run the program, then answer for its names for as long as somebody asks."""
    die_with_parent()
    low, high = sorted((questions, answers))
    for start, end in ((3, low), (low + 1, high), (high + 1, 1024)):
        os.closerange(start, end)
    if deny:
        deny_system_calls()
    names = {"__name__": "program"}
    with open(questions) as asked, open(answers, "w", buffering=1) as answer:
        answer.write(attempt(run, program, names))
        for line in asked:
            answer.write(attempt(respond, names, *json.loads(line)))
    os._exit(0)


def attempt(function, *args) -> str:
    """What the function returns, or the exception, as a line of JSON."""
    try:
        return json.dumps(function(*args)) + "\n"
    except BaseException as error:                      # SystemExit is an answer like any other
        sys.__excepthook__(type(error), error, error.__traceback__)
        return json.dumps(["error", type(error).__name__, str(error)[:1000]]) + "\n"


def run(program: str, names: dict) -> list:
    exec(compile(program, "<program>", "exec"), names)
    return ["value", None]


def respond(names: dict, name: str, args=None, kwargs=None) -> list:
    """What a name stands for or, given arguments, what it returns."""
    if name not in names:
        raise NameError(f"name {name!r} is not defined")
    if args is not None:
        return ["value", pack(names[name](*unpack(args), **unpack(kwargs)))]
    return ["callable"] if callable(names[name]) else ["value", pack(names[name])]


def pack(value):
    """A value as JSON has it: plain ones as they are, containers as lists that begin with their kind."""
    if value is None or isinstance(value, (int, float, str)):
        return value
    for name, kind in KINDS.items():
        if isinstance(value, kind):
            return [name, *map(pack, value.items() if kind is dict else value)]
    raise TypeError(f"a {type(value).__name__} cannot leave the program: plain values can")


def unpack(value):
    if not isinstance(value, list):
        return value
    return (KINDS | {"set": set})[value[0]](map(unpack, value[1:]))


class Worker(dict):
    """The worker as the global names of the tests. Raises what the program raised."""

    def __init__(self, pid: int, questions: int, answers: int):
        super().__init__(__name__="tests")
        self.pid, self.questions, self.answers = pid, open(questions, "w", buffering=1), open(answers)

    def __missing__(self, name: str):
        if hasattr(builtins, name) or name.startswith("__"):
            raise KeyError(name)
        kind, *value = self.ask(name)
        if kind == "callable":
            return lambda *args, **kwargs: unpack(self.ask(name, pack(args), pack(kwargs))[1])
        return unpack(value[0])

    def ask(self, *question) -> list:
        self.questions.write(json.dumps(question) + "\n")
        return self.hear()

    def hear(self) -> list:
        line = self.answers.readline()
        if not line:
            raise ConnectionError("the program ended itself")
        kind, *value = json.loads(line)
        if kind == "error":
            known = getattr(builtins, value[0], None)
            plain = isinstance(known, type) and issubclass(known, Exception) and known is not StopIteration
            raise (known if plain else RuntimeError)(value[1])      # a StopIteration would end loops of tests
        return [kind, *value]


def judge(rest: int, verdict: int, worker: Worker) -> None:
    secret, tests = json.loads(read_bytes(rest, -1))
    try:
        worker.hear()                                   # the program has run to its end
        exec(compile(tests, "<tests>", "exec"), worker)
        reason = "passed"
    except BaseException as error:
        sys.__excepthook__(type(error), error, error.__traceback__)
        reason = "killed" if isinstance(error, ConnectionError) else "failed"
        reason = "memory" if isinstance(error, MemoryError) else reason
    os.kill(worker.pid, signal.SIGKILL)
    _, status = os.waitpid(worker.pid, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU:
        reason = "timeout"
    os.write(verdict, f"{secret} {reason}".encode())
    os._exit(0)


libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *args) -> None:
    """A function of the C library; OSError where it fails."""
    args = [ctypes.c_ulong(arg) if isinstance(arg, int) else arg for arg in args]
    if getattr(libc, name)(*args) == -1:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def die_with_parent() -> None:
    if sys.platform == "linux":
        call("prctl", SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def enter_namespaces() -> None:
    """Go on as process 1 of namespaces of our own: when it ends, the kernel ends all others there. This
    process waits outside. A root becomes root and nobody inside, anyone else nobody alone; only from outside
    of the new user namespace may that be written, so a child does."""
    uid, gid, parent = os.geteuid(), os.getegid(), os.getpid()
    ready, writer = os.pipe(), os.fork()
    if writer == 0:
        os.close(ready[1])
        os.read(ready[0], 1)
        if uid:
            write(f"/proc/{parent}/setgroups", "deny")
        for name, own in (("uid", uid), ("gid", gid)):
            write(f"/proc/{parent}/{name}_map", f"{NOBODY} {own} 1" if uid else f"0 0 1\n{NOBODY} {NOBODY} 1")
        os._exit(0)
    call("unshare", NAMESPACES)
    os.close(ready[1])
    if os.waitpid(writer, 0)[1]:
        raise PermissionError("user ids cannot be mapped")
    alive = os.pipe()
    if first := os.fork():
        os.close(alive[0])
        os.waitpid(first, 0)
        os._exit(0)
    os.close(alive[1])
    die_with_parent()
    os.set_blocking(alive[0], False)
    with contextlib.suppress(BlockingIOError):          # nothing to read yet: the parent lives
        os._exit(len(os.read(alive[0], 1)))


def write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def enter_root() -> None:
    """A root of what Python needs, read-only, and an empty folder in memory. It is built over /proc, which no
    file of ours is under; what is not in it is unmounted, and a chroot forbids new user namespaces."""
    call("mount", b"none", b"/", None, REC | PRIVATE, None)
    call("mount", b"tmpfs", b"/proc", b"tmpfs", 0, b"size=1m,mode=755")
    os.umask(0o022)
    os.makedirs("/proc/root/tmp")
    for path in ("/usr/lib", "/usr/lib64", "/lib", "/lib64", f"{sys.base_prefix}/lib",
                 f"{sys.base_prefix}/{sys.platlibdir}"):
        inside = "/proc/root" + path
        if not os.path.exists(path) or os.path.lexists(inside):
            continue
        os.makedirs(inside if not os.path.islink(path) else os.path.dirname(inside), exist_ok=True)
        if os.path.islink(path):
            os.symlink(os.readlink(path), inside)
        else:
            call("mount", path.encode(), inside.encode(), None, BIND | REC, None)
    read_only = struct.pack("4Q", 1 | 2 | 4, 0, 0, 0)   # no set-user-id, no devices either
    call("syscall", MOUNT_SETATTR, -100, b"/proc", RECURSIVE, read_only, len(read_only))
    call("mount", b"tmpfs", b"/proc/root/tmp", b"tmpfs", 2 | 4, b"size=%d,nr_inodes=1000,mode=1777" % FOLDER)
    os.chdir("/proc")
    call("pivot_root", b".", b".")
    call("umount2", b".", DETACH)
    os.chroot("/root")
    os.chdir("/tmp")


def drop_privileges() -> None:
    """No capability, no way to one, and no looking into this process by others of the same user."""
    if sys.platform != "linux":
        return
    for capability in range(64):
        libc.prctl(CAPBSET_DROP, capability, 0, 0, 0)   # fails past the last, and who has none needs none
    if os.geteuid() == 0 and os.getpid() == 1:          # root inside; without namespaces, root stays itself
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    call("capset", struct.pack("Ii", 0x20080522, 0), bytes(24))
    call("prctl", SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call("prctl", SET_DUMPABLE, 0, 0, 0, 0)
    die_with_parent()                                   # a new user id has forgotten it


def set_limits(seconds: int, memory: int) -> None:
    limits = {"CPU": seconds, "AS": memory, "FSIZE": FOLDER, "NOFILE": 64, "NPROC": 32, "CORE": 0}
    for name, amount in limits.items():
        with contextlib.suppress(ValueError, OSError):  # a lower one is in force; macOS knows no AS
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (amount, amount))


def deny_system_calls() -> None:
    """A filter for the rest of this process's life. Threads are let through, other processes are not."""
    def step(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
        return struct.pack("HBBI", code, then, otherwise, value)

    column, machine, clone = MACHINES[os.uname().machine]
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, refuse, unknown, kill = (step(give, value) for value in (0x7FFF0000, 0x50001, 0x50026, 0x80000000))
    steps = [step(load, 4), step(equal, machine, 1, 0), kill, step(load, 0),
             step(at_least, 0x40000000, 0, 1), unknown]             # x86-64 has each call twice
    for numbers in DENIED.values():
        if numbers[column] is not None:
            steps += [step(equal, numbers[column], 0, 1), refuse]
    steps += [step(equal, CLONE3, 0, 1), unknown,                   # unseen flags: let it be clone
              step(equal, clone, 1, 0), allow,
              step(load, 16), step(any_bit, CLONE_THREAD, 1, 0), refuse, allow]
    program = ctypes.create_string_buffer(b"".join(steps))
    call("prctl", SET_SECCOMP, 2, struct.pack("@HP", len(steps), ctypes.addressof(program)), 0, 0)


if __name__ == "__main__":
    main()
