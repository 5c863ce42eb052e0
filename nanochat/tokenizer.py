"""Text <-> token ids: trained by our rustbpe, run by tiktoken, stored as text that a person can read.

Ordinary text can never become a special token: `encode` does not know their names, and only `special()` hands
out their ids. A tokenizer is known by its hash, so that a model refuses any other one, same size or not.
Used by everything that touches text; rustbpe is imported only to train."""
import base64
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
import tiktoken
from nanochat.common import atomic_write, base_dir, die, sha256

SPECIAL_TOKENS = (                                      # the last ids of the vocabulary, in this order
    "<|bos|>", "<|user_start|>", "<|user_end|>", "<|assistant_start|>", "<|assistant_end|>",
    "<|python_start|>", "<|python_end|>", "<|output_start|>", "<|output_end|>",
)
SMALLEST = 256 + len(SPECIAL_TOKENS)                    # of a vocabulary: all bytes and the specials
# GPT-4's pattern, but numbers are cut into at most two digits: small vocabularies cannot afford three.
SPLIT_PATTERN = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}"
                 r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+")
CONFIG_FILE, RANKS_FILE = "tokenizer.json", "ranks.tiktoken"

class Tokenizer:
    """`ranks`: the bytes of every ordinary token, by id; the specials follow."""
    def __init__(self, ranks: Sequence[bytes], pattern: str = SPLIT_PATTERN):
        self.pattern = pattern
        self._ranks = list(ranks)
        self._specials = {name: len(ranks) + i for i, name in enumerate(SPECIAL_TOKENS)}
        by_bytes = {token: id for id, token in enumerate(ranks)}
        assert len(by_bytes) == len(ranks), "two tokens have the same bytes"
        self._tiktoken = tiktoken.Encoding("nanochat", pat_str=pattern, mergeable_ranks=by_bytes,
                                           special_tokens=self._specials)
        self.vocab_size = self._tiktoken.n_vocab
        self.bos = self.special("<|bos|>")
        self.hash = sha256("\n".join([pattern, *SPECIAL_TOKENS, self._ranks_text()]).encode())

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """vocab_size includes bytes and specials (ValueError if too small for them); a small corpus may yield
        fewer tokens."""
        import rustbpe
        return cls(rustbpe.train(texts, vocab_size - len(SPECIAL_TOKENS), pattern=SPLIT_PATTERN))

    @classmethod
    def load(cls, directory: Path | None = None) -> "Tokenizer":
        """From `directory`, by default base_dir()/"tokenizer". Dies where that is missing or corrupt."""
        directory = Path(directory or base_dir() / "tokenizer")
        if not (directory / CONFIG_FILE).is_file():
            die(f"no tokenizer in {directory}", hint="train one with `python -m scripts.tok_train`")
        try:
            config = json.loads((directory / CONFIG_FILE).read_text(encoding="utf-8"))
            lines = (directory / config["ranks"]).read_text(encoding="ascii").splitlines()
            ranks = [base64.b64decode(token, validate=True) for token, _ in map(str.split, lines)]
            tokenizer = cls(ranks, config["pattern"])
            if tokenizer.hash != config["hash"] or tuple(config["special_tokens"]) != SPECIAL_TOKENS:
                raise ValueError("it does not match its hash")
        except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
            die(f"the tokenizer in {directory} cannot be read: {error!r}",
                hint="restore its files, or train it again: models made with it will not fit another one")
        return tokenizer

    def save(self, directory: Path | None = None) -> None:
        """Two text files; the one that `load` looks for is written last."""
        directory = Path(directory or base_dir() / "tokenizer")
        atomic_write(directory / RANKS_FILE, self._ranks_text())
        config = {"format": 1, "pattern": self.pattern, "special_tokens": SPECIAL_TOKENS,
                  "vocab_size": self.vocab_size, "ranks": RANKS_FILE, "hash": self.hash}
        atomic_write(directory / CONFIG_FILE, json.dumps(config, indent=2, ensure_ascii=False) + "\n")

    def special(self, name: str) -> int:
        """Id of a special token by its name; KeyError if there is none of that name."""
        return self._specials[name]

    def encode(self, text: str) -> list[int]:
        """Ordinary tokens only, whatever the text says."""
        return self._tiktoken.encode_ordinary(text)

    def encode_batch(self, texts: Sequence[str], num_threads: int = 2) -> list[list[int]]:
        return self._tiktoken.encode_ordinary_batch(list(texts), num_threads=num_threads)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Raw bytes, which may end inside a character; specials by their names."""
        return self._tiktoken.decode_bytes(list(ids))

    def decode(self, ids: Iterable[int]) -> str:
        return self.decode_bytes(ids).decode(errors="replace")

    def token_bytes(self) -> list[int]:
        """Length of each id in raw bytes, 0 for specials: the denominator of bits per byte."""
        return [len(token) for token in self._ranks] + [0] * len(SPECIAL_TOKENS)

    def _ranks_text(self) -> str:
        """One line per token, as tiktoken stores them: base64 and rank."""
        return "".join(f"{base64.b64encode(token).decode()} {id}\n" for id, token in enumerate(self._ranks))
