"""Train the tokenizer: the first thing that a user waits for, so it says how fast it is.

    python -m scripts.tok_train                                       # on the embedded almanac
    python -m scripts.tok_train --data ~/texts --vocab-size=4096
Reads the training shards only, as a stream. The tokenizer is then found under base_dir()/"tokenizer"."""
import argparse
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from nanochat import dataset
from nanochat.common import RunLog, base_dir, die, new_parser, require_positive
from nanochat.tokenizer import SMALLEST, Tokenizer

LOGGED_FILES = 20                                       # whose words the spelling tasks may take

def excerpt(texts: Iterable[str], max_chars: int, doc_cap: int, counts: Counter) -> Iterator[str]:
    """`doc_cap` characters of each text, `max_chars` in all, and how much this is."""
    for text in texts:
        text = text[:min(doc_cap, max_chars - counts["chars"])]
        counts.update(documents=1, chars=len(text), bytes=len(text.encode()))
        yield text
        if counts["chars"] >= max_chars:
            return

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
    counts, start = Counter(), time.perf_counter()
    texts = excerpt(dataset.texts(data.train), args.max_chars, args.doc_cap, counts)
    tokenizer = Tokenizer.train(texts, args.vocab_size)
    seconds = time.perf_counter() - start
    if not counts["chars"]:
        die(f"{data.name}: the training shards hold no text", hint="name other text with --data")
    tokenizer.save()
    megabytes, folder = counts["bytes"] / 1e6, base_dir() / "tokenizer"
    print(f"tokenizer: {megabytes:,.1f} MB in {seconds:.2f} s = {megabytes / seconds:,.1f} MB/s, "
          f"{counts['documents']:,} documents of {data.name}")
    print(f"tokenizer: {tokenizer.vocab_size:,} tokens, hash {tokenizer.hash[:8]}, in {folder}")
    RunLog(folder / "tok_train.jsonl").write(
        stage="tok_train", data=data.name, files=data.train[:LOGGED_FILES], **counts,
        vocab_size=tokenizer.vocab_size, hash=tokenizer.hash, seconds=round(seconds, 3),
        mb_per_second=round(megabytes / seconds, 1))

if __name__ == "__main__":
    main(parser().parse_args())
