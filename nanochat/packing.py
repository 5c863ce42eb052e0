"""Best-fit packing of token arrays into fixed-length rows. Pure: no clock, no randomness.

Pretraining crops what does not fit (rows are 100% full, every token trains); finetuning pads instead (an
answer is never cut in half). Every row starts with the oldest buffered document, so that none waits for more
rows than there are documents in the buffer. A document longer than a row is cut into row-sized pieces."""
from bisect import bisect_right, insort
from collections.abc import Iterable
from itertools import count
import numpy as np

class Packer:
    """A buffer of documents that gives out rows. The buffered documents, in order, are its whole state:
    `Packer(row_len, packer.documents())` goes on exactly where `packer` stands. A document is an array whose
    first axis is tokens, (n,) or (n, k), and whose first token is <|bos|>."""
    def __init__(self, row_len: int, documents: Iterable[np.ndarray] = ()):
        assert row_len >= 2, "a row needs <|bos|> and a target"
        self.row_len = row_len
        self.tokens = 0                                 # buffered now, the <|bos|> of each piece included
        self._ages = count(0, -1)                       # falling, so that the oldest is the largest
        self._held: list[tuple[int, int, np.ndarray]] = []      # sorted (length, age, document)
        for document in documents:
            self.add(document)

    def __len__(self) -> int:
        """Number of buffered documents (pieces of long ones count each)."""
        return len(self._held)

    def documents(self) -> list[np.ndarray]:
        """The buffered documents, oldest first; never modified later, so a caller may keep the list."""
        return [document for _, _, document in sorted(self._held, key=lambda held: held[1], reverse=True)]

    def add(self, document: np.ndarray) -> None:
        """Buffer a document; a longer one than a row as pieces of at most a row, each with its <|bos|>."""
        bos, body, step = document[:1], document[1:], self.row_len - 1
        for start in range(0, max(1, len(body)), step):
            piece = np.concatenate([bos, body[start : start + step]])
            self.tokens += len(piece)
            insort(self._held, (len(piece), next(self._ages), piece))

    def take(self, crop: bool) -> np.ndarray:
        """The next row: the oldest document, then again and again the longest that fits. What is left when
        none fits is filled with the head of the shortest document, whose rest is dropped (`crop`), or left
        open for padding. Shape (row_len,) or (row_len, k); shorter without `crop` or at the end."""
        assert self._held, "the packer is empty"
        parts, room = [], self.row_len
        at = max(range(len(self._held)), key=lambda at: self._held[at][1])      # the oldest
        while at >= 0:
            length, _, document = self._held.pop(at)
            self.tokens -= length
            parts.append(document[:room])
            room -= len(parts[-1])
            at = bisect_right(self._held, (room, 1)) - 1                        # the longest that fits
            if at < 0 and crop and room and self._held:
                at = 0                                                          # the shortest: least is lost
        return np.concatenate(parts)
