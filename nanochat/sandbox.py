"""The inside of execution.py, which starts it as a script, once per program: it locks itself in, then becomes
two processes. The worker runs the model's program and answers calls of its functions, one line of JSON each.
The tester runs the tests; a name that neither they nor Python define is asked for in the worker. So no model
code runs where the tests, the verdict and its secret are: all that it can do is answer, in copies of Python's
own kinds of values (None, bool, int, float, str, bytes, list, tuple, set, dict; subclasses arrive as these).

The walls, each used where execution.py found that it holds: namespaces, in which it starts (here they get a
root of Python's own files, read-only; no /proc, no /dev; an empty folder in memory; Linux 5.12), seccomp (one
process, no sockets, no signals, no looking into others; by libseccomp, as most Linux systems have it), and
limits of the kernel. The standard library alone."""
import builtins
import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import struct
import sys
from collections.abc import Set

NOBODY = 65534
FOLDER = 16 * 2 ** 20                                   # bytes of all files, and of any one
KINDS = {"list": list, "tuple": tuple, "set": Set, "dict": dict, "bytes": bytes}       # as values travel
BIND, REC, DETACH = 4096, 16384, 2                      # of mount and umount2
SET_PDEATHSIG, SET_DUMPABLE, SET_NO_NEW_PRIVS = 1, 4, 38                    # of prctl
MOUNT_SETATTR, RECURSIVE = 442, 0x8000                  # a system call that the C library has no name for

# System calls that a program does without: those that make processes or threads, reach others or a network,
# gain privileges, or get memory that no limit counts.
DENIED = """fork vfork execve execveat setsid setpgid unshare setns socket io_uring_setup bpf userfaultfd kill
tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_open pidfd_send_signal ptrace process_vm_readv
process_vm_writev prlimit64 perf_event_open kcmp keyctl add_key request_key shmget msgget semget mq_open
memfd_create memfd_secret clone clone3"""
ALLOW, REFUSE = 0x7FFF0000, 0x50001                     # answers of a filter; EPERM

def main() -> None:
    """argv: the job as JSON. Standard input: the program, then the secret and the tests as JSON."""
    job = json.loads(sys.argv[1])
    prctl(SET_PDEATHSIG, signal.SIGKILL)
    if select.select([1], [], [], 0)[0]:                # nobody reads the verdict: they died before that line
        os._exit(1)
    program = os.read(0, job["size"]).decode(errors="surrogatepass")
    rest, verdict = os.dup(0), os.dup(1)                # the rest is read when the worker is on its own
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)        # process 1 gets no signal that it has no handler for
    if "namespaces" in job["walls"]:
        enter_root()
    drop_privileges()
    questions, answers = os.pipe(), os.pipe()
    worker = os.fork()
    set_limits(job["seconds"], job["memory"])           # now: others of the user may be more than may be here
    if worker == 0:
        serve(program, questions[0], answers[1], "seccomp" in job["walls"])
    os.close(questions[0])
    os.close(answers[1])
    judge(rest, verdict, Worker(questions[1], answers[0]))

def serve(program: str, questions: int, answers: int, deny: bool) -> None:
    """Run the program, then answer for its names for as long as somebody asks."""
    prctl(SET_PDEATHSIG, signal.SIGKILL)
    os.dup2(questions, 3)                               # pipes are numbered above: two files were open before
    os.dup2(answers, 4)
    os.closerange(5, 1024)
    if deny:
        deny_system_calls()
    names = {"__name__": "program"}
    with open(3) as asked, open(4, "w", buffering=1) as answer:
        answer.write(attempt(exec, program, names))
        for line in asked:
            answer.write(attempt(respond, names, *json.loads(line)))
    os._exit(0)

