"""
Every download from a Hugging Face hub: files of a repository, whole and checked, or not under their names.

Thin over huggingface_hub, which `datasets` brings: addresses, tokens, connections and errors are its own.
What it does not do is here: compare digests, and continue what a run that was cut off had got. It is imported
where it is used: a machine that has its data needs neither it nor a network. Used by dataset.py.
"""

import errno
import fcntl
import hashlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.common import die, sha256

THREADS = 8
TRIES = 5                           # failures in a row, no byte in between, after which a file is given up
TIMEOUT = 30                        # seconds without an answer or a byte
EVERY = 30                          # seconds between lines of progress; in a terminal one line moves instead
OFFLINE = ("1", "ON", "YES", "TRUE")


class Refusal(OSError):
    """Asking again will not change the answer."""
    hint: str | None = None


@dataclass
class Transfer:
    """A file on its way to `path`, read into a part whose name tells the content: only that continues it."""
    name: str                       # in the repository
    path: Path
    url: str
    headers: dict[str, str]
    stop: threading.Event
    size: int = 0                   # bytes, as the hub tells
    etag: str = ""                  # the sha256 of a large file, git's digest of a small one
    done: int = 0                   # bytes that are here
    came: int = 0                   # bytes that this run has read

    def look(self) -> None:
        """Ask the hub for size and digest."""
        from huggingface_hub import get_hf_file_metadata
        found = get_hf_file_metadata(self.url, headers=self.headers, timeout=TIMEOUT)
        if found.size is None or not found.etag:
            raise Refusal(f"{self.url} is answered without size and digest: that is no Hugging Face hub")
        self.size, self.etag = found.size, found.etag
        self.part = self.path.with_name(f".{self.path.name}.{sha256(self.etag.encode())[:8]}.part")
        here = sum(path.stat().st_size for path in (self.path, self.part) if path.exists())
        self.done = min(here, self.size)

    def fetch(self) -> str:
        """Have the file under its name. Returns its sha256."""
        digest = self.check(self.path) if self.path.exists() else None      # an earlier run got it
        if digest is None:
            self.append()
            digest = self.check(self.part)
            if digest is None:
                self.part.unlink()                      # no byte of it can be trusted
                raise OSError(f"what came is not the content with digest {self.etag}")
            os.replace(self.part, self.path)
        self.done = self.size
        return digest

    def append(self) -> None:
        """Read into the part what it lacks."""
        from huggingface_hub.utils import get_session, hf_raise_for_status
        with open(self.part, "ab") as part:
            self.done = part.tell()
            if self.done == self.size:
                return
            headers = self.headers | {"Range": f"bytes={self.done}-"} if self.done else self.headers
            with get_session().stream("GET", self.url, headers=headers, timeout=TIMEOUT) as answer:
                hf_raise_for_status(answer)
                if answer.status_code != 206:           # a server that knows no ranges sends everything
                    self.done = 0
                length = int(answer.headers.get("Content-Length", self.size - self.done))
                if length != self.size - self.done:     # somebody in between sends a page of his own
                    raise OSError(f"{length:,} bytes are offered where {self.size - self.done:,} are missing")
                part.truncate(self.done)
                for block in answer.iter_bytes():
                    if self.stop.is_set():
                        raise Refusal("stopped")
                    part.write(block)
                    self.done += len(block)
                    self.came += len(block)

    def check(self, path: Path) -> str | None:
        """The sha256 of a file that is the hub's, else None. A mirror's own kind of etag tells nothing."""
        if path.stat().st_size != self.size:
            return None
        digest = told = sha256(path)
        if len(self.etag) == 40:                        # git's, of files below 10 MB
            told = hashlib.sha1(b"blob %d\0" % self.size + path.read_bytes()).hexdigest()
        return digest if told == self.etag or len(self.etag) not in (40, 64) else None


