"""What came before the tokens of a forward pass: nothing (`Rows`), a beginning that several endings share
(`Branches`), or what a running conversation has kept (`KVCache`).

All answer the same four questions of the model, so that its layers never ask which of them they have: where
do these tokens stand, what was embedded before each, which key came before each, what do queries see."""
from collections.abc import Sequence
from itertools import accumulate, groupby
import torch
import torch.nn.functional as F
from torch import Tensor
from nanochat.attention import attend, attend_cached, attend_one, visible
from nanochat.scaling import Shape

# B rows, T new tokens, C width, H query heads, K kv heads, D head dim, L layers, S cache length

class Rows:
    """Whole rows that start with their first token: what training and evaluation see."""
    def begin(self, idx: Tensor, cos: Tensor, sin: Tensor) -> None:
        """Find the places of the tokens idx (B, T): `rotary` is then their cos and sin, each (T, 1, D)."""
        T = idx.size(1)
        assert T <= cos.size(0), f"{T} tokens in a context of {cos.size(0)}"
        self.rotary = cos[:T], sin[:T]

    def embedding_before(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> that of the token before, zero before the first."""
        return F.pad(x[:, :-1], (0, 0, 1, 0))

    def key_before(self, layer: int, k: Tensor) -> Tensor:
        """k (B, T, K, D) -> that of the token before, zero before the first."""
        return F.pad(k[:, :-1], (0, 0, 0, 0, 1, 0))

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        """q (B, T, H, D), k and v (B, T, K, D) -> (B, T, H, D)."""
        return attend(q, k, v, window)

class Branches:
    """Rows that branch: a beginning, then endings that do not see each other, all in one pass. A row is laid
    out as its beginning, padding up to P, and its endings, one behind the other. `parents` (B, T) is where
    the token before each stands, `places[b][i]` the range of T that ending i of row b has."""
    def __init__(self, trees: Sequence[tuple[list[int], list[list[int]]]], cos: Tensor, sin: Tensor):
        """(beginning, of a token at least, and endings) of each row; rotary tables (length, 1, D) each."""
        self.start = P = max(len(beginning) for beginning, _ in trees)
        T = P + max(1, *(sum(map(len, endings)) for _, endings in trees))
        # of each token: id, position, parent, and which ending it is of; -1 is a beginning, 0 padding
        facts = torch.zeros(4, len(trees), T, dtype=torch.int64)
        self.places: list[list[range]] = []
        for b, (beginning, endings) in enumerate(trees):
            n, at = len(beginning), P
            facts[:, b, :n] = torch.tensor([beginning, range(n), range(-1, n - 1), [-1] * n])
            self.places.append([])
            for number, ending in enumerate(endings, 1):
                size, places = len(ending), range(at, at + len(ending))
                facts[:, b, at:at + size] = torch.tensor(
                    [ending, range(n, n + size), [n - 1, *places][:size], [number] * size])
                self.places[b].append(places)
                at += size
        self.idx, self._positions, self.parents, branch = facts.to(cos.device)
        self._mine = (branch[:, None] == -1) | (branch[:, P:, None] == branch[:, None])     # (B, T - P, T)
        self._rows = torch.arange(len(trees), device=cos.device)[:, None]
        self._masks: dict[int, Tensor] = {}                     # window -> mask, shared by layers
        self._tables = cos, sin

    def begin(self, idx: Tensor, cos: Tensor, sin: Tensor) -> None:
        """`rotary`, (B, T, 1, D) each, from tables of its own: rows may be longer than the context."""
        self.rotary = tuple(table[self._positions] for table in self._tables)

    def embedding_before(self, x: Tensor) -> Tensor:
        before = x[self._rows, self.parents]
        before[:, 0] = 0
        return before

    def key_before(self, layer: int, k: Tensor) -> Tensor:
        return self.embedding_before(k)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        """Beginnings as whole rows; an ending sees its beginning and itself, within the window."""
        P = self.start
        if window not in self._masks:
            seen = visible(self._positions[:, P:], self._positions, window)
            self._masks[window] = (self._mine & seen)[:, None]
        first = attend(q[:, :P], k[:, :P], v[:, :P], window)
        rest = attend_cached(q[:, P:], k.transpose(1, 2), v.transpose(1, 2), self._masks[window])
        return torch.cat((first, rest), dim=1)

class KVCache:
    """What conversations have kept, a row each; those in use are the first ones. Each is as long as its own
    `lengths` says. A layer with a window keeps that many keys and no more, in a ring: position p lies in slot
    p % slots. On a CPU in fp32 whatever the model computes in: for one query that is faster, and exact."""
    def __init__(self, shape: Shape, rows: int, max_len: int, device: torch.device, dtype: torch.dtype):
        assert max_len <= shape.sequence_len, f"a cache of {max_len} in a context of {shape.sequence_len}"
        self.shape, self.max_len, self.lengths = shape, max_len, [0] * rows
        self.dtype = torch.float32 if device.type == "cpu" else dtype
        self.slots = [min(max_len, window + 1) for window in shape.windows]
        size = (2, rows, shape.n_kv_head)
        self.kv = [torch.zeros(*size, slots, shape.head_dim, device=device, dtype=self.dtype)
                   for slots in self.slots]             # keys and values (2, rows, K, slots, D) of each layer
        self.last_embedding = torch.zeros(rows, shape.n_embd, device=device, dtype=self.dtype)
        self.last_key = torch.zeros(shape.n_layer, *size[1:], shape.head_dim, device=device, dtype=self.dtype)
        places = torch.arange(2 * rows * shape.n_kv_head, device=device).view(size)
        self.places = {slots: slots * places for slots in self.slots}   # of slot 0 among all slots of a layer

    def reset(self, row: int) -> None:
        """Forget a row: what is appended next is its first token."""
        self.lengths[row] = 0
        self.last_embedding[row] = 0
        self.last_key[:, row] = 0

    def can_cut(self, row: int, length: int) -> bool:
        """Whether the first `length` tokens of a row are all still there: no ring has gone round."""
        return length == self.lengths[row] or self.lengths[row] <= min(self.slots)

    def insert(self, row: int, other: "KVCache", other_row: int, length: int | None = None,
               embedding: Tensor | None = None) -> None:
        """Copy a row of `other` (this cache too) into `row`: to join a running batch, or close a gap. Of a
        row that can be cut there, `length` tokens are enough; `embedding` (C,) is then the last one's."""
        whole = other.lengths[other_row]
        length = whole if length is None else length
        assert length <= self.max_len, f"row of {length} tokens into a cache of {self.max_len}"
        for mine, theirs in zip(self.kv, other.kv, strict=True):
            kept = min(length, mine.size(3))
            mine[:, row, :, :kept] = theirs[:, other_row, :, :kept]
        self.lengths[row] = length
        self.last_embedding[row] = other.last_embedding[other_row] if length == whole else embedding
        self.last_key[:, row] = other.last_key[:, other_row]
        if length < whole:                              # the next key has kept the half that is asked for
            for layer, kv in enumerate(other.kv):
                self.last_key[layer, row] = kv[0, other_row, :, length]

class Chunks:
    """counts[b] > 0 new tokens of each of the first rows of a cache, laid out one row behind the other as a
    single one of N: prompts of any length and rows that go on by one token share a pass without padding."""
    def __init__(self, cache: KVCache, counts: Sequence[int]):
        self._cache, rows, device = cache, len(counts), cache.last_embedding.device
        starts, ends = cache.lengths[:rows], list(accumulate(counts))
        lengths = [start + count for start, count in zip(starts, counts, strict=True)]
        assert max(lengths) <= cache.max_len, f"{max(lengths)} tokens in a cache of {cache.max_len}"
        cache.lengths[:rows] = lengths
        self._lengths, self.only_single = lengths, ends[-1] == rows
        self._rows, self._positions = slice(rows), torch.tensor(starts)         # of each token
        self._runs: list[tuple[int, int, int, slice]] = []      # first row, rows, position, tokens of the run
        if not self.only_single:
            self._positions = torch.cat([torch.arange(*each) for each in zip(starts, lengths, strict=True)])
            self._rows = torch.repeat_interleave(torch.tensor(counts)).to(device, non_blocking=True)
            self._first = torch.tensor([0, *ends[:-1]], device=device)
            self._last = torch.tensor(ends, device=device) - 1
            # new rows of one length that are side by side are attended to together
            alike = groupby(range(rows), lambda row: (counts[row], row if starts[row] else None))
            for (count, _), (first, *others) in alike:
                tokens = slice(ends[first] - count, ends[first] + count * len(others))
                if count > 1:
                    self._runs.append((first, 1 + len(others), starts[first], tokens))
        self._positions = self._positions.to(device, non_blocking=True)
        self._single = max((row + 1 for row in range(rows) if counts[row] == 1), default=0)
        self._plans: dict[int, tuple] = {}                      # slots of a layer -> _plan() of it
        self._masks: dict[tuple[int, int, int], Tensor] = {}

    def begin(self, idx: Tensor, cos: Tensor, sin: Tensor) -> None:
        """`rotary`: (N, 1, D) each, for idx (1, N)."""
        self.rotary = cos[self._positions], sin[self._positions]

    def last(self, x: Tensor) -> Tensor:
        """x (1, N, ...) -> that of the last token of each row, (rows, ...)."""
        return x[0] if self.only_single else x[0, self._last]

    def embedding_before(self, x: Tensor) -> Tensor:
        """As Rows has it, but the first of a row's tokens looks back at the last one of the call before."""
        return self._shift(self._cache.last_embedding, x)

    def key_before(self, layer: int, k: Tensor) -> Tensor:
        return self._shift(self._cache.last_key[layer], k)

    def _shift(self, kept: Tensor, x: Tensor) -> Tensor:
        """What came before each token of x (1, N, ...), where `kept` (rows, ...) was; keeps the new last."""
        kept = kept[:len(self._lengths)]
        if self.only_single:
            before = kept.to(x.dtype, copy=True)[None]
        else:
            before = x.roll(1, dims=1)
            before[0, self._first] = kept.to(x.dtype)
        kept.copy_(self.last(x))
        return before

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        """Keep k and v (1, N, K, D); let q (1, N, H, D) see what is kept, in the window -> like q."""
        cache, y = self._cache, None if self.only_single else torch.empty_like(q)
        for *run, tokens in self._runs:                 # before their keys push others out of a ring
            y[:, tokens] = self._attend_run(run, layer, q[:, tokens], k[:, tokens], v[:, tokens], window)
        slots, kv, new = cache.slots[layer], cache.kv[layer], torch.cat((k, v)).to(cache.dtype)
        if slots not in self._plans:
            self._plans[slots] = self._plan(slots)
        places, chosen, span, bias = self._plans[slots]
        new = new if chosen is None else new[:, chosen]
        kv.view(-1, kv.size(-1)).index_copy_(0, places, new.flatten(0, 2))
        if not self._single:
            return y
        keys, values = (each.flatten(0, 1)[:self._single * k.size(2), :span] for each in kv.unbind())
        one = attend_one(self.last(q)[:self._single], keys, values, bias)
        if self.only_single:
            return one[None]
        y[0, self._last[:self._single]] = one
        return y

    def _plan(self, slots: int) -> tuple[Tensor, Tensor | None, int, Tensor | None]:
        """For layers with so many slots: places of the new keys and values (2 * tokens * K,), of which tokens
        (None: all), and for rows that go on by one token how many slots are looked at, and an additive mask
        of these (rows * K, 1, span) or None."""
        cache, positions, rows, chosen = self._cache, self._positions, self._rows, None
        if any(each.stop - each.start > count * slots for _, count, _, each in self._runs):
            ends = torch.tensor(self._lengths, device=positions.device)
            chosen = (positions >= ends[rows] - slots).nonzero().squeeze(1)
            rows, positions = rows[chosen], positions[chosen]
        starts = cache.places[slots][:, rows]                           # (2, tokens, K)
        places = (starts + (positions % slots)[:, None]).flatten()
        lengths, bias = self._lengths[:self._single], None
        span = min(slots, max(lengths, default=0))
        if min(lengths, default=span) < span:
            ends = torch.tensor(lengths, device=positions.device).repeat_interleave(starts.size(2))
            hidden = torch.arange(span, device=ends.device) >= ends[:, None]
            bias = torch.zeros(hidden.shape, device=ends.device).masked_fill_(hidden, float("-inf"))[:, None]
        return places, chosen, span, bias

    def _attend_run(self, run: list[int], layer: int, q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        """New rows of equal length see themselves alone, other chunks what their row has kept, too."""
        row, rows, start = run
        if start == 0:
            return attend(*(x.unflatten(1, (rows, -1))[0] for x in (q, k, v)), window).flatten(0, 1)[None]
        old, kv = min(start, window), self._cache.kv[layer]
        places = torch.arange(start - old, start, device=q.device) % kv.size(3)
        kept = kv[:, row].index_select(2, places).to(q.dtype)                              # (2, K, old, D)
        k, v = (torch.cat((kept[i][None], new.transpose(1, 2)), dim=2) for i, new in enumerate((k, v)))
        if (key := (row, old, window)) not in self._masks:
            positions = torch.arange(old + q.size(1), device=q.device)
            self._masks[key] = visible(positions[old:], positions, window)
        return attend_cached(q, k, v, self._masks[key])
