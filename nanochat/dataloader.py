"""Batches to pretrain on, to learn to chat from, and to validate on.

An optimizer step has `slots` micro-batches (gradient accumulation x ranks). Each slot is an endless stream of
its own, over every slots-th document, and rank r of W serves slots r, r + W, ... So two ranks see exactly
what one rank with twice the accumulation sees, no two slots share a document within an epoch, and a rank
tokenizes only what it trains on."""
# B rows, T context, W ranks. A packed row has T + 1 tokens: inputs lack its last, targets its first.
import base64
import math
import random
import weakref
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import cycle, islice
from pathlib import Path
import numpy as np
import torch
from nanochat.chat import render_conversation
from nanochat.common import die, sha256
from nanochat.dataset import read_row_group, row_groups, texts, up_to
from nanochat.packing import Packer

# Documents to pack from: 96.3% of the tokens of web text are kept at T = 2,048. With 1,024 documents it would
# be 97.5%, but long ones would wait longer.
BUFFER = 128
CHUNK = 128             # documents tokenized at once
BATCHES_AHEAD = 4       # made before they are asked for
BYTES_PER_TOKEN = 4     # of validation text, whatever the tokenizer

def _read_documents(tokenizer, groups: list, read_group: Callable, slots: int, slot: int, epoch: int,
                    group: int = 0, document: int = 0) -> Iterator[tuple[dict, np.ndarray]]:
    """Of one epoch the documents slot, slot + slots, ... of parquet files: (n,) <|bos|> and ids, the empty
    ones left out. The order of row groups is drawn anew every epoch."""
    starts = np.cumsum([0] + [count for _, _, count in groups]).tolist()
    order = shuffled(len(groups), epoch)
    for at in range(group, len(order)):
        path, index, _ = groups[order[at]]
        # Shifted by one document per epoch, so that a slot gets other documents every time.
        mine = read_group(path, index)[(slot - starts[order[at]] - epoch) % slots :: slots]
        for chunk in _chunks(mine[document:], CHUNK):
            for ids in tokenizer.encode_batch(chunk):
                document += 1
                if ids:
                    position = {"epoch": epoch, "group": at, "document": document}
                    yield position, np.array([tokenizer.bos, *ids], dtype=np.int32)
        document = 0

def _read_conversations(tokenizer, conversations: Sequence[dict], seed: int, row_len: int, slots: int,
                        slot: int, epoch: int, conversation: int = 0) -> Iterator[tuple[dict, np.ndarray]]:
    """Of one epoch the conversations slot, slot + slots, ... in an order drawn anew every epoch: (n, 2) ids
    and mask. One without a target within the context is left out."""
    for i in shuffled(len(conversations), f"{seed} {epoch}")[slot + conversation * slots :: slots]:
        conversation += 1
        ids, mask = render_conversation(tokenizer, conversations[i], row_len)
        if any(mask[1:]):
            yield {"epoch": epoch, "conversation": conversation}, np.array([ids, mask], dtype=np.int32).T