def download(repository: str, files: dict[str, str], folder: Path, repo_type: str = "dataset",
             revision: str = "main", progress: Callable[[str], None] = print) -> dict[str, str]:
    """
    Fetch `files` (name in the repository -> name in `folder`), eight at once. Returns the latter -> sha256.
    A file that is there already and is the hub's is kept. HF_ENDPOINT and HF_TOKEN are read at each call.
    Exits with code 2 if one cannot be had; what has come stays, and the next call continues it.
    """
    lack = f"{folder} lacks {len(files)} of the files of {repository}"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in OFFLINE:
        die(f"{lack}, and HF_HUB_OFFLINE is set", hint="unset it, or copy them from a machine that has them")
    try:
        from huggingface_hub import constants, hf_hub_url, logging
        from huggingface_hub.utils import build_hf_headers
    except ModuleNotFoundError:
        die(f"{lack}, and huggingface_hub, which fetches them, is not installed", hint="uv sync installs it")
    constants.HF_HUB_DISABLE_TELEMETRY = True           # else headers tell more, after a request of their own
    logging.set_verbosity_error()

    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
    folder.mkdir(parents=True, exist_ok=True)
    headers = build_hf_headers(library_name="nanochat") | {"Accept-Encoding": "identity"}
    stop = threading.Event()
    transfers = [Transfer(name, folder / local, hf_hub_url(
        repository, name, repo_type=repo_type, revision=revision, endpoint=endpoint), headers, stop)
        for name, local in files.items()]
    with open(folder / ".download.lock", "w") as lock, ThreadPoolExecutor(THREADS) as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)                # two writers of one part would spoil it
        try:
            list(pool.map(lambda transfer: _persist(transfer, transfer.look), transfers))
            missing = sum(transfer.size - transfer.done for transfer in transfers)
            if missing > (free := shutil.disk_usage(folder).free):
                die(f"{repository}: {missing / 1e6:,.0f} MB to fetch, {free / 1e6:,.0f} MB free in {folder}",
                    hint="NANOCHAT_BASE_DIR names a folder on another disk")
            jobs = [pool.submit(_persist, transfer, transfer.fetch) for transfer in transfers]
            _watch(repository, transfers, jobs, progress)
            return {local: job.result() for local, job in zip(files.values(), jobs)}
        except OSError as error:
            again = f"run it again: what has come is kept. HF_ENDPOINT, now {endpoint}, names another server"
            die(f"{repository}: {error}", hint=getattr(error, "hint", None) or again)
        finally:
            stop.set()                                  # a failure or Ctrl-C ends the other transfers too
            pool.shutdown(cancel_futures=True)


def _persist(transfer: Transfer, step: Callable[[], Any]) -> Any:
    """`step()`, again after faults that may pass. Raises OSError after TRIES of them, or Refusal at once."""
    from huggingface_hub.errors import HTTPError
    failures = 0
    while True:
        before = transfer.done
        try:
            return step()
        except Refusal:
            raise
        except (OSError, HTTPError) as error:
            answer = getattr(error, "response", None)
            status = answer.status_code if answer is not None else 0
            reason = f"{status} {answer.reason_phrase}, {transfer.url}" if status else _first_line(error)
            full = getattr(error, "errno", 0) == errno.ENOSPC
            if full or (400 <= status < 500 and status not in (408, 429)):
                refusal = Refusal(f"{transfer.name}: {reason}")
                if status in (401, 403):
                    page = transfer.url.partition("/resolve/")[0]
                    refusal.hint = f"set HF_TOKEN, and accept the terms on {page}"
                raise refusal from error
            failures = 1 if transfer.done > before else failures + 1
            if failures >= TRIES:
                raise OSError(f"{transfer.name}: {reason} ({TRIES} tries)") from error
        if transfer.stop.wait(_pause(failures, answer)):
            raise Refusal("stopped")


def _pause(failures: int, answer: Any) -> float:
    """Seconds to wait: 2, 4, 8, ... or what a server that is asked too often says, five minutes at most."""
    from huggingface_hub.utils import parse_ratelimit_headers
    told = answer.headers.get("Retry-After", "") if answer is not None else ""
    limit = parse_ratelimit_headers(answer.headers) if answer is not None else None
    seconds = int(told) if told.isdecimal() else 0
    if limit is not None and limit.remaining == 0:
        seconds = limit.reset_in_seconds + 1
    return min(max(2.0**failures, seconds), 300)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _watch(repository: str, transfers: list[Transfer], jobs: list[Future],
           progress: Callable[[str], None]) -> None:
    """Wait for the jobs, and say how far they are. Raises what the first that failed did."""
    start, lines, pending, moves = time.monotonic(), 0, set(jobs), sys.stderr.isatty()
    total = sum(transfer.size for transfer in transfers)
    try:
        while pending:
            finished, pending = wait(pending, timeout=0.5, return_when=FIRST_EXCEPTION)
            for job in finished:
                job.result()
            seconds, done = time.monotonic() - start, sum(transfer.done for transfer in transfers)
            rate = sum(transfer.came for transfer in transfers) / seconds
            left = f"{(total - done) / max(rate, 1):,.0f} s left" if pending else f"{seconds:.0f} s"
            line = (f"{repository}: {len(jobs) - len(pending)} of {len(jobs)} files, {done / 1e6:,.0f} of "
                    f"{total / 1e6:,.0f} MB, {rate / 1e6:.1f} MB/s, {left}")
            if pending and moves:
                print(f"\r{line}\033[K", end="", file=sys.stderr, flush=True)
            elif pending and seconds > EVERY * (lines + 1):
                progress(line)
                lines += 1
    finally:
        if moves:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
    progress(line)
