"""What came before the tokens of a forward pass: nothing (`Rows`), a beginning that several endings share
(`Branches`), or what a running conversation has kept (`KVCache`).

All answer the same four questions of the model, so that its layers never ask which of them they have: where
do these tokens stand, what was embedded before each, which key came before each, what do queries see."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.attention import attend, attend_cached, cache_mask
from nanochat.scaling import Shape

# B rows, T new tokens, C width, H query heads, K kv heads, D head dim, L layers, S cache length


class Rows:
    """Whole rows that start with their first token: what training and evaluation see."""

    def begin(self, idx: Tensor, cos: Tensor, sin: Tensor) -> None:
        """Find the places of the tokens idx (B, T): `rotary` is then their cos and sin, each (T, 1, D/2)."""
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
        """(beginning, of a token at least, and endings) of each row; rotary tables (length, 1, D/2) each."""
        self.start = P = max(len(beginning) for beginning, _ in trees)
        T = P + max(1, *(sum(map(len, endings)) for _, endings in trees))
        ids, positions, parents, branch = torch.zeros(4, len(trees), T, dtype=torch.int64)
        positions[:, :P], parents[:, 1:P] = torch.arange(P), torch.arange(P - 1)
        lengths = torch.tensor([len(beginning) for beginning, _ in trees])
        positions[:, P:], branch[:, P:] = lengths[:, None], -1      # padding sees a beginning: no row is NaN
        self.places: list[list[range]] = []
        for b, (beginning, endings) in enumerate(trees):
            ids[b, :len(beginning)] = torch.tensor(beginning)
            self.places.append([])
            at, first = P, len(beginning)
            for number, ending in enumerate(endings, 1):
                here, places = slice(at, at + len(ending)), range(at, at + len(ending))
                ids[b, here], branch[b, here] = torch.tensor(ending, dtype=torch.int64), number
                positions[b, here] = torch.arange(first, first + len(ending))
                parents[b, here] = torch.tensor([first - 1, *places][:len(ending)], dtype=torch.int64)
                self.places[b].append(places)
                at += len(ending)
        self.idx, self._positions, self.parents, self._branch, self._lengths = (
            each.to(cos.device) for each in (ids, positions, parents, branch, lengths))
        self._rows = torch.arange(len(trees), device=cos.device)[:, None]
        self._masks: dict[int, Tensor] = {}                     # window -> mask, shared by layers
        self._tables = cos, sin

    def begin(self, idx: Tensor, cos: Tensor, sin: Tensor) -> None:
        """`rotary`, (B, T, 1, D/2) each, from tables of its own: rows may be longer than the context."""
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
            self._masks[window] = self._seen(P, window)
        first = attend(q[:, :P], k[:, :P], v[:, :P], window)
        rest = attend_cached(q[:, P:], k.transpose(1, 2), v.transpose(1, 2), self._masks[window])
        return torch.cat((first, rest), dim=1)

    def _seen(self, P: int, window: int) -> Tensor:
        """What tokens of endings see, bool (B, 1, T - P, T)."""
        distance = self._positions[:, P:, None] - self._positions[:, None]
        begins = torch.arange(distance.size(2), device=distance.device) < self._lengths[:, None]    # (B, T)
        mine = begins[:, None] | (self._branch[:, P:, None] == self._branch[:, None])
        return (mine & (distance >= 0) & (distance <= window))[:, None]


class KVCache:
    """What a batch of independent rows has seen, each as long as its own `lengths` says. Rows in use are the
    first ones: a forward pass works on as many as it is given tokens for. Elements: 2 * L * B * S * K * D."""

    def __init__(self, shape: Shape, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype):
        assert max_len <= shape.sequence_len, f"a cache of {max_len} in a context of {shape.sequence_len}"
        size = (shape.n_layer, batch_size, shape.n_kv_head, max_len, shape.head_dim)
        self.k = torch.zeros(size, device=device, dtype=dtype)
        self.v = torch.zeros(size, device=device, dtype=dtype)
        self.lengths = torch.zeros(batch_size, device=device, dtype=torch.int64)
        self.last_embedding = torch.zeros(batch_size, shape.n_embd, device=device, dtype=dtype)
        self.last_key = torch.zeros(*size[:3], shape.head_dim, device=device, dtype=dtype)

    @property
    def max_len(self) -> int:
        return self.k.size(3)

    def reset(self, row: int) -> None:
        """Forget a row: what is appended next is its first token."""
        self.lengths[row] = 0
        self.last_embedding[row] = 0
        self.last_key[:, row] = 0

    def insert(self, row: int, other: "KVCache", other_row: int) -> None:
        """Copy a row of `other` (this cache too) into `row`: to join a running batch, or close a gap."""
        length = int(other.lengths[other_row])
        assert length <= self.max_len, f"row of {length} tokens into a cache of {self.max_len}"
        self.k[:, row, :, :length] = other.k[:, other_row, :, :length]
        self.v[:, row, :, :length] = other.v[:, other_row, :, :length]
        self.lengths[row] = length
        self.last_embedding[row] = other.last_embedding[other_row]
        self.last_key[:, row] = other.last_key[:, other_row]

    def begin(self, idx: Tensor, cos: Tensor, sin: Tensor) -> None:
        """Make room for T more tokens of the first B rows each, idx (B, T). `rotary`: (B, T, 1, D/2) each."""
        B, T = idx.shape
        self._rows = torch.arange(B, device=idx.device)[:, None]
        self._positions = self.lengths[:B, None] + torch.arange(T, device=idx.device)
        self._span = int(self.lengths[:B].max()) + T                  # keys that the longest row has now
        assert self._span <= self.max_len, f"{self._span} tokens in a cache of {self.max_len}"
        self._masks: dict[int, Tensor] = {}                     # window -> mask, shared by layers
        self.rotary = cos[self._positions], sin[self._positions]
        self.lengths[:B] += T

    def embedding_before(self, x: Tensor) -> Tensor:
        """As Rows has it, but the first of these tokens looks back at the last one of the call before."""
        return self._shift(self.last_embedding[:x.size(0)], x)

    def key_before(self, layer: int, k: Tensor) -> Tensor:
        return self._shift(self.last_key[layer, :k.size(0)], k)

    @staticmethod
    def _shift(last: Tensor, x: Tensor) -> Tensor:
        """What came before each token of x (B, T, ...), where `last` (B, ...) was; keeps the new last."""
        before = torch.cat((last[:, None], x[:, :-1]), dim=1)
        last.copy_(x[:, -1])
        return before

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        """Keep k and v (B, T, K, D); let q (B, T, H, D) see what is kept, in the window -> like q."""
        B = q.size(0)
        self.k[layer, :B][self._rows, :, self._positions] = k
        self.v[layer, :B][self._rows, :, self._positions] = v
        if window not in self._masks:
            self._masks[window] = cache_mask(self._positions, self._span, window)
        return attend_cached(q, self.k[layer, :B, :, :self._span], self.v[layer, :B, :, :self._span],
                             self._masks[window])