@lru_cache(maxsize=2)
def shuffled(count: int, seed: int | str) -> Sequence[int]:
    """0 .. count - 1 in an order that the seed decides."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order

def _stream(read: Callable[..., Iterator], rows: int, seq_len: int, crop: bool, pad: int, pin: bool,
            position: dict, held: list[np.ndarray]) -> Iterator[tuple]:
    """The batches of one slot, endless: (snapshot, number of targets, inputs, targets). read(**position)
    yields the rest of an epoch, each document with the position behind it. Position and buffered documents
    are the whole state, a snapshot; taken after every batch, so no token is copied."""
    packer = Packer(seq_len + 1, held)
    def documents() -> Iterator[np.ndarray]:
        nonlocal position
        empty_epochs = 0
        while empty_epochs < 2:                         # a restored position may be the end of one
            empty_epochs += 1
            for behind, document in read(**position):
                position, empty_epochs = behind, 0      # replaced, never modified: a snapshot may keep it
                yield document
            position = {"epoch": position["epoch"] + 1}
        die(f"nothing to learn: texts are empty, or no word of the assistant is within {seq_len + 1} tokens",
            hint="other data, or a longer --max-seq-len")
    for made in _chunks(_packed(packer, documents(), crop), rows):
        *tensors, _ = _to_batch(made, seq_len, pad)
        snapshot, counted = (position, packer.documents()), int((tensors[1] != -1).sum())
        yield snapshot, counted, *(tensor.pin_memory() if pin else tensor for tensor in tensors)

class Loader(AbstractContextManager, Iterator):
    """Endless iterator over (inputs (B, T) int32, targets (B, T) int64; -1 = ignored) on `device`; `targets`:
    how many of the last batch count. Close it, or use it in a `with`. Errors of the background thread are
    raised by `next`; user errors exit with 2."""
    def __init__(self, identity: dict, count: int, read: Callable[..., Iterator], crop: bool, pad: int,
                 rank: int, world_size: int, device: str | torch.device, state: dict | None):
        slots, rows, seq_len = (identity[key] for key in ("slots", "rows", "seq_len"))
        assert 0 <= rank < world_size and slots % world_size == 0, (rank, world_size, slots)
        if count < slots:
            die(f"{count} texts to learn from: fewer than {slots} micro-batches per step",
                hint="more data, or a smaller --total-batch-size")
        start = {"position": {"epoch": 0}, "buffer": _pack([])}
        state = state or {**identity, "turn": 0, "streams": {str(slot): start for slot in range(slots)}}
        for key, value in identity.items():
            if state[key] != value:
                die(f"the saved position in the data is for {key} = {state[key]}, this run has {value}",
                    hint="resume with the data and settings of the saved run, or start a new one")
        self.device, on_gpu = torch.device(device), torch.device(device).type == "cuda"
        self.identity, self.turn = identity, state["turn"]      # which of this rank's slots comes next
        saved = {slot: state["streams"][str(slot)] for slot in range(rank, slots, world_size)}
        self.snapshots = {slot: (each["position"], _unpack(each["buffer"])) for slot, each in saved.items()}
        streams = {slot: _stream(partial(read, slot), rows, seq_len, crop, pad, on_gpu, *snapshot)
                   for slot, snapshot in self.snapshots.items()}
        made = ((slot, *next(streams[slot])) for slot in islice(cycle(streams), self.turn, None))
        # Else pinning would open a context on GPU 0 for every rank.
        prepare = partial(torch.cuda.set_device, self.device) if on_gpu else None
        pool = ThreadPoolExecutor(1, initializer=prepare)
        self.make = partial(pool.submit, next, made)
        self.made = deque(self.make() for _ in range(BATCHES_AHEAD))
        self.close = weakref.finalize(self, pool.shutdown, cancel_futures=True)         # runs at exit, too

    def __next__(self) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.close.alive, "the loader is closed"
        slot, self.snapshots[slot], self.targets, *tensors = self.made.popleft().result()
        self.made.append(self.make())
        self.turn = (self.turn + 1) % len(self.snapshots)
        # Pinned blocks are freed here while they may still be copied from: torch's host allocator keeps each
        # until an event behind its copy has passed, so they are the double buffers.
        return tuple(tensor.to(self.device, non_blocking=True) for tensor in tensors)

    def state(self) -> dict:
        """JSON-able position after the batch last handed out, whatever was made ahead: a loader made with it
        goes on with the very next batch. The `streams` of all ranks, merged, fit any world size."""
        streams = {str(slot): {"position": position, "buffer": _pack(documents)}
                   for slot, (position, documents) in self.snapshots.items()}
        return {**self.identity, "turn": self.turn, "streams": streams}

    def __exit__(self, *_) -> None:
        self.close()

class PretrainLoader(Loader):
    """Batches of rows of exactly T + 1 tokens, 100% full, each starting with <|bos|>, from parquet files.
    slots: micro-batches of a step over all ranks (default: a rank's); state: an earlier loader's."""
    def __init__(self, tokenizer, paths: Sequence[Path], rows: int, seq_len: int, rank: int = 0,
                 world_size: int = 1, slots: int | None = None, device: str | torch.device = "cpu",
                 state: dict | None = None):
        groups, slots = row_groups(paths), slots or world_size
        count = sum(documents for _, _, documents in groups)
        # Cached, as this rank's slots need the same groups at about the same time.
        read = partial(_read_documents, tokenizer, groups, lru_cache(maxsize=8)(read_row_group), slots)
        data = sha256(repr([(path.name, index, documents) for path, index, documents in groups]).encode())
        identity = {"kind": "pretrain", "slots": slots, "rows": rows, "seq_len": seq_len, "data": data}
        super().__init__(identity, count, read, True, tokenizer.bos, rank, world_size, device, state)

class ChatLoader(Loader):
    """Rows of conversations; targets are -1 except what the assistant wrote, and every row has at least one.
    Rows are padded, so that every conversation stays whole, or with `crop` packed full. Their order is drawn
    from `seed` anew every epoch. The rest is as in PretrainLoader."""
    def __init__(self, tokenizer, conversations: Sequence[dict], rows: int, seq_len: int, rank: int = 0,
                 world_size: int = 1, slots: int | None = None, device: str | torch.device = "cpu",
                 seed: int = 0, state: dict | None = None, crop: bool = False):
        count, slots = len(conversations), slots or world_size
        read = partial(_read_conversations, tokenizer, conversations, seed, seq_len + 1, slots)
        data = f"{count} conversations, seed {seed}{', packed full' * crop}"
        identity = {"kind": "chat", "slots": slots, "rows": rows, "seq_len": seq_len, "data": data}
        super().__init__(identity, count, read, crop, tokenizer.bos, rank, world_size, device, state)

@dataclass(frozen=True)
class Validation:
    """This rank's batches, on the CPU: inputs (B, T) int32; targets (B, T) int64, -1 = ignored; documents (B,
    T) int32: which one the target belongs to. `sizes`: bytes of all documents, the same on every rank."""
    batches: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
    sizes: list[int]

def validation(tokenizer, paths: Sequence[Path], rows: int, seq_len: int, max_tokens: float = math.inf,
               rank: int = 0, world_size: int = 1) -> Validation:
    """The documents of the files in their order, until they have 4 * max_tokens bytes, at least one: a token
    counts as 4 bytes, so that every tokenizer (whatever has .bos and .encode_batch) gets the same text. Rows
    are padded: every token of a text is a target exactly once, <|bos|> never. Rank r takes rows r, r + W, ...
    Batches are filled up with empty rows: as many of one shape on every rank."""
    batches, sizes, empty = [], [], np.array([[tokenizer.bos, 0]], dtype=np.int32)
    def numbered() -> Iterator[np.ndarray]:             # (n, 2): ids and number of the document, 0 at <|bos|>
        for chunk in _chunks(up_to(BYTES_PER_TOKEN * max_tokens, filter(None, texts(paths))), CHUNK):
            for text, ids in zip(chunk, tokenizer.encode_batch(chunk), strict=True):
                sizes.append(len(text.encode()))
                yield np.array([[tokenizer.bos, *ids], [0] + [len(sizes)] * len(ids)], dtype=np.int32).T
    for chunk in _chunks(_packed(Packer(seq_len + 1), numbered(), crop=False), rows * world_size):
        mine = chunk[rank::world_size]
        mine += [empty] * (rows - len(mine))
        inputs, targets, numbers = _to_batch(mine, seq_len, tokenizer.bos)
        batches.append((inputs, targets, (numbers - 1).clamp(min=0)))
    if not batches:
        die(f"the validation files have no text: {', '.join(map(str, paths)) or 'there are none'}")
    return Validation(batches, sizes)

def _chunks(items: Iterable, size: int) -> Iterator[list]:
    items = iter(items)
    return iter(lambda: list(islice(items, size)), [])

def _packed(packer: Packer, documents: Iterator[np.ndarray], crop: bool) -> Iterator[np.ndarray]:
    """Rows, each from a buffer of BUFFER documents and two rows' tokens, or of what is left at the end."""
    while True:
        while len(packer) < BUFFER or packer.tokens < 2 * packer.row_len:
            document = next(documents, None)
            if document is None:
                break
            packer.add(document)
        if not packer:
            return
        yield packer.take(crop)

