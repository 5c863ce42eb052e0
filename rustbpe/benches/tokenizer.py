"""How fast the tokenizer trains, beside rustbpe 0.1.0 and Hugging Face tokenizers: one JSON line per case.

    uv venv /tmp/other && uv pip install -p /tmp/other/bin/python rustbpe==0.1.0 tokenizers tiktoken pyarrow
    python rustbpe/benches/tokenizer.py --data FOLDER --baseline-python /tmp/other/bin/python
The other rustbpe has the name of ours, so it lives in another interpreter. Every case is a process of its
own, and the contenders take turns within a round, so that a slow moment of the machine hits all of them.

Two modes: `list` has the texts in a list before the clock starts, to measure training alone (MB/s); `stream`
reads them from parquet, one row group at a time, to measure memory (peak RSS of the whole process). The
tokens of all runs on the same text are compared: `tokens` is a digest of their bytes in order."""

import argparse
import hashlib
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))      # nanochat is no installed package

from nanochat.common import new_parser
from nanochat.tokenizer import SPLIT_PATTERN

VOCAB_SIZE = 32768


def documents(folder: Path, limit: float) -> Iterator[str]:
    """Texts of the training shards until `limit` bytes are reached."""
    import pyarrow.parquet as parquet
    size = 0
    for path in sorted(folder.glob("train_*.parquet")):
        file = parquet.ParquetFile(path)
        for group in range(file.num_row_groups):
            for text in file.read_row_group(group, columns=["text"]).column(0).to_pylist():
                yield text
                size += len(text) if text.isascii() else len(text.encode())
                if size >= limit:
                    return


def train_ours(texts: Iterator[str]) -> list[bytes]:
    import rustbpe
    return rustbpe.train(texts, VOCAB_SIZE, pattern=SPLIT_PATTERN)


def train_rustbpe_0_1_0(texts: Iterator[str]) -> list[bytes]:
    import rustbpe
    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(texts, VOCAB_SIZE, pattern=SPLIT_PATTERN)
    return [bytes(token) for token, _ in tokenizer.get_mergeable_ranks()]


def train_huggingface(texts: Iterator[str]) -> list[bytes]:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT_PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB_SIZE, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    return [tokenizer.id_to_token(i).encode() for i in range(tokenizer.get_vocab_size())]


CONTENDERS = {"ours": train_ours, "rustbpe-0.1.0": train_rustbpe_0_1_0, "huggingface": train_huggingface}


def run_case(args: argparse.Namespace) -> None:
    """In the process of one case: train, and print one JSON line."""
    texts = documents(args.data, args.megabytes * 1e6)
    if args.mode == "list":
        texts = list(texts)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    tokens = CONTENDERS[args.case](iter(texts))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = sum(len(text.encode()) for text in documents(args.data, args.megabytes * 1e6))
    print(json.dumps({
        "case": args.case, "mode": args.mode, "mb": round(size / 1e6, 1), "seconds": round(seconds, 3),
        "mb_per_second": round(size / 1e6 / seconds, 1), "peak_rss_mb": round(peak / 1024, 1),
        "rss_before_mb": round(before / 1024, 1), "vocab_size": len(tokens),
        "tokens": hashlib.sha256(b"\n".join(tokens)).hexdigest()[:16]}))


def spawn(args: argparse.Namespace, case: str, mode: str, megabytes: float) -> dict:
    """Run one case in a process of its own; print its JSON line and return it."""
    python = sys.executable if case == "ours" else args.baseline_python
    command = [python, __file__, f"--data={args.data}", f"--case={case}", f"--mode={mode}",
               f"--megabytes={megabytes}"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    print(done.stdout, end="", flush=True)
    return json.loads(done.stdout)


def main(args: argparse.Namespace) -> None:
    if args.case:
        return run_case(args)
    cases = ["ours"] + [case for case in args.contenders if args.baseline_python]
    for megabytes in args.megabytes_list:
        for mode in ("list", "stream"):
            results = {case: [] for case in cases}
            for _ in range(args.rounds):
                for case in cases:
                    results[case].append(spawn(args, case, mode, megabytes))
            ours = results.pop("ours")
            for case, theirs in results.items():
                print(json.dumps({
                    "against": case, "mode": mode, "mb": ours[0]["mb"], "rounds": args.rounds,
                    "times_faster": round(median(theirs, "seconds") / median(ours, "seconds"), 2),
                    "rss_ratio": round(median(ours, "peak_rss_mb") / median(theirs, "peak_rss_mb"), 3),
                    "same_tokens": len({run["tokens"] for run in theirs + ours}) == 1}), flush=True)


def median(runs: list[dict], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of train_*.parquet with a text column")
    add("--baseline-python", type=Path, help="interpreter that has the other trainers")
    add("--contenders", nargs="*", choices=list(CONTENDERS)[1:], default=["rustbpe-0.1.0"])
    add("--megabytes-list", nargs="*", type=float, default=[100, 1e6],
        help="MB of text to train on; all of it where there is less")
    add("--rounds", type=int, default=3)
    # what `spawn` passes on to `run_case`
    add("--case", choices=CONTENDERS, help=argparse.SUPPRESS)
    add("--mode", choices=("list", "stream"), default="list", help=argparse.SUPPRESS)
    add("--megabytes", type=float, default=100, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main(parser().parse_args())
