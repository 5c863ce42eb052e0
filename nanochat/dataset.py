"""Text sources -> parquet shards: the embedded almanac, two web-scale sets of the hub, or your own text.

Whatever the source, what comes out is the same: files with a `text` column and row groups of ~1,000
documents, and a fixed validation set. What has its name is whole, and one process at a time prepares a set.
To fetch in advance what a run will need:

    python -m nanochat.dataset --source=climbmix --depth=24 --target-param-data-ratio=8
"""
import argparse
import fcntl
import gzip
import json
import random
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
import pyarrow as pa
import pyarrow.parquet as pq
from nanochat import hub
from nanochat.common import base_dir, die, new_parser, sha256
from nanochat.scaling import derive

HUBS = {                            # name -> (Hugging Face repository, its last shard: the validation set)
    "climbmix": ("karpathy/climbmix-400b-shuffle", 6542),
    "fineweb-edu": ("karpathy/fineweb-edu-100b-shuffle", 1822),
}
SOURCES = ("almanac", *HUBS)
NUM_SHARDS = 8                      # of a set from Hugging Face, where no plan says how many
ALMANAC_MB = 24
SUFFIXES = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz", ".parquet")
ROW_GROUP = 1_000                   # documents that a reader holds at once
SHARD_BYTES = 64_000_000            # of text; a shard is shuffled in memory
VAL_FRACTION = 0.01                 # of text that has no validation files of its own
VAL_BYTES = 5_000_000               # but no more than about this
PIECE_CHARS = 8_000                 # a .txt file is cut at the first blank line after so many characters

@dataclass(frozen=True)
class Dataset:
    """A prepared set: parquet files with a `text` column."""
    name: str
    train: tuple[Path, ...]
    val: tuple[Path, ...]

    @cached_property
    def val_sha256(self) -> str:
        """Names the validation set in logs."""
        return sha256(" ".join(map(sha256, self.val)).encode())

