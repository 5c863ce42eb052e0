"""Best-fit packing of token arrays into fixed-length rows. Pure: no clock, no randomness.

Pretraining crops what does not fit (rows are 100% full, every token trains); finetuning pads instead (an
answer is never cut in half). Every row starts with the oldest buffered document, so that none waits for more
rows than there are documents in the buffer. A document longer than a row is cut into row-sized pieces."""
from collections.abc import Iterable

import numpy as np


class Packer:
    """A buffer of `documents`, oldest first, that gives out rows. They are its whole state: `Packer(row_len,
    packer.documents)` goes on exactly where `packer` stands. A document is an array whose first axis is
    tokens, (n,) or (n, k), and whose first token is <|bos|>; none is ever modified."""
    def __init__(self, row_len: int, documents: Iterable[np.ndarray] = ()):
        assert row_len >= 2, "a row needs <|bos|> and a target"
        self.row_len, self.documents = row_len, []
        for document in documents:
            self.add(document)

    def add(self, document: np.ndarray) -> None:
        """Buffer a document; a longer one than a row as pieces of at most a row, each with its <|bos|>."""
        bos, body, step = document[:1], document[1:], self.row_len - 1
        for start in range(0, max(1, len(body)), step):
            self.documents.append(np.concatenate([bos, body[start : start + step]]))

    def take(self, crop: bool) -> np.ndarray:
        """The next row: the oldest document, then again and again the longest that fits. What is left when
        none fits is filled with the head of the shortest document, whose rest is dropped (`crop`), or left
        open for padding. Shape (row_len,) or (row_len, k); shorter without `crop` or at the end."""
        held, parts, room = self.documents, [self.documents.pop(0)], self.row_len
        sizes = [len(document) for document in held]
        while (room := room - len(parts[-1])) and held:
            fitting = [size for size in sizes if size <= room]
            if not fitting and not crop:
                break
            if fitting:
                at = sizes.index(max(fitting))          # the oldest of them
            else:
                at = len(held) - 1 - sizes[::-1].index(min(sizes))              # the newest
            parts.append(held.pop(at)[:room])
            sizes.pop(at)
        return np.concatenate(parts)
