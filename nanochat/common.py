"""What every file needs: where things live, how to stop with one clear line, how to write a file so that it
is there whole or not at all, how to log. Imports nothing from the project, and torch only for dtypes."""
import argparse
import contextlib
import ctypes
import hashlib
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

def base_dir() -> Path:
    """Folder of all that is made: data, tokenizer, models, logs. $NANOCHAT_BASE_DIR or ~/.cache/nanochat."""
    path = Path(os.environ.get("NANOCHAT_BASE_DIR") or Path.home() / ".cache" / "nanochat").expanduser()
    path.mkdir(parents=True, exist_ok=True)
    return path

def die(message: str, hint: str | None = None) -> NoReturn:
    """Stop with exit code 2: one line that names the values and the rule, and a hint what to do instead."""
    print(f"error: {message}" + (f"\n  hint: {hint}" if hint else ""), file=sys.stderr, flush=True)
    raise SystemExit(2)

def require_positive(args: argparse.Namespace, *names: str) -> None:
    """Die where a flag of these names is given and is less than 1."""
    for name in names:
        value = getattr(args, name)
        if value is not None and value < 1:
            die(f"--{name.replace('_', '-')} is {value}, must be at least 1")

def atomic_write(path: Path, data: str | bytes) -> None:
    """Write `data` so that a reader sees the old file or the whole new one, whatever is killed when."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)

def sha256(source: Path | bytes) -> str:
    """Hex digest of a file's content, or of the bytes themselves."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with open(source, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

def new_parser(doc: str) -> argparse.ArgumentParser:
    """A parser that shows a script's own docstring as it is written."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)

@dataclass
class RunLog:
    """Append-only JSON lines. A line that was cut off by a crash is skipped when reading."""
    path: Path

    def write(self, **fields) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(fields, default=str) + "\n")               # paths become text

    def read(self) -> list[dict]:
        text, records = self.path.read_text(encoding="utf-8") if self.path.exists() else "", []
        for line in text.splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                records.append(json.loads(line))
        return records

DTYPES = ("float32", "bfloat16")

def compute_dtype(device, asked: str | None = None, saved: str | None = None):
    """The torch.dtype that activations are computed in: what a flag asks for, else $NANOCHAT_DTYPE, else what
    the checkpoint at hand was `saved` with, else the faster one here: bfloat16 on GPUs that multiply it
    natively (compute capability 8.0; older ones emulate it), and on CPUs where a matmul, tried here, is
    faster in it. Checkpoints keep what came out, as the trial can come out otherwise next time."""
    import torch
    wanted = asked or os.environ.get("NANOCHAT_DTYPE") or saved
    if wanted:
        if wanted not in DTYPES:
            die(f"NANOCHAT_DTYPE is {wanted!r}, must be one of {', '.join(DTYPES)}",
                hint="leave it unset to choose by speed")
        return getattr(torch, wanted)
    native = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    faster = native or (device.type == "cpu" and _bfloat16_gain() > 1.5)
    return torch.bfloat16 if faster else torch.float32

def _bfloat16_gain() -> float:
    """How many times faster than in float32 a matmul of a small model's size is, at best of several tries."""
    import torch
    times = {torch.float32: [], torch.bfloat16: []}
    for _ in range(12):
        for dtype, seconds in times.items():
            a, b = torch.ones(2048, 256, dtype=dtype), torch.ones(256, 1024, dtype=dtype)
            start = time.perf_counter()
            a @ b
            seconds.append(time.perf_counter() - start)
    return min(times[torch.float32]) / min(times[torch.bfloat16])

def keep_freed_memory() -> None:
    """Tell glibc, where it is there, to reuse large freed blocks rather than hand them back to the kernel,
    which would have to zero and map them again at every step: training on CPU is up to twice as fast."""
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(M_MMAP_THRESHOLD, 2 ** 30)
        mallopt(M_TRIM_THRESHOLD, 2 ** 31 - 1)