def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags that choose the text, the same for every script that reads some."""
    add, add_text = parser.add_argument, parser.add_mutually_exclusive_group().add_argument
    add_text("--source", choices=SOURCES, help="where text comes from (default: almanac; on a GPU climbmix)")
    add_text("--data", type=Path, help="a file or folder of .txt, .jsonl or .parquet instead")
    add("--num-shards", type=int,
        help=f"training shards of a Hugging Face source (default: as the plan needs, else {NUM_SHARDS})")
    add("--almanac-mb", type=float, help=f"megabytes of almanac text ({ALMANAC_MB})")

def choose(args: argparse.Namespace, saved: dict | None = None, num_shards: int = NUM_SHARDS) -> dict:
    """What text the flags mean, as arguments of `prepare`, JSON-able, for a checkpoint to keep: the `saved`
    one, where no flag names another, else the default of this machine. `num_shards`: if neither has any."""
    path = str(args.data.expanduser().resolve()) if args.data else None
    source = None if path else args.source or default_source()
    if saved is None or ((args.source or args.data) and (source, path) != (saved["source"], saved["path"])):
        num_shards = min(num_shards, HUBS[source][1]) if source in HUBS else NUM_SHARDS
        saved = {"source": source, "path": path, "num_shards": num_shards, "almanac_mb": ALMANAC_MB}
    given = {name: getattr(args, name) for name in ("num_shards", "almanac_mb")}
    return saved | {name: value for name, value in given.items() if value is not None}

def default_source() -> str:
    """Web text where a GPU can digest it, the embedded almanac elsewhere."""
    import torch
    return "climbmix" if torch.cuda.is_available() else "almanac"

def prepare(source: str | None = None, path: str | Path | None = None, num_shards: int = NUM_SHARDS,
            almanac_mb: float = ALMANAC_MB) -> Dataset:
    """Make a set, or find it made. `source`: one of SOURCES; or `path`: a file or folder of .txt, .jsonl
    (field `text`), .parquet. Of a set of the hub, the first shards are for training, and the last one for
    validation, however many are here. Every rank calls it: one works, the others wait for its lock, so that
    no collective times out. Dies where there is nothing to train or validate on, or a shard is corrupt."""
    if path is not None:
        return _prepare_path(Path(path).expanduser().resolve())
    if source == "almanac":
        return _prepare_almanac(almanac_mb)
    repository, last = HUBS[source]
    if not 1 <= num_shards <= last:
        die(f"{num_shards} training shards of {source}: must be 1 to {last}")
    files = {f"shard_{i:05d}.parquet": f"train_{i:05d}.parquet" for i in range(num_shards)}
    files[f"shard_{last:05d}.parquet"] = "val_00000.parquet"
    *train, val = hub.download(repository, files, base_dir() / "data" / source)
    return Dataset(source, tuple(train), (val,))

def row_groups(paths: Iterable[Path]) -> list[tuple[Path, int, int]]:
    """(file, row group, number of documents), in order. Dies at a file that is corrupt or has no text."""
    groups = []
    for path in paths:
        with _parquet(path) as file:
            schema, metadata = file.schema_arrow, file.metadata
        if "text" not in schema.names or schema.field("text").type not in (pa.string(), pa.large_string()):
            die(f"{path} has no column `text` of strings (columns: {', '.join(schema.names) or 'none'})")
        groups += [(path, i, metadata.row_group(i).num_rows) for i in range(metadata.num_row_groups)]
    return groups

def read_row_group(path: Path, index: int) -> list[str]:
    """The documents of a row group; a null is an empty text. Dies where the file is corrupt."""
    with _parquet(path) as file:
        return [text or "" for text in file.read_row_group(index, columns=["text"])["text"].to_pylist()]

def texts(paths: Iterable[Path]) -> Iterator[str]:
    """All documents of some shards, in order, one row group in memory at a time."""
    for path, index, _ in row_groups(paths):
        yield from read_row_group(path, index)

def up_to(size: float, documents: Iterable[str]) -> Iterator[str]:
    """Documents in order, until they have `size` bytes; at least one, where there is one."""
    for document in documents:
        yield document
        size -= len(document.encode())
        if size <= 0:
            return

@contextmanager
def _parquet(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        die(f"{path} cannot be read as parquet: {' '.join(str(error).split())}",
            hint="delete it if it was downloaded, or its folder if it was made here, and run again")

def _write_shards(folder: Path, part: str, documents: Iterable[str]) -> None:
    """Write <part>_00000.parquet and so on."""
    documents = iter(documents)
    for number, held in enumerate(iter(lambda: list(up_to(SHARD_BYTES, documents)), [])):
        path = folder / f"{part}_{number:05d}.parquet"
        random.Random(path.name).shuffle(held)          # else files of one topic each are read one by one
        table = pa.table({"text": pa.array(held, pa.large_string())})
        pq.write_table(table, path, row_group_size=ROW_GROUP, compression="zstd")

def _build(name: str, recipe: dict, train: Iterable[str], val: Iterable[str], what: str) -> Dataset:
    """Find a set, or write its documents, those for training first, and publish them with one rename. A
    digest of the recipe is in the name: another recipe never touches files that a running job reads."""
    name = f"{name}-{sha256(json.dumps(recipe, sort_keys=True).encode())[:8]}"
    root = base_dir() / "data"
    root.mkdir(exist_ok=True)
    folder, unfinished = root / name, root / f".{name}.unfinished"
    with open(root / f".{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)                # which the system frees where a process is killed
        if not folder.exists():
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            try:
                print(f"data: preparing {what}")
                _write_shards(unfinished, "train", train)
                _write_shards(unfinished, "val", val)
                unfinished.rename(folder)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    return Dataset(name, *(tuple(sorted(folder.glob(f"{part}_*.parquet"))) for part in ("train", "val")))

def _prepare_almanac(megabytes: float) -> Dataset:
    from nanochat import almanac
    if megabytes <= 0:
        die(f"{megabytes:g} MB of almanac is nothing to train on", hint="--almanac-mb=24")
    made_by = [sha256(file) for file in sorted(Path(almanac.__file__).parent.glob("almanac.*"))]
    recipe = {"source": "almanac", "megabytes": megabytes, "made_by": made_by}
    train = up_to(megabytes * 1e6, almanac.documents(seed=0, split="train"))
    val = up_to(min(megabytes, 1) * 1e6, almanac.documents(seed=0, split="val"))
    return _build("almanac", recipe, train, val, f"{megabytes:g} MB of almanac")

def _prepare_path(path: Path) -> Dataset:
    """Parquet files with a val_*.parquet among them are used where they are; all else is rewritten, and
    split where nothing is called val_*.parquet."""
    files = _input_files(path)
    own_val = tuple(file for file in files if file.match("val_*.parquet"))
    rest = tuple(file for file in files if file not in own_val)
    if own_val and all(file.suffix == ".parquet" for file in files):
        made = Dataset(path.name, rest, own_val)
    else:
        size = sum(file.stat().st_size for file in files)
        fraction = min(VAL_FRACTION, VAL_BYTES / max(1, size))
        recipe = {"source": "path", "path": str(path), "val_fraction": fraction, "files": [
            [str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns] for file in files]}
        val = _documents(own_val) if own_val else []    # else filled while `train` is read
        train = _documents(rest) if own_val else _split(_documents(rest), fraction, val)
        made = _build(path.name, recipe, train, val, f"{len(files)} files of {path}, {size / 1e6:,.1f} MB")
    if not all(any(documents for *_, documents in row_groups(part)) for part in (made.train, made.val)):
        die(f"{path} has too few documents: training and validation need at least one each",
            hint="a .jsonl file has one per line; a .txt file one, or one per 8,000 characters")
    return made

def _input_files(path: Path) -> list[Path]:
    if not path.exists():
        die(f"--data {path} does not exist")
    found = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    files = [file for file in found if file.name.endswith(SUFFIXES)
             and not any(part.startswith(".") for part in file.relative_to(path).parts)]
    if not files:
        die(f"--data {path}: none of {len(found)} files is text, which ends in {', '.join(SUFFIXES)}")
    return files

def _documents(files: Iterable[Path]) -> Iterator[str]:
    """The documents of files of any kind, the empty ones left out."""
    for file in files:
        if file.suffix == ".parquet":
            yield from filter(str.strip, texts([file]))
            continue
        try:
            with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8-sig") as lines:
                found = _read_jsonl(file, lines) if ".jsonl" in file.suffixes else _read_txt(lines)
                yield from filter(str.strip, found)
        except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
            die(f"{file} cannot be read as UTF-8 text: {error}", "convert it, or move it out of the folder")

def _read_jsonl(file: Path, lines: Iterable[str]) -> Iterator[str]:
    """One document per line, in the field `text`."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:                                        # JSON can spell a lone surrogate
                yield json.loads(line)["text"].encode("utf-8", "replace").decode()
            except (ValueError, KeyError, TypeError, AttributeError):
                die(f'{file}:{number} is not a JSON object with a string "text": {line.strip()[:60]}')

