"""A stage of a model's life (base, mid, sft, ...): ranks, device, seed, where its files go, and its run log.

Everything is logged once, as data: `stage.log(...)` appends a JSON object to models/<tag>/<stage>.jsonl,
prints a line, and feeds wandb when --run names a run. Reports and sweeps read the JSONL alone."""
import argparse
import math
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
import torch
from nanochat.common import DTYPES, RunLog, base_dir, compute_dtype, die, keep_freed_memory
from nanochat.dist import World, close_world, open_world
from nanochat.hardware import peaks

NEW_MODEL = "name of the model's folder under models/ (default: d<depth>)"

def add_stage_arguments(parser: argparse.ArgumentParser, model_tag: str = NEW_MODEL) -> None:
    """The flags that every stage has. `model_tag`: help of that flag, where it does not name a new model."""
    add = parser.add_argument_group("run").add_argument
    add("--run", default="dummy", help="wandb run name; 'dummy' logs to the JSONL file alone")
    add("--model-tag", help=model_tag)
    add("--device", help="cuda, mps or cpu (default: the best one here)")
    add("--dtype", choices=DTYPES, help="of activations (default: $NANOCHAT_DTYPE, else that of the "
        "checkpoint it starts from, else the faster one here)")
    add("--seed", type=int, default=42)

def model_dir(tag: str) -> Path:
    """Where everything of one model lives: one folder of checkpoints and one JSONL log per stage."""
    if not tag or "/" in tag or tag.startswith("."):
        die(f"--model-tag is {tag!r}, must be a plain folder name", hint="--model-tag=d12")
    return base_dir() / "models" / tag

class Stage:
    """What a running stage knows. Made by open_stage."""
    def __init__(self, name: str, tag: str, world: World, args: argparse.Namespace,
                 saved_dtype: str | None = None):
        self.name, self.tag, self.world, self.args, self.device = name, tag, world, args, world.device
        self.dtype = world.broadcast_object(compute_dtype(self.device, args.dtype, saved_dtype))
        self.dtype_name = str(self.dtype).removeprefix("torch.")
        self.device_name = device_name(self.device)
        peak = peaks(self.device_name)
        self.peak_flops = peak[0] * world.size if peak else None      # of all ranks, where it is known
        on_gpu = self.device.type == "cuda"
        self.memory = torch.cuda.get_device_properties(self.device).total_memory if on_gpu else math.inf
        self.directory, self.log_file = model_dir(tag) / name, RunLog(model_dir(tag) / f"{name}.jsonl")
        self.started = time.perf_counter()
        self.stop_signal = 0                                          # of SIGINT or SIGTERM, once one came
        self._handlers, self._wandb = {}, None

    @property
    def compiles(self) -> bool:
        """Whether torch.compile is used: as --compile says, else on a GPU. On two CPU cores it takes over a
        minute and then gains 10% (measured, dev/LOG.md), which runs of minutes never earn back."""
        asked = vars(self.args).get("compile")
        return self.device.type == "cuda" if asked is None else asked

    def print(self, text: str = "") -> None:
        """Print on rank 0 only."""
        if self.world.is_main:
            print(text, flush=True)

    def log(self, line: str = "", **fields) -> None:
        """A record to the JSONL and wandb, and `line` to the terminal, if there is one; on rank 0."""
        if not self.world.is_main:
            return
        self.log_file.write(stage=self.name, seconds=round(time.perf_counter() - self.started, 2), **fields)
        if line:
            print(line, flush=True)
        if self._wandb:
            self._wandb.log({key: value for key, value in fields.items() if isinstance(value, (int, float))})

    def agree(self, data: str) -> None:
        """Die unless all ranks found the same data: they would wait for each other for ever."""
        found = self.world.gather_objects(data)
        if len(set(found)) > 1:
            die(f"rank {self.world.rank} has {data}; others have {' and '.join(set(found) - {data})}",
                hint="have the sets of the hub in the cache first, or in a folder for --task-data")

    def begin(self, about: str = "", **facts) -> None:
        """First record of a run: arguments, code, machine, versions, `facts` that the stage derived. Where
        it is told what the run is `about`, a line with that and the machine."""
        if self.world.is_main and self.args.run != "dummy":
            try:
                import wandb
                self._wandb = wandb.init(project=f"nanochat-{self.name}", name=self.args.run,
                                         config=vars(self.args))
            except Exception as error:                                # not there, not logged in, no network
                print(f"wandb is off, the JSONL log goes on: {error}", file=sys.stderr)
        line = f"{self.device_name} | {self.world} | {self.dtype_name} | {about}" if about else ""
        self.log(line, event="begin", time=time.time(), argv=sys.argv, args=vars(self.args),
                 git=git("rev-parse HEAD") or None, device=self.device_name, world_size=self.world.size,
                 dtype=self.dtype_name, python=platform.python_version(), torch=torch.__version__, **facts)

    def catch_signals(self) -> None:
        """From now SIGINT and SIGTERM ask the training loop to save and stop; a second Ctrl-C is at once."""
        self._handlers = {number: signal.signal(number, self._request_stop)
                          for number in (signal.SIGINT, signal.SIGTERM)}

    def _request_stop(self, signum: int, _frame) -> None:
        if self.stop_signal and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.stop_signal = signum
        self.print(f"\n{signal.Signals(signum).name}: finishing this step, then saving")

    def close(self) -> None:
        """Signals as before, and the last record of a run: its time, and its peak memory in bytes."""
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)
        self.log(event="end", peak_memory=peak_memory(self.device))
        if self._wandb:
            self._wandb.finish()

@contextmanager
def open_stage(name: str, args: argparse.Namespace, tag: str,
               saved_dtype: str | None = None) -> Iterator[Stage]:
    """Join the ranks, seed, and leave cleanly whatever happens. A stage that a signal stopped ends the
    program with the usual 128 + signal, so that a script of several stages stops too."""
    keep_freed_memory()
    model_dir(tag)                                                    # a bad tag dies before anything starts
    world = open_world(args.device)
    torch.manual_seed(args.seed)
    if world.device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    stage = Stage(name, tag, world, args, saved_dtype)
    try:
        try:
            yield stage
        except torch.OutOfMemoryError as error:
            flag = "--batch-size" if "batch_size" in args else "--device-batch-size"
            die(f"{stage.device_name} ran out of memory: {str(error).splitlines()[0]}", f"lower {flag}")
        world.barrier()                                               # who leaves first, cuts the others off
    except BaseException as error:
        stage.close()
        world.abort(error)
        raise
    stage.close()
    close_world()
    if stage.stop_signal:
        raise SystemExit(128 + stage.stop_signal)

def git(command: str) -> str:
    """What git says in this repository; nothing where there is no git, or this is none."""
    return subprocess.run(f"git {command}", shell=True, cwd=Path(__file__).parent.parent,
                          capture_output=True, text=True).stdout.strip()

def peak_memory(device: torch.device) -> int:
    """Bytes that this process has had at most: of a GPU's memory, else of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

def device_name(device: torch.device) -> str:
    """As its driver calls it, or its maker."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")                         # Linux
    found = re.search(r"^model name\s*: (.+)$", info.read_text() if info.exists() else "", re.M)
    return f"{found[1] if found else platform.machine()} ({os.cpu_count()} cores)"
