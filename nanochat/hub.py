"""Every download from a Hugging Face hub: files of a repository, whole and checked, or not under their names.

Thin over huggingface_hub: addresses, tokens, most tries, bar and lock are its own. As its hf_hub_download
neither compares digests nor continues an earlier run, that is here. Used by dataset.py and core_eval.py."""

import os
import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

from nanochat.common import die, sha256


def download(repository: str, files: dict[str, str], folder: Path, site: str | None = None,
             progress: Callable[[str], None] = print) -> dict[str, str]:
    """Fetch `files` (name in the data set -> name in `folder`), eight at once. Returns the latter -> sha256.
    A file that is there already and is the hub's is kept. HF_ENDPOINT and HF_TOKEN are read at each call.
    Exits with code 2 if one cannot be had; what has come stays, and the next call continues it. With `site`,
    an address that is no hub, the files lie directly below it, and no token goes there."""
    from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_url, logging
    from huggingface_hub.utils import WeakFileLock, build_hf_headers, tqdm
    constants.HF_HUB_DISABLE_TELEMETRY, constants.DOWNLOAD_CHUNK_SIZE = True, 2**16   # bytes that a cut loses
    logging.set_verbosity_error()
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
    address = partial(hf_hub_url, repository, repo_type="dataset", endpoint=endpoint)
    urls = [f"{site}/{name}" if site else address(name) for name in files]
    headers = build_hf_headers(library_name="nanochat", token=False if site else None)
    look = partial(get_hf_file_metadata, headers=headers, token=False, retry_on_errors=True)
    paths, digests = [folder / local for local in files.values()], {}
    try:                                                # the lock makes the folder; Ctrl-C awaits no thread
        with WeakFileLock(folder / ".download.lock"), ThreadPool(8) as pool:
            with tqdm(urls, desc="sizes", disable=None) as each:        # threads would end each other's tries
                jobs = list(zip(urls, paths, map(look, each), strict=True))
            if not all(told.size and told.etag for _, _, told in jobs):
                raise OSError("answers without size and digest: HF_ENDPOINT must name a hub")
            size = sum(told.size for _, path, told in jobs if not path.exists())
            if size > (free := shutil.disk_usage(folder).free):
                raise OSError(f"{size / 1e6:,.0f} MB to fetch, {free / 1e6:,.0f} MB free in {folder}")
            with tqdm(total=size, desc=repository, unit="B", unit_scale=True, disable=None) as bar:
                try:
                    for path, digest in pool.imap_unordered(lambda job: _fetch(*job, headers, bar), jobs):
                        digests[path.name] = digest
                        if bar.disable:                 # no terminal
                            progress(f"{repository}: {len(digests)} of {len(files)} files")
                finally:
                    bar.update = None                   # a thread that is left fails before it writes
            for part in folder.glob(".*.part"):         # of contents that are asked for no more
                part.unlink()
            return digests
    except (errors.HTTPError, OSError) as error:
        die(f"{site or f'{endpoint}/datasets/{repository}'}: {' '.join(str(error).split())}", hint=(
            "if the address is right, set HF_TOKEN and accept the terms there; HF_ENDPOINT names another"
            if _refused(error) else "run it again: what has come is kept. NANOCHAT_BASE_DIR names the disk"))


def _refused(error: Exception) -> bool:
    return 400 <= getattr(getattr(error, "response", None), "status_code", 0) < 500


def _fetch(url: str, path: Path, told, headers: dict[str, str], bar) -> tuple[Path, str]:
    """Have a file under its name. Returns it with its sha256. The hub `told` its size and digest."""
    from huggingface_hub import errors, file_download
    if digest := _digest(path, told):                   # an earlier run got it
        return path, digest
    part = path.with_name(f".{path.name}.{sha256(told.etag.encode())[:8]}.part")    # of this content alone
    for seconds in (2, 4, 8, 16, 0):
        try:
            with open(part, "ab") as file:
                if file.tell() < told.size:
                    file_download.http_get(url, file, resume_size=file.tell(), headers=headers,
                                           expected_size=told.size, tqdm_class=lambda **_: nullcontext(bar))
            if digest := _digest(part, told):
                os.replace(part, path)
                return path, digest
            part.unlink()                               # no byte of it can be trusted
            raise OSError(f"what came for {path.name} is not the content with digest {told.etag}")
        except (errors.HTTPError, OSError) as error:
            if not seconds or _refused(error) or getattr(error, "errno", None):     # a full disk has one
                raise
        time.sleep(seconds)


def _digest(path: Path, told) -> str | None:
    """The sha256 of a file that is the hub's, else None. Another server's kind of etag tells nothing."""
    from huggingface_hub.utils.sha import git_hash
    if path.exists() and path.stat().st_size == told.size:
        digest = sha256(path)
        own = git_hash(path.read_bytes()) if len(told.etag) == 40 else digest
        return digest if own == told.etag or len(told.etag) not in (40, 64) else None
