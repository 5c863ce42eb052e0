"""
`python -m module ...` in forks of a process that has loaded torch: a start takes hundredths of a second, not
seconds, and run scripts have dozens. `serving` starts that process and yields a bash function `python`, by
which this file asks it for a command, to be run with the streams, folder and environment of who asks.
"""

import json
import os
import socket
import sys

def serving(folder):
    """A context: the function, or "" where torch does not outlive a fork."""
    from contextlib import contextmanager, nullcontext
    from subprocess import PIPE, Popen

    @contextmanager
    def server():
        path = folder / "socket"
        with Popen([sys.executable, __file__, path], stdout=PIPE) as process:
            try:
                assert process.stdout.readline() == b"ready\n"
                yield f'python() {{ command python -S "{__file__}" "{path}" "$@"; }}; export -f python; '
            finally:
                process.kill()
    return server() if sys.platform == "linux" else nullcontext("")


def ask(path: str, argv: list[str]) -> int:
    """Exit code of a command."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        request = json.dumps([argv, os.getcwd(), dict(os.environ)]).encode()
        socket.send_fds(server, [len(request).to_bytes(4, "big")], [0, 1, 2])
        server.sendall(request)
        return (server.recv(1) or b"\1")[0]             # one that was killed sends nothing


def serve(path: str) -> None:
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    import nanochat  # noqa: F401, isort: skip. Before torch, as in every command
    import pyarrow.parquet  # noqa: F401
    import tiktoken  # noqa: F401
    import torch._dynamo  # noqa: F401
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(16)
        print("ready", flush=True)
        while True:
            client, _ = server.accept()
            if os.fork() == 0:
                answer(client)
            client.close()


def answer(client: socket.socket) -> None:
    """Become the command that was asked for, and tell its exit code."""
    size, streams, *_ = socket.recv_fds(client, 4, 3)
    with client.makefile("rb") as file:
        argv, folder, environment = json.loads(file.read(int.from_bytes(size, "big")))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    code = run(argv)
    sys.stdout.flush()
    sys.stderr.flush()
    client.sendall(bytes([code]))
    os._exit(code)


def run(argv: list[str]) -> int:
    import runpy
    import traceback
    try:
        if argv[0] == "-c":
            exec(argv[1], {"__name__": "__main__"})
        else:
            sys.argv = argv[1:]
            runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    path, *argv = sys.argv[1:]
    if argv:
        sys.exit(ask(path, argv))
    serve(path)
