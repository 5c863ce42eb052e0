"""Best-fit packing of token arrays into fixed-length rows. Pure: arrays in, rows out, no clock, no
randomness.

Pretraining crops what does not fit (rows are 100% full, every token trains); finetuning pads instead (an
answer is never cut in half). Every row starts with the oldest buffered document, so that none waits for more
rows than there are documents in the buffer. A document longer than a row is cut into row-sized pieces."""

from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from collections.abc import Iterable

import numpy as np


class Packer:
    """A buffer of documents that gives out rows. The buffered documents, in order, are its whole state:
    `Packer(row_len, packer.documents())` goes on exactly where `packer` stands. A document is an array whose
    first axis is tokens, (n,) or (n, k), and whose first token is <|bos|>."""

    def __init__(self, row_len: int, documents: Iterable[np.ndarray] = ()):
        assert row_len >= 2, "a row needs <|bos|> and a target"
        self.row_len = row_len
        self.tokens = 0                                 # buffered now, the <|bos|> of each piece included
        self._documents: OrderedDict[int, np.ndarray] = OrderedDict()       # serial -> document, oldest first
        self._by_length: list[tuple[int, int]] = []     # sorted (length, -serial): the oldest of equals last
        self._serial = 0
        for document in documents:
            self.add(document)

    def __len__(self) -> int:
        """Number of buffered documents (pieces of long ones count each)."""
        return len(self._documents)

    def documents(self) -> list[np.ndarray]:
        """The buffered documents, oldest first; never modified later, so a caller may keep the list."""
        return list(self._documents.values())

    def add(self, document: np.ndarray) -> None:
        """Buffer a document; a longer one than a row as pieces of at most a row, each with its <|bos|>."""
        bos, body, step = document[:1], document[1:], self.row_len - 1
        for start in range(0, max(1, len(body)), step):
            piece = np.concatenate([bos, body[start : start + step]])
            self._documents[self._serial] = piece
            self.tokens += len(piece)
            insort(self._by_length, (len(piece), -self._serial))
            self._serial += 1

    def take(self, crop: bool) -> np.ndarray:
        """The next row: the oldest document, then again and again the longest that fits. What is left when
        none fits is filled with the head of the shortest document, whose rest is dropped (`crop`), or left
        open for padding. Shape (row_len,) or (row_len, k); shorter without `crop` or at the end."""
        assert self._documents, "the packer is empty"
        parts, room = [], self.row_len
        while room and self._documents:
            fitting = bisect_right(self._by_length, (room, 0))
            if not parts:
                serial = next(iter(self._documents))
            elif fitting:
                serial = -self._by_length[fitting - 1][1]
            elif crop:
                serial = -self._by_length[0][1]         # the shortest: least is lost
            else:
                break
            document = self._documents.pop(serial)
            del self._by_length[bisect_left(self._by_length, (len(document), -serial))]
            self.tokens -= len(document)
            parts.append(document[:room])
            room -= len(parts[-1])
        return np.concatenate(parts)