def attempt(function, *args) -> str:
    """What the function returns, or the exception, as a line of JSON."""
    try:
        return json.dumps(function(*args)) + "\n"
    except BaseException as error:                      # SystemExit is an answer like any other
        sys.__excepthook__(type(error), error, error.__traceback__)
        return json.dumps(["error", f"{type(error).__name__}: {error}"[:1000]]) + "\n"

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
    """The worker as the global names of the tests. RuntimeError where the program raised anything."""
    def __init__(self, questions: int, answers: int):
        super().__init__(__name__="tests")
        self.questions, self.answers = open(questions, "w", buffering=1), open(answers)

    def __missing__(self, name: str):
        if hasattr(builtins, name) or name.startswith("__"):
            raise KeyError(name)
        kind, *value = self.ask(name)
        if kind == "callable":
            return lambda *args, **kwargs: unpack(self.ask(name, pack(args), pack(kwargs))[1])
        return unpack(value[0])

    def ask(self, *question) -> list | None:
        """The answer; without a question, wait until the program has run to its end."""
        if question:
            self.questions.write(json.dumps(question) + "\n")
        line = self.answers.readline()
        if not line:
            raise ConnectionError("the program ended itself")
        answer = json.loads(line)
        if answer and answer[0] == "error":
            raise RuntimeError(answer[1])
        return answer

def judge(rest: int, verdict: int, worker: Worker) -> None:
    with open(rest) as file:
        secret, tests = json.load(file)
    try:
        worker.ask()
        exec(tests, worker)
        reason = "passed"
    except BaseException as error:
        sys.__excepthook__(type(error), error, error.__traceback__)
        reason = "killed" if isinstance(error, ConnectionError) else "failed"
    os.write(verdict, f"{secret} {reason}".encode())
    os._exit(0)

libc = ctypes.CDLL(None, use_errno=True)

def call(name: str, *args) -> int:
    """A function of the C library; OSError where it fails."""
    result = getattr(libc, name)(*(ctypes.c_ulong(arg) if isinstance(arg, int) else arg for arg in args))
    if result == -1:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    return result

def prctl(option: int, value: int) -> None:
    """Where there is one: on Linux."""
    if sys.platform == "linux":
        call("prctl", option, value, 0, 0, 0)

def enter_root() -> None:
    """A root of what Python needs, read-only, and an empty folder in memory. It is built over /proc, which no
    file of ours is under; what is not in it is unmounted, and a chroot forbids new user namespaces."""
    call("mount", b"tmpfs", b"/proc", b"tmpfs", 0, b"size=1m,mode=755")
    os.umask(0o022)
    os.makedirs("/proc/root/tmp")
    for path in ("/usr/lib", "/usr/lib64", "/lib", "/lib64", f"{sys.base_prefix}/lib",
                 f"{sys.base_prefix}/{sys.platlibdir}"):
        inside = "/proc/root" + path
        if os.path.exists(path) and not os.path.exists(inside):
            os.makedirs(inside)
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
    if os.geteuid() == 0 and os.getpid() == 1:          # without namespaces, root stays itself
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    if sys.platform == "linux":
        call("capset", struct.pack("Ii", 0x20080522, 0), bytes(24))
    prctl(SET_NO_NEW_PRIVS, 1)
    prctl(SET_DUMPABLE, 0)
    prctl(SET_PDEATHSIG, signal.SIGKILL)                # a new user id has forgotten it

def set_limits(seconds: int, memory: int) -> None:
    limits = {"CPU": seconds, "AS": memory, "FSIZE": FOLDER, "NOFILE": 64, "NPROC": 32, "CORE": 0}
    for name, amount in limits.items():
        with contextlib.suppress(ValueError, OSError):  # a lower one is in force; macOS knows no AS
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (amount, amount))

def deny_system_calls() -> None:
    """A filter for the rest of this process's life."""
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    rules = ctypes.c_void_p(library.seccomp_init(ALLOW))
    for name in DENIED.split():
        number = library.seccomp_syscall_resolve_name(name.encode())    # one that is too new is left out
        library.seccomp_rule_add_array(rules, REFUSE, number, 0, None)
    if library.seccomp_load(rules):
        raise OSError("no filter of system calls can be loaded")

if __name__ == "__main__":
    main()
