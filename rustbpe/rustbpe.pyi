"""Byte pair encoding, trained fast."""
from collections.abc import Iterable

PATTERN: str
"""The default split pattern: GPT-4's, with numbers cut into at most two digits."""

def train(texts: Iterable[str], vocab_size: int, pattern: str | None = None) -> list[bytes]:
    """The bytes of every token, in the order of their ids: the 256 single bytes, then one token per merge.

    Merges the most frequent pair, of equally frequent ones the pair with the smaller ids. Fewer than
    `vocab_size` tokens come back when every word has become one token. `texts` is read once, as a stream:
    memory grows with the distinct words alone. A thread per core counts. Ctrl-C stops it.

    Raises ValueError for a vocab_size below 256, a pattern that does not compile or a text with lone
    surrogates, TypeError for an item that is no str."""