def _read_txt(lines: Iterable[str]) -> Iterator[str]:
    """Every line <|endoftext|> ends a document, or the first blank line after 8,000 characters, or any line
    end after 16,000, so that a book becomes many and a page stays one."""
    held = ""
    for line in lines:
        is_end = line.strip() == "<|endoftext|>"
        if is_end or len(held) >= (2 * PIECE_CHARS if line.strip() else PIECE_CHARS):
            yield held.strip()
            held = ""
        held += "" if is_end else line
    yield held.strip()

def _split(documents: Iterable[str], fraction: float, val: list[str]) -> Iterator[str]:
    """Yield what is for training, and put into `val` the first document, those whose digest is below
    `fraction`, wherever they stand, and every copy of these."""
    first = None
    for document in documents:
        first = first or document
        if document == first or int(sha256(document.encode()), 16) < fraction * 2 ** 256:
            val.append(document)
        else:
            yield document

def main(args: argparse.Namespace) -> None:
    plan = derive(args.depth, ratio=args.target_param_data_ratio) if args.depth else None
    dataset = prepare(**choose(args, num_shards=plan.num_shards if plan else NUM_SHARDS))
    print(f"{dataset.name}: {len(dataset.train)} training shards in {dataset.train[0].parent}")

def parser() -> argparse.ArgumentParser:
    arguments = new_parser(__doc__)
    add_arguments(arguments)
    arguments.add_argument("--depth", type=int, help="of the model whose plan says how many shards")
    arguments.add_argument("--target-param-data-ratio", type=float, help="as in base_train")
    return arguments

if __name__ == "__main__":
    main(parser().parse_args())
