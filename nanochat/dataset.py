"""
Text sources -> parquet shards: the embedded almanac, two web-scale sets on Hugging Face, or a folder or file of yours.

Whatever the source, what comes out is the same: files with a `text` column and row groups of ~1,000 documents, a fixed
validation set, and a `dataset.json` that lists them with sizes and digests. Nothing is visible under its final name before it is
whole, and a lock lets only one process prepare a set at a time. Used by tok_train and the loaders; `python -m nanochat.dataset`
fetches in advance.
"""

import argparse
import fcntl
import gzip
import hashlib
import http.client
import json
import os
import random
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat.common import atomic_write, base_dir, die, sha256

HUBS = {                                                # name -> (repository, number of the last shard, which is validation)
    "climbmix": ("karpathy/climbmix-400b-shuffle", 6542),
    "fineweb-edu": ("karpathy/fineweb-edu-100b-shuffle", 1822),
}
SOURCES = ("almanac", *HUBS)
ROW_GROUP = 1_000                                       # documents that a reader holds at once
SHARD_BYTES = 64_000_000                                # text in a shard that we write: shuffled in memory, so bounded
VAL_FRACTION, VAL_BYTES = 0.01, 5_000_000               # of a folder without validation files of its own: the smaller of the two
PIECE_CHARS = 8_000                                     # a .txt file is cut at the first blank line after so many characters
LARGEST_GROUP = 256_000_000                             # bytes; parquet files with larger row groups are rewritten, not used in place
SUFFIXES = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz", ".parquet")


@dataclass(frozen=True)
class Dataset:
    """A prepared set: parquet files with a `text` column. Training and validation share no document."""
    name: str
    train: tuple[Path, ...]
    val: tuple[Path, ...]


def prepare(source: str = "almanac", path: Path | None = None, num_shards: int | None = None, almanac_mb: float = 24,
            progress: Callable[[str], None] = print) -> Dataset:
    """
    Make `source` ready, or find that it is. `path` (a file or folder of .txt, .jsonl, .parquet) takes the place of the source.
    num_shards: training shards to fetch and use of a Hugging Face set (default 8); almanac_mb: megabytes of almanac text.
    Exits with code 2 where there is nothing to train or to validate on, or a shard is missing or corrupt.
    """
    if path is not None:
        return _prepare_path(Path(path).expanduser(), progress)
    if source == "almanac":
        return _prepare_almanac(almanac_mb, progress)
    if source in HUBS:
        return _prepare_hub(source, 8 if num_shards is None else num_shards, progress)
    die(f"no text source is called {source!r}", hint=f"one of {', '.join(SOURCES)}, or a path")


# ---- reading -------------------------------------------------------------------------------------------------

def row_groups(paths: Iterable[Path]) -> list[tuple[Path, int, int]]:
    """(file, row group, number of documents) of all files, in order. Exits with code 2 at a file that is corrupt or has no text."""
    groups = []
    for path in paths:
        metadata = _footer(path)
        groups += [(path, i, metadata.row_group(i).num_rows) for i in range(metadata.num_row_groups)]
    return groups


def read_row_group(path: Path, index: int) -> list[str]:
    """The documents of one row group, in order; a null becomes an empty text."""
    try:
        with pq.ParquetFile(path) as file:
            return [text or "" for text in file.read_row_group(index, columns=["text"])["text"].to_pylist()]
    except (OSError, pa.ArrowException) as error:
        _corrupt(path, error)


def texts(paths: Iterable[Path]) -> Iterator[str]:
    """All documents of some shards, in order, one row group in memory at a time."""
    for path, index, _ in row_groups(paths):
        yield from read_row_group(path, index)


def _footer(path: Path) -> pq.FileMetaData:
    try:
        with pq.ParquetFile(path) as file:
            schema, metadata = file.schema_arrow, file.metadata
    except (OSError, pa.ArrowException) as error:
        _corrupt(path, error)
    kind = schema.field("text").type if "text" in schema.names else None
    if kind is None or not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        die(f"{path} has no column `text` of strings (columns: {', '.join(schema.names) or 'none'})")
    return metadata


def _corrupt(path: Path, error: Exception) -> NoReturn:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    die(f"{path} cannot be read as parquet: {reason}", hint="delete it and prepare the data again")


# ---- writing -------------------------------------------------------------------------------------------------

