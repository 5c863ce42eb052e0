"""Every download from a Hugging Face hub: files of a repository, whole and checked, or not under their names.

Thin over huggingface_hub: addresses, tokens, most tries, bar and lock are its own. As its hf_hub_download
neither compares digests nor continues an earlier run, that is here. Used by dataset.py and core_eval.py."""

import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path

from nanochat.common import die, sha256


def download(repository: str, files: dict[str, str], folder: Path, site: str | None = None,
             progress: Callable[[str], None] = print) -> list[Path]:
    """Have `files` (name in the data set -> name in `folder`). Returns their paths. What has its name is
    whole, and kept; what is missing is fetched, eight at once. HF_ENDPOINT and HF_TOKEN are read at each
    call. Exits with code 2 if one cannot be had; what has come stays, and the next call continues it. With
    `site`, an address that is no hub, the files lie directly below it, and no token goes there."""
    paths = [folder / local for local in files.values()]
    if all(path.exists() for path in paths):            # then neither library nor network are needed
        return paths
    from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_url, logging
    from huggingface_hub.utils import WeakFileLock, build_hf_headers, tqdm
    constants.HF_HUB_DISABLE_TELEMETRY, constants.DOWNLOAD_CHUNK_SIZE = True, 2**16   # bytes that a cut loses
    logging.set_verbosity_error()
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
    address = partial(hf_hub_url, repository, repo_type="dataset", endpoint=endpoint)
    headers = build_hf_headers(library_name="nanochat", token=False if site else None)
    look = partial(get_hf_file_metadata, headers=headers, token=False, retry_on_errors=True)
    try:                                                # the lock makes the folder; Ctrl-C awaits no thread
        with WeakFileLock(folder / ".download.lock"), ThreadPool(8) as pool:
            missing = [(f"{site}/{name}" if site else address(name), path)
                       for name, path in zip(files, paths, strict=True) if not path.exists()]
            with tqdm(missing, desc="sizes", disable=None) as each:     # threads would end each other's tries
                jobs = [(url, path, look(url)) for url, path in each]
            if not all(told.size and told.etag for _, _, told in jobs):
                raise OSError("answers without size and digest: HF_ENDPOINT must name a hub")
            size = sum(told.size for _, _, told in jobs)
            with tqdm(total=size, desc=repository, unit="B", unit_scale=True, disable=None) as bar:
                fetched = pool.imap_unordered(lambda job: _fetch(*job, headers, bar), jobs)
                for number, _ in enumerate(fetched, 1):
                    if bar.disable:                     # no terminal
                        progress(f"{repository}: {number} of {len(jobs)} files")
            return paths
    except (errors.HTTPError, OSError) as error:
        die(f"{site or f'{endpoint}/datasets/{repository}'}: {' '.join(str(error).split())}", hint=(
            "if the address is right, set HF_TOKEN and accept the terms there; HF_ENDPOINT names another"
            if _refused(error) else "run it again: what has come is kept. NANOCHAT_BASE_DIR names the disk"))


def _refused(error: Exception) -> bool:
    return 400 <= getattr(getattr(error, "response", None), "status_code", 0) < 500


def _fetch(url: str, path: Path, told, headers: dict[str, str], bar) -> None:
    """Have a file under its name. The hub `told` its size and digest."""
    from huggingface_hub import errors, file_download
    part = path.with_name(f".{path.name}.{sha256(told.etag.encode())[:8]}.part")    # of this content alone
    for seconds in (2, 4, 8, 16, 0):
        try:
            with open(part, "ab") as file:
                if file.tell() < told.size:
                    file_download.http_get(url, file, resume_size=file.tell(), headers=headers,
                                           expected_size=told.size, tqdm_class=lambda **_: nullcontext(bar))
            if _is_whole(part, told):
                os.replace(part, path)
                return
            part.unlink()                               # no byte of it can be trusted
            raise OSError(f"what came for {path.name} is not the content with digest {told.etag}")
        except (errors.HTTPError, OSError) as error:
            if not seconds or _refused(error) or getattr(error, "errno", None):     # a full disk has one
                raise
        time.sleep(seconds)


def _is_whole(path: Path, told) -> bool:
    """Whether a file is the hub's. Another server's kind of etag tells nothing."""
    from huggingface_hub.utils.sha import git_hash
    if path.stat().st_size != told.size or len(told.etag) not in (40, 64):
        return path.stat().st_size == told.size
    return told.etag == (git_hash(path.read_bytes()) if len(told.etag) == 40 else sha256(path))
