"""Train the tokenizer: the first thing that a user waits for, so it says how fast it is.

    python -m scripts.tok_train                                       # on the embedded almanac
    python -m scripts.tok_train --data ~/texts --vocab-size=4096
Reads the training shards only, as a stream. The tokenizer is then found under base_dir()/"tokenizer"."""
import argparse
import sys
import time
from collections.abc import Iterable, Iterator

from nanochat import dataset
from nanochat.common import RunLog, base_dir, die, new_parser, require_positive
from nanochat.tokenizer import SMALLEST, Tokenizer

LOGGED_FILES = 20                                       # whose words the spelling tasks may take

class Excerpt:
    """`doc_cap` characters of each text, `max_chars` in all. Counts what it gives, and follows the training
    with a line on a terminal, rewritten a few times per second."""
    def __init__(self, texts: Iterable[str], max_chars: int, doc_cap: int):
        self._texts, self._max_chars, self._doc_cap = texts, max_chars, doc_cap
        self.documents = self.chars = self.bytes = 0
        self._shown = self._start = time.perf_counter()

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            text = text[: min(self._doc_cap, self._max_chars - self.chars)]
            self.documents += 1
            self.chars += len(text)
            yield text
            if self.chars >= self._max_chars:
                return

    def progress(self, phase: str, done: int, total: int) -> None:
        """What rustbpe.train calls."""
        now, state = time.perf_counter(), f"{done:,} of {total:,} merges"
        if phase == "count":
            self.bytes, state = done, f"{done / 1e6:,.0f} MB read"
        if sys.stderr.isatty() and now - self._shown > 0.2:
            self._shown = now
            print(f"\rtokenizer: {state}, {now - self._start:.1f} s ", end="", file=sys.stderr, flush=True)

def parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    dataset.add_arguments(parser)
    add = parser.add_argument
    add("--vocab-size", type=int, default=32768, help=f"tokens, the {SMALLEST} bytes and specials included")
    add("--max-chars", type=int, default=2_000_000_000, help="characters to read, at most")
    add("--doc-cap", type=int, default=10_000, help="characters to read per document, at most")
    return parser

def main(args: argparse.Namespace) -> None:
    if args.vocab_size < SMALLEST:
        die(f"--vocab-size={args.vocab_size} is less than the {SMALLEST} bytes and specials",
            hint=f"at least --vocab-size={SMALLEST}; 32768 is usual")
    require_positive(args, "max_chars", "doc_cap")
    data = dataset.prepare(**dataset.choose(args))
    start = time.perf_counter()
    excerpt = Excerpt(dataset.texts(data.train), args.max_chars, args.doc_cap)
    tokenizer = Tokenizer.train(excerpt, args.vocab_size, excerpt.progress)
    seconds = time.perf_counter() - start
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    if excerpt.chars == 0:
        die(f"{data.name}: the training shards hold no text", hint="name other text with --data")
    tokenizer.save()
    megabytes, folder = excerpt.bytes / 1e6, base_dir() / "tokenizer"
    print(f"tokenizer: {megabytes:,.1f} MB in {seconds:.2f} s = {megabytes / seconds:,.1f} MB/s, "
          f"{excerpt.documents:,} documents of {data.name}")
    print(f"tokenizer: {tokenizer.vocab_size:,} tokens, hash {tokenizer.hash[:8]}, in {folder}")
    if tokenizer.vocab_size < args.vocab_size:
        print(f"tokenizer: fewer than {args.vocab_size:,}, as every word of this text is one token now")
    RunLog(folder / "tok_train.jsonl").write(
        stage="tok_train", data=data.name, files=data.train[:LOGGED_FILES], documents=excerpt.documents,
        chars=excerpt.chars, bytes=excerpt.bytes, vocab_size=tokenizer.vocab_size, hash=tokenizer.hash,
        seconds=round(seconds, 3), mb_per_second=round(megabytes / seconds, 1))

if __name__ == "__main__":
    main(parser().parse_args())