@contextmanager
def _locked(name: str) -> Iterator[Path]:
    """The folder of a set, for this process alone; the system frees the lock of a process that is killed."""
    root = base_dir() / "data"
    root.mkdir(exist_ok=True)
    with open(root / f".{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield root / name


def _write_shard(path: Path, documents: list[str]) -> None:
    table = pa.table({"text": pa.array(documents, pa.large_string())})
    pq.write_table(table, path, row_group_size=ROW_GROUP, compression="zstd")


def _write_shards(folder: Path, documents: Iterable[str], shuffle: bool) -> int:
    """Write train_00000.parquet and so on; returns how many. Shuffling is within a shard, with a fixed seed."""
    count, size, held = 0, 0, []

    def flush():
        nonlocal count, size, held
        if shuffle:
            random.Random(count).shuffle(held)
        _write_shard(folder / f"train_{count:05d}.parquet", held)
        count, size, held = count + 1, 0, []

    for document in documents:
        held.append(document)
        size += len(document.encode())
        if size >= SHARD_BYTES:
            flush()
    if held:
        flush()
    return count


def _entry(path: Path, name: str | None = None) -> dict:
    return {"name": name or path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}


def _write_manifest(folder: Path, recipe: dict, train: list[dict], val: list[dict]) -> None:
    val_hash = sha256("".join(entry["sha256"] for entry in val).encode())
    manifest = {"format": 1, "recipe": recipe, "train": train, "val": val, "val_sha256": val_hash}
    atomic_write(folder / "dataset.json", json.dumps(manifest, indent=1) + "\n")


def _find_complete(folder: Path, recipe: dict) -> Dataset | None:
    """The set in `folder`, if it was made by `recipe` and every file has the size in its manifest."""
    try:
        manifest = json.loads((folder / "dataset.json").read_text())
        entries = {part: [(folder / e["name"], e["bytes"]) for e in manifest[part]] for part in ("train", "val")}
        whole = all(path.stat().st_size == size for part in entries.values() for path, size in part)
        if manifest["recipe"] != recipe or not whole:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Dataset(folder.name, *(tuple(path for path, _ in entries[part]) for part in ("train", "val")))


def _build(name: str, recipe: dict, fill: Callable[[Path], None]) -> Dataset:
    """
    Find the set `name`, or let `fill(folder)` write train_*.parquet and val_*.parquet and publish them with one rename.
    The name contains a digest of the recipe, so that another recipe never touches files that a running job reads.
    """
    name = f"{name}-{sha256(json.dumps(recipe, sort_keys=True).encode())[:8]}"
    with _locked(name) as folder:
        if found := _find_complete(folder, recipe):
            return found
        unfinished = folder.with_name(f".{name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)   # a killed attempt; no one else is here while we hold the lock
        unfinished.mkdir()
        try:
            fill(unfinished)
            files = {part: sorted(unfinished.glob(f"{part}_*.parquet")) for part in ("train", "val")}
            _write_manifest(unfinished, recipe, *([_entry(path) for path in files[part]] for part in ("train", "val")))
            shutil.rmtree(folder, ignore_errors=True)   # damaged, else it would have been found complete
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        return _find_complete(folder, recipe)


# ---- the embedded almanac ------------------------------------------------------------------------------------

def _prepare_almanac(megabytes: float, progress: Callable[[str], None]) -> Dataset:
    from nanochat import almanac
    if megabytes <= 0:
        die(f"{megabytes} MB of almanac is nothing to train on", hint="--almanac-mb=24")
    recipe = {"source": "almanac", "megabytes": megabytes, "generator": sha256(Path(almanac.__file__))}

    def take(split: str, size: float) -> Iterator[str]:
        for document in almanac.documents(seed=0, split=split):
            yield document
            size -= len(document.encode())
            if size <= 0:
                return

    def fill(folder: Path) -> None:
        progress(f"data: writing {megabytes:g} MB of almanac")
        _write_shards(folder, take("train", megabytes * 1e6), shuffle=False)
        _write_shard(folder / "val_00000.parquet", list(take("val", max(1.0, megabytes / 24) * 1e6)))

    return _build("almanac", recipe, fill)


# ---- your own text -------------------------------------------------------------------------------------------

def _prepare_path(path: Path, progress: Callable[[str], None]) -> Dataset:
    files = _input_files(path)
    stats = [(file, file.stat()) for file in files]
    total = sum(stat.st_size for _, stat in stats)
    recipe = {"source": "path", "path": str(path.resolve()), "val_fraction": min(VAL_FRACTION, VAL_BYTES / max(1, total)),
              "files": [[str(file.relative_to(path)), stat.st_size, stat.st_mtime_ns] for file, stat in stats]}
    own_val = [file for file in files if file.name.startswith("val_") and file.suffix == ".parquet"]
    rest = [file for file in files if file not in own_val]
    if not rest:
        die(f"{path} has validation files only: {', '.join(file.name for file in own_val)}", hint="add files to train on")
    for file in files:
        if file.suffix == ".parquet":
            _footer(file)                               # a corrupt shard is named before any work is done
    if own_val and all(file.suffix == ".parquet" and _small_groups(file) for file in files):
        return _refuse_empty(Dataset(path.name, tuple(rest), tuple(own_val)), path)

    def fill(folder: Path) -> None:
        progress(f"data: preparing {path}: {len(files)} files, {total / 1e6:,.1f} MB")
        val: list[str] = list(texts(own_val))
        train = _documents(rest) if own_val else _split(_documents(rest), recipe["val_fraction"], val)
        written = _write_shards(folder, train, shuffle=True)
        if not written or not val:
            die(f"{path} holds {len(val)} documents: training and validation need at least one each",
                hint="a .txt file counts as one document per 8,000 characters, a .jsonl file as one per line")
        _write_shard(folder / "val_00000.parquet", val)

    return _build(path.name, recipe, fill)


def _input_files(path: Path) -> list[Path]:
    if not path.exists():
        die(f"--data {path} does not exist")
    found = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    files = [p for p in found if p.name.endswith(SUFFIXES) and not any(part.startswith(".") for part in p.relative_to(path).parts)]
    if not files:
        die(f"--data {path} has no text: none of its {len(found)} files ends in {', '.join(SUFFIXES)}")
    return files


def _small_groups(path: Path) -> bool:
    metadata = _footer(path)
    return all(metadata.row_group(i).total_byte_size <= LARGEST_GROUP for i in range(metadata.num_row_groups))


def _refuse_empty(dataset: Dataset, path: Path) -> Dataset:
    for part in ("train", "val"):
        if not sum(rows for _, _, rows in row_groups(getattr(dataset, part))):
            die(f"the {part} files of {path} hold no documents")
    return dataset


def _documents(files: list[Path]) -> Iterator[str]:
    for file in files:
        try:
            for document in _read_file(file):
                if document.strip():
                    yield document
        except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
            die(f"{file} cannot be read as UTF-8 text: {error}", hint="convert it, or move it out of the folder")


def _read_file(file: Path) -> Iterator[str]:
    if file.suffix == ".parquet":
        yield from texts([file])
        return
    opened = gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else open(file, encoding="utf-8")
    with opened as lines:
        if ".jsonl" in file.name:
            yield from _read_jsonl(file, lines)
        else:
            yield from _read_txt(lines)


def _read_jsonl(file: Path, lines: Iterable[str]) -> Iterator[str]:
    """One document a line, in the field `text`."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError):
            text = None
        if not isinstance(text, str):
            die(f'{file}:{number} is not a JSON object with a string "text": {line[:60]!r}')
        yield text.encode("utf-8", "replace").decode()  # JSON can spell lone surrogates, which no encoding can hold


def _read_txt(lines: Iterable[str]) -> Iterator[str]:
    """
    Pieces of a plain text: cut at every line `<|endoftext|>`, and at the first blank line after 8,000 characters, so that a book
    becomes many documents and a page stays one. Text without blank lines is cut at the first line end after twice as much.
    """
    held, size = [], 0
    for line in lines:
        end_of_text = line.strip() == "<|endoftext|>"
        if end_of_text or (size >= PIECE_CHARS and not line.strip()) or size >= 2 * PIECE_CHARS:
            yield "".join(held).strip()
            held, size = [], 0
        if not end_of_text:
            held.append(line)
            size += len(line)
    yield "".join(held).strip()


def _split(documents: Iterable[str], fraction: float, val: list[str]) -> Iterator[str]:
    """
    Yield the training documents; those whose digest is below `fraction` go to `val`, copies of them included. If none is,
    the one with the smallest digest does.
    """
    smallest: tuple[float, str] | None = None
    for document in documents:
        digest = int.from_bytes(hashlib.blake2b(document.encode(), digest_size=8).digest()) / 2**64
        if digest < fraction:
            val.append(document)
        elif smallest is None or digest < smallest[0]:
            if smallest:
                yield smallest[1]
            smallest = (digest, document)
        elif digest > smallest[0]:                      # else a copy of the one held back: not in training either
            yield document
    if smallest and val:
        yield smallest[1]
    elif smallest:
        val.append(smallest[1])


# ---- Hugging Face --------------------------------------------------------------------------------------------

def _prepare_hub(name: str, num_shards: int, progress: Callable[[str], None]) -> Dataset:
    """Training shards 0 to num_shards - 1; the last shard of the set is validation, however many are here."""
    repository, last = HUBS[name]
    if not 1 <= num_shards <= last:
        die(f"{num_shards} training shards of {name}: must be 1 to {last}")
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    remote = {f"train_{i:05d}.parquet": i for i in range(num_shards)} | {"val_00000.parquet": last}
    with _locked(name) as folder:
        folder.mkdir(exist_ok=True)
        known = _known_entries(folder)
        missing = [file for file in remote if file not in known]
        failures, done, start = [], 0, time.monotonic()
        with ThreadPoolExecutor(max_workers=8) as pool:
            url = f"{endpoint}/datasets/{repository}/resolve/main/shard_{{:05d}}.parquet"
            waiting = {pool.submit(fetch, url.format(remote[file]), folder / file): file for file in missing}
            for future in as_completed(waiting):
                if error := future.exception():
                    failures.append(str(error))
                    continue
                file = waiting[future]
                known[file], done = _entry(folder / file), done + 1
                progress(f"data: {name}: {done} of {len(missing)} shards, {time.monotonic() - start:.0f} s")
        _write_manifest(folder, {"source": name, "repository": repository, "val_shard": last},
                        *([known[file] for file in sorted(known) if file.startswith(part)] for part in ("train", "val")))
    if failures:
        die(f"{len(failures)} of {len(remote)} shards of {name} are missing: {failures[0]}",
            hint="run the same command again: the shards that came are kept. HF_ENDPOINT names another server")
    return Dataset(name, tuple(folder / file for file in remote if file != "val_00000.parquet"), (folder / "val_00000.parquet",))


def _known_entries(folder: Path) -> dict[str, dict]:
    """Manifest entries of the shards that are here and whole; one that came just before a kill is not in the manifest yet."""
    try:
        manifest = json.loads((folder / "dataset.json").read_text())
        listed = {entry["name"]: entry for entry in manifest["train"] + manifest["val"]}
    except (OSError, ValueError, KeyError, TypeError):
        listed = {}
    known = {}
    for path in sorted(folder.glob("*.parquet")):
        entry = listed.get(path.name)
        if entry is None:
            _footer(path)
            entry = _entry(path)
        if entry["bytes"] == path.stat().st_size:
            known[path.name] = entry
    return known


class _Refused(OSError):
    """The server answered, and asking again will not change the answer."""


class _KeepDigest(urllib.request.HTTPRedirectHandler):
    """The hub names a file's sha256 only in the redirect to its storage, which urllib follows silently."""
    digest = ""

    def redirect_request(self, request, file, code, message, headers, url):
        self.digest = headers.get("X-Linked-ETag", self.digest)
        return super().redirect_request(request, file, code, message, headers, url)


def fetch(url: str, path: Path, tries: int = 5, sleep: Callable[[float], None] = time.sleep) -> None:
    """
    Download a parquet file to `path`: under a temporary name until its length, its sha256 (where the hub tells it) and its footer
    are right. Raises OSError after `tries` failures, or at once where the server refuses (401, 403, 404).
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        for attempt in range(1, tries + 1):
            try:
                _fetch_once(url, temporary)
                os.replace(temporary, path)
                return
            except _Refused:
                raise
            except (OSError, http.client.HTTPException, pa.ArrowException) as error:
                if attempt == tries:
                    raise OSError(f"{url}: {error} ({tries} tries)") from error
            sleep(2.0**attempt)
    finally:
        temporary.unlink(missing_ok=True)


def _fetch_once(url: str, temporary: Path) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "nanochat"})
    redirects, digest, size = _KeepDigest(), hashlib.sha256(), 0
    try:
        with urllib.request.build_opener(redirects).open(request, timeout=60) as response, open(temporary, "wb") as file:
            length = response.headers.get("Content-Length")
            promised = response.headers.get("X-Linked-ETag", redirects.digest).strip('"')
            while block := response.read(1 << 20):
                file.write(block)
                digest.update(block)
                size += len(block)
    except urllib.error.HTTPError as error:
        raise (_Refused if error.code in (401, 403, 404) else OSError)(f"{url}: HTTP {error.code} {error.reason}") from error
    if length is not None and size != int(length):
        raise OSError(f"got {size:,} of {int(length):,} bytes")
    if len(promised) == 64 and promised != digest.hexdigest():
        raise OSError(f"sha256 is {digest.hexdigest()}, not {promised}")
    pq.read_metadata(temporary)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that choose the text, for every script that reads some."""
    parser.add_argument("--source", default="almanac", choices=SOURCES, help="where text comes from")
    parser.add_argument("--data", type=Path, help="a file or folder of .txt, .jsonl, .parquet instead of --source")
    parser.add_argument("--num-shards", type=int, help="training shards of a Hugging Face source (default 8)")
    parser.add_argument("--almanac-mb", type=float, default=24, help="megabytes of almanac text")


def main(args: argparse.Namespace) -> None:
    dataset = prepare(args.source, args.data, args.num_shards, args.almanac_mb)
    size = sum(path.stat().st_size for path in dataset.train) / 1e6
    print(f"{dataset.name}: {len(dataset.train)} training shards ({size:,.1f} MB), {len(dataset.val)} for validation, "
          f"in {dataset.val[0].parent}")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(prog="python -m nanochat.dataset", description="Prepare text for training.")
    add_arguments(arguments)
    main(arguments.parse_args())
