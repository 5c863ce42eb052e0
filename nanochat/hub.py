"""Every download from a Hugging Face hub: files of a repository, whole and checked, or not under their names.

Thin over huggingface_hub: token, most tries, bar and lock are its own. Its hf_hub_download neither compares
digests nor continues what another run began, and gives up at a 503: that is here."""
import os
import time
from contextlib import nullcontext
from multiprocessing.pool import ThreadPool
from pathlib import Path
from nanochat.common import die, sha256

def download(repository: str, files: dict[str, str], folder: Path, site: str | None = None) -> list[Path]:
    """Have `files` (name in the data set -> name in `folder`). Returns their paths. What has its name is
    whole, and kept; what is missing is fetched, eight at once. HF_ENDPOINT and HF_TOKEN are read at each
    call. Exits with code 2 if one cannot be had; what has come stays, and the next call continues it. With
    `site`, an address that is no hub, the files lie directly below it, and no token goes there."""
    paths = [folder / local for local in files.values()]
    if all(path.exists() for path in paths):            # then neither library nor network are needed
        return paths
    from huggingface_hub import constants, errors, get_hf_file_metadata, logging
    from huggingface_hub.utils import WeakFileLock, build_hf_headers, tqdm
    constants.HF_HUB_DISABLE_TELEMETRY, constants.DOWNLOAD_CHUNK_SIZE = True, 2**16   # bytes that a cut loses
    logging.set_verbosity_error()
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
    address = site or f"{endpoint}/datasets/{repository}/resolve/main"
    headers = build_hf_headers(library_name="nanochat", token=False if site else None)
    try:                                                # the lock makes the folder; Ctrl-C awaits no thread
        with WeakFileLock(folder / ".download.lock"), ThreadPool(8) as pool:
            missing = [(f"{address}/{name}", path)
                       for name, path in zip(files, paths, strict=True) if not path.exists()]
            jobs = [(url, path, get_hf_file_metadata(url, headers=headers, token=False, retry_on_errors=True))
                    for url, path in tqdm(missing, desc="sizes", disable=None)]  # threads end others' tries
            if not all(told.size and told.etag for _, _, told in jobs):
                raise OSError("answers without size and digest: HF_ENDPOINT must name a hub")
            size = sum(told.size for _, _, told in jobs)
            with tqdm(total=size, desc=repository, unit="B", unit_scale=True, disable=None) as bar:
                fetched = pool.imap_unordered(lambda job: _fetch(*job, headers, bar), jobs)
                for number, _ in enumerate(fetched, 1):
                    if bar.disable:                     # no terminal
                        print(f"{repository}: {number} of {len(jobs)} files")
            return paths
    except (errors.HTTPError, OSError) as error:
        die(f"{address}: {' '.join(str(error).split())}", hint=(
            "run it again: what has come is kept. If refused, set HF_TOKEN and accept the terms there; "
            "HF_ENDPOINT names another hub, NANOCHAT_BASE_DIR another disk"))

def _fetch(url: str, path: Path, told, headers: dict[str, str], bar) -> None:
    """Have a file under its name. `told`: its size, and its SHA-256 or another kind of etag."""
    from huggingface_hub import errors, file_download
    part = path.with_name(f".{path.name}.{sha256(told.etag.encode())[:8]}.part")    # of this content alone
    for seconds in (2, 4, 8, 16, 0):
        try:
            with open(part, "ab") as file:
                if file.tell() < told.size:
                    file_download.http_get(url, file, resume_size=file.tell(), headers=headers,
                                           expected_size=told.size, tqdm_class=lambda **_: nullcontext(bar))
            if part.stat().st_size == told.size and (len(told.etag) != 64 or sha256(part) == told.etag):
                part.rename(path)
                return
            part.unlink()                               # no byte of it can be trusted
            raise OSError(f"what came for {path.name} is not the content with digest {told.etag}")
        except (errors.HTTPError, OSError) as error:
            refused = 400 <= getattr(getattr(error, "response", None), "status_code", 0) < 500
            if refused or not seconds or getattr(error, "errno", None):     # a full disk has one
                raise
        time.sleep(seconds)
