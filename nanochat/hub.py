"""
Every download from a Hugging Face hub: files of a repository, whole and checked, or not under their names.

Thin over huggingface_hub: addresses, tokens, connections, cut or not, are its own. What it does not do is
here: compare digests, continue an earlier run, outlast the faults of a server. It is imported where it is
used: a machine that has its data needs neither it nor a network. Used by dataset.py and core_eval.py.
"""

import fcntl
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event

from nanochat.common import die, sha256

THREADS = 8
TRIES = 5                           # failures in a row, no new byte in between: then a file is given up
EVERY = 30                          # seconds between lines of progress; in a terminal one line moves instead
CHUNK = 2**16                       # bytes that come at once: a cut loses so many, and Ctrl-C waits for them
ELSEWHERE = "NANOCHAT_BASE_DIR names a folder on another disk"


class Lost(Exception):
    """A file cannot be had: (reason, hint)."""


@dataclass
class File:
    """A file on its way to `path`, through a part whose name tells the content: only that continues it."""
    url: str
    path: Path
    headers: dict[str, str]
    stop: Event
    size: int = 0                   # bytes, as the hub tells
    etag: str = ""                  # the sha256 of a large file, git's digest of a small one

    @property
    def part(self) -> Path:
        return self.path.with_name(f".{self.path.name}.{sha256(self.etag.encode())[:8]}.part")

    @property
    def done(self) -> int:
        """Bytes that are here, asked while a part may become the file."""
        for path in (self.part, self.path):
            with suppress(FileNotFoundError):
                return path.stat().st_size
        return 0

    def look(self) -> None:
        """Ask the hub for size and digest."""
        from huggingface_hub import get_hf_file_metadata
        found = get_hf_file_metadata(self.url, headers=self.headers, token=False)   # the headers have it
        if found.size is None or not found.etag:
            raise Lost(f"{self.url} is answered without size and digest", "HF_ENDPOINT must name a hub")
        self.size, self.etag = found.size, found.etag

    def fetch(self) -> str:
        """Have the file under its name. Returns its sha256."""
        from huggingface_hub.file_download import http_get
        if digest := self.check(self.path):             # an earlier run got it
            return digest
        with open(self.part, "ab") as part:
            if part.tell() < self.size:
                http_get(self.url, part, resume_size=part.tell(), headers=self.headers,
                         expected_size=self.size, tqdm_class=lambda **_: nullcontext(self))
        digest = self.check(self.part)
        if digest is None:
            self.part.unlink()                          # no byte of it can be trusted
            raise OSError(f"what came is not the content with digest {self.etag}")
        os.replace(self.part, self.path)
        return digest

    def update(self, _count: int) -> None:
        """http_get, which takes this for its progress bar, calls it for every CHUNK."""
        if self.stop.is_set():
            raise Lost("stopped", "")

    def check(self, path: Path) -> str | None:
        """The sha256 of a file that is the hub's, else None. A mirror's own kind of etag tells nothing."""
        if not path.exists() or path.stat().st_size != self.size:
            return None
        digest = told = sha256(path)
        if len(self.etag) == 40:                        # git's, of files below 10 MB
            told = hashlib.sha1(b"blob %d\0" % self.size + path.read_bytes()).hexdigest()
        return digest if told == self.etag or len(self.etag) not in (40, 64) else None