def _to_batch(made: list[np.ndarray], seq_len: int, pad: int) -> tuple[torch.Tensor, ...]:
    """Packed rows, (n,) ids or (n, 2) ids and marks, to inputs (B, T) int32, targets (B, T) int64, which are
    -1 where the mark is 0, and the targets' marks (B, T) int32."""
    ids = np.full((len(made), seq_len + 1), pad)
    marks = np.zeros_like(ids)
    for i, row in enumerate(made):
        ids[i, : len(row)], marks[i, : len(row)] = row.T if row.ndim == 2 else (row, 1)
    targets = np.where(marks, ids, -1)
    return tuple(torch.from_numpy(each.astype(dtype)) for each, dtype in (
        (ids[:, :-1], np.int32), (targets[:, 1:], np.int64), (marks[:, 1:], np.int32)))

def _pack(documents: list[np.ndarray]) -> dict:
    """Token arrays -> JSON, about two bytes per token."""
    flat = np.concatenate(documents) if documents else np.empty(0, dtype=np.int32)          # (n,) or (n, 2)
    return {"lengths": [len(document) for document in documents], "width": flat.ndim,
            "int32": base64.b64encode(zlib.compress(flat.tobytes(), 1)).decode()}

def _unpack(packed: dict) -> list[np.ndarray]:
    flat = np.frombuffer(zlib.decompress(base64.b64decode(packed["int32"])), dtype=np.int32)
    rows = flat if packed["width"] == 1 else flat.reshape(-1, packed["width"])
    return np.split(rows, np.cumsum(packed["lengths"])[:-1]) if packed["lengths"] else []