def download(repository: str, files: dict[str, str], folder: Path, site: str | None = None,
             progress: Callable[[str], None] = print) -> dict[str, str]:
    """
    Fetch `files` (name in the data set -> name in `folder`), eight at once. Returns the latter -> sha256.
    A file that is there already and is the hub's is kept. HF_ENDPOINT and HF_TOKEN are read at each call.
    Exits with code 2 if one cannot be had; what has come stays, and the next call continues it. With `site`,
    an address that is no hub, the files lie directly below it, and no token goes there.
    """
    lack = f"{folder} lacks {len(files)} of the files of {repository}"
    try:
        from huggingface_hub import constants, hf_hub_url, logging
        from huggingface_hub.utils import build_hf_headers
    except ModuleNotFoundError:
        die(f"{lack}, and huggingface_hub, which fetches them, is not installed", hint="uv sync installs it")
    if constants.HF_HUB_OFFLINE:
        die(f"{lack}, and HF_HUB_OFFLINE is set", hint="unset it, or copy them from a machine that has them")
    constants.HF_HUB_DISABLE_TELEMETRY = True           # else headers tell more, after a request of their own
    constants.DOWNLOAD_CHUNK_SIZE = CHUNK
    logging.set_verbosity_error()

    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
    address = partial(hf_hub_url, repository, repo_type="dataset", endpoint=endpoint)
    headers = build_hf_headers(library_name="nanochat", token=False if site else None)
    headers["Accept-Encoding"], stop = "identity", Event()
    wanted = [File(f"{site}/{name}" if site else address(name), folder / local, headers, stop)
              for name, local in files.items()]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".download.lock", "w") as lock, ThreadPoolExecutor(THREADS) as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)                # two writers of one part would spoil it
        try:
            list(pool.map(lambda file: _persist(file, file.look), wanted))
            missing, free = sum(file.size - file.done for file in wanted), shutil.disk_usage(folder).free
            if missing > free:
                raise Lost(f"{missing / 1e6:,.0f} MB to fetch, {free / 1e6:,.0f} MB free in {folder}",
                           ELSEWHERE)
            jobs = [pool.submit(_persist, file, file.fetch) for file in wanted]
            _watch(repository, wanted, jobs, progress)
            return {local: job.result() for local, job in zip(files.values(), jobs, strict=True)}
        except Lost as lost:
            die(f"{repository}: {lost.args[0]}", hint=lost.args[1])
        finally:
            stop.set()                                  # a failure or Ctrl-C ends the other transfers too
            pool.shutdown(cancel_futures=True)


def _persist(file: File, step: Callable[[], str | None]) -> str | None:
    """`step()`, again after faults that may pass: in 2, 4, 8, ... seconds, or when a busy hub says."""
    from huggingface_hub.errors import HTTPError
    failures, most = 0, file.done
    while True:
        try:
            return step()
        except (OSError, HTTPError) as error:
            failures = 1 if file.done > most else failures + 1          # the same bytes again are no progress
            most = max(most, file.done)
            seconds = _pause(file.url, error, failures)
        if file.stop.wait(seconds):
            raise Lost("stopped", "")


def _pause(url: str, error: Exception, failures: int) -> float:
    """Seconds until the next try. Raises Lost if there is to be none."""
    from huggingface_hub.utils import parse_ratelimit_headers
    answer = getattr(error, "response", None)
    status = getattr(answer, "status_code", 0)
    own = getattr(error, "errno", None)                 # this machine's, like a full disk
    reason = f"{status} {answer.reason_phrase}" if status else (str(error) or repr(error)).splitlines()[0]
    hint = "run it again: what has come is kept. HF_ENDPOINT names another server"
    if status in (401, 403):
        hint = f"set HF_TOKEN, and accept the terms on {url.partition('/resolve/')[0]}"
    elif own:
        hint = ELSEWHERE
    if failures == TRIES or own or (400 <= status < 500 and status not in (408, 429)):
        raise Lost(f"{url}: {reason} (tries: {failures})", hint) from error
    limit = parse_ratelimit_headers(answer.headers) if status == 429 else None
    return limit.reset_in_seconds + 1 if limit and limit.remaining == 0 else 2.0**failures


def _watch(repository: str, files: list[File], jobs: list[Future], progress: Callable[[str], None]) -> None:
    """Wait for the jobs, and say how far they are. Raises what the first that failed did."""
    start, had, total = time.monotonic(), sum(file.done for file in files), sum(file.size for file in files)
    moves, pending = sys.stderr.isatty(), jobs
    while pending:
        finished, pending = wait(jobs, timeout=0.5 if moves else EVERY, return_when=FIRST_EXCEPTION)
        for job in finished:
            job.result()
        done = sum(file.done for file in files)
        rate = max(0, done - had) / (time.monotonic() - start)
        left = f", {(total - done) / rate:,.0f} s left" if pending and rate else ""
        line = (f"{repository}: {len(finished)} of {len(jobs)} files, "
                f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB, {rate / 1e6:.1f} MB/s{left}")
        if pending and moves:
            print(f"{line}\033[K\r", end="", file=sys.stderr, flush=True)       # what comes next covers it
        else:
            progress(line)
