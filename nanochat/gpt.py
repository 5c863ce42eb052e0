"""
The model: a GPT with rotary positions, normalised queries and keys, squared ReLU, sliding windows, value embeddings,
a smear of the previous token, learned mixing of the residual stream with the first embedding, and a backout of the
middle of the stream. One forward pass for training (`model(idx, targets)`), one for decoding (`model.step(idx, cache)`).

Matrices are fp32 and cast where they are used; the embedding tables live in the compute dtype.
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

from nanochat.attention import attend, attend_cached, cache_mask
from nanochat.loss import capped_logits, summed_loss, token_losses
from nanochat.scaling import Shape

# B batch, T time, C width, H query heads, K kv heads, D head dim, V padded vocabulary, L layers, S cache length

ROPE_BASE = 100_000
QK_SCALE = 1.2                  # normalised queries and keys, a little sharper than unit length
SOFTCAP = 15.0


def norm(x: torch.Tensor) -> torch.Tensor:
    """RMSNorm over the last dimension, without weight."""
    return F.rms_norm(x, (x.size(-1),))


def rotary_table(length: int, head_dim: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin of every position and frequency, (length, 1, D / 2) fp32 (RoFormer, arXiv 2104.09864)."""
    frequencies = ROPE_BASE ** -(torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim)
    angles = torch.outer(torch.arange(length, dtype=torch.float32, device=device), frequencies)
    return angles.cos()[:, None], angles.sin()[:, None]


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn the pairs (j, j + D/2) of x (B, T, H, D) by the angles (T or B x T, 1, D/2) of their positions."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos + b * sin, b * cos - a * sin), dim=-1)


def offset_keys(k: torch.Tensor, before: torch.Tensor | None = None) -> torch.Tensor:
    """
    Replace the slowly turning half of every key (B, T, K, D) by that of the token before it; `before` (B, K, D) is the
    one before the first. A query then finds what followed an earlier occurrence of its own token in a single layer.
    """
    D = k.size(-1)
    shifted = F.pad(k[:, :-1], (0, 0, 0, 0, 1, 0)) if before is None else torch.cat((before[:, None], k[:, :-1]), dim=1)
    fast, _, fast_pair, _ = k.split(D // 4, dim=-1)                   # rotary pairs (j, j + D/2) stay together
    _, slow, _, slow_pair = shifted.split(D // 4, dim=-1)
    return torch.cat((fast, slow, fast_pair, slow_pair), dim=-1)


class _MLP(torch.autograd.Function):
    """
    down(relu(up(u))²). The hidden layer is the widest tensor of the trunk: it is passed over as rarely as can be,
    and only its positive part is kept for the backward pass. u (N, C), up (F, C), down (C, F).
    """

    @staticmethod
    def forward(ctx, u, up, down):
        positive = F.linear(u, up).relu_()                            # (N, F)
        ctx.save_for_backward(u, up, down, positive)
        return F.linear(positive * positive, down)

    @staticmethod
    def backward(ctx, dy):
        u, up, down, positive = ctx.saved_tensors
        ddown = dy.t() @ (positive * positive)
        half = (dy @ down).mul_(positive)                             # d relu(z)² = 2 relu(z): doubled where it is small
        return (half @ up).mul_(2), (half.t() @ u).mul_(2), ddown


class Linear(nn.Linear):
    """No bias; the fp32 weight is cast to the dtype of what comes in."""

    def __init__(self, fan_in: int, fan_out: int):
        super().__init__(fan_in, fan_out, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class KVCache:
    """
    Keys and values of a batch of independent rows, each as long as its own `lengths` says. Rows in use are the first
    ones: model.step works on as many as it is given tokens for. Memory: 2 * L * B * S * K * D elements.
    """

    def __init__(self, shape: Shape, batch_size: int, max_len: int, device: torch.device, dtype: torch.dtype):
        size = (shape.n_layer, batch_size, shape.n_kv_head, max_len, shape.head_dim)
        self.k = torch.zeros(size, device=device, dtype=dtype)
        self.v = torch.zeros(size, device=device, dtype=dtype)
        self.lengths = torch.zeros(batch_size, device=device, dtype=torch.int64)
        self.previous = torch.zeros(batch_size, shape.n_embd, device=device, dtype=dtype)   # what the smear looks back at
        self.last_k = torch.zeros(*size[:3], shape.head_dim, device=device, dtype=dtype)    # what offset keys look back at

    @property
    def max_len(self) -> int:
        return self.k.size(3)

    def reset(self, row: int) -> None:
        """Forget a row: what is appended next is its first token."""
        self.lengths[row] = 0
        self.previous[row] = 0
        self.last_k[:, row] = 0

    def insert(self, row: int, other: "KVCache", other_row: int) -> None:
        """Copy a row of `other` (this cache too) into `row`: to join a running batch, or to close a gap in it."""
        length = int(other.lengths[other_row])
        assert length <= self.max_len, f"row of {length} tokens into a cache of {self.max_len}"
        self.k[:, row, :, :length] = other.k[:, other_row, :, :length]
        self.v[:, row, :, :length] = other.v[:, other_row, :, :length]
        self.lengths[row] = length
        self.previous[row] = other.previous[other_row]
        self.last_k[:, row] = other.last_k[:, other_row]

    def append(self, layer: int, positions: torch.Tensor, k: torch.Tensor, v: torch.Tensor,
               span: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Store k and v (B, T, K, D) at `positions` (B, T); return all that is stored, each (B, K, span, D)."""
        B = positions.size(0)
        rows = torch.arange(B, device=positions.device)[:, None]
        self.k[layer, :B][rows, :, positions] = k
        self.v[layer, :B][rows, :, positions] = v
        return self.k[layer, :B, :, :span], self.v[layer, :B, :, :span]


class Block(nn.Module):
    """Attention and MLP of one layer. Value embeddings enter where the layer has a gate for them."""

    def __init__(self, shape: Shape, has_value: bool):
        super().__init__()
        C, kv = shape.n_embd, shape.n_kv_head * shape.head_dim
        self.head_dim = shape.head_dim
        self.q, self.k, self.v, self.o = Linear(C, C), Linear(C, kv), Linear(C, kv), Linear(C, C)
        self.up, self.down = Linear(C, 4 * C), Linear(4 * C, C)
        self.gate_channels = shape.gate_channels
        self.gate = Linear(self.gate_channels, shape.n_kv_head) if has_value else None

    def qkv(self, u: torch.Tensor, value: torch.Tensor | None, cos: torch.Tensor,
            sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """u (B, T, C) -> q (B, T, H, D), k and v (B, T, K, D), rotated, normalised, value embedding added."""
        B, T, _ = u.shape
        q, k, v = (f(u).view(B, T, -1, self.head_dim) for f in (self.q, self.k, self.v))   # C -> heads side by side
        q, k = (norm(rotate(x, cos, sin)) * QK_SCALE for x in (q, k))
        if self.gate is not None:
            gate = 3 * torch.sigmoid(self.gate(u[..., :self.gate_channels]))               # (B, T, K)
            v = torch.addcmul(v, gate.unsqueeze(-1), value.view(B, T, -1, self.head_dim))
        return q, k, v

    def mlp(self, u: torch.Tensor) -> torch.Tensor:
        up, down = (linear.weight.to(u.dtype) for linear in (self.up, self.down))
        return _MLP.apply(u.flatten(0, 1), up, down).view_as(u)


class GPT(nn.Module):
    def __init__(self, shape: Shape, dtype: torch.dtype = torch.float32):
        """Weights are allocated, not set: call init_weights() or load a state."""
        super().__init__()
        self.shape, self.dtype = shape, dtype
        V, C, L = shape.padded_vocab, shape.n_embd, shape.n_layer
        kv = shape.n_kv_head * shape.head_dim
        self.embedding = nn.Parameter(torch.empty(V, C, dtype=dtype))
        # the tables of all layers side by side: one gather in the forward pass, one scatter in the backward pass
        self.value_embedding = nn.Parameter(torch.empty(V, len(shape.value_layers) * kv, dtype=dtype))
        self.blocks = nn.ModuleList(Block(shape, i in shape.value_layers) for i in range(L))
        self.unembedding = nn.Parameter(torch.empty(V, C))
        self.residual = nn.Parameter(torch.empty(L))                  # rho
        self.input = nn.Parameter(torch.empty(L))                     # mu
        self.smear_gate = nn.Parameter(torch.empty(shape.smear_channels))
        self.smear = nn.Parameter(torch.empty(()))                    # lambda_s
        self.backout = nn.Parameter(torch.empty(()))                  # lambda_b
        self._rotary: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    @torch.no_grad()
    def init_weights(self, seed: int = 42) -> "GPT":
        """Set every weight. Drawn on the CPU in fp32, so that a seed means the same model on every device."""
        generator = torch.Generator().manual_seed(seed)
        bound = (3 / self.shape.n_embd) ** 0.5                        # uniform with standard deviation C^-0.5
        L = self.shape.n_layer

        def normal(parameter: torch.Tensor, std: float) -> None:
            parameter.copy_(torch.empty(parameter.shape).normal_(0, std, generator=generator))

        def uniform(parameter: torch.Tensor, low: float, high: float) -> None:
            parameter.copy_(torch.empty(parameter.shape).uniform_(low, high, generator=generator))

        normal(self.embedding, 0.8)
        normal(self.unembedding, 0.001)
        uniform(self.value_embedding, -bound, bound)
        for block in self.blocks:
            for matrix in (block.q, block.k, block.v):
                uniform(matrix.weight, -bound, bound)
            uniform(block.up.weight, -0.4 * bound, 0.4 * bound)
            block.o.weight.zero_()                                    # every layer starts as the identity
            block.down.weight.zero_()
            if block.gate is not None:
                uniform(block.gate.weight, 0, 0.02)
        uniform(self.smear_gate, 0, 0.02)
        self.smear.fill_(0)
        self.backout.fill_(0.2)
        progress = torch.arange(L) / max(1, L - 1)
        self.residual.copy_(1.15 - 0.10 * progress)
        self.input.copy_(0.20 - 0.15 * progress)
        return self

    def param_roles(self) -> dict[str, list[nn.Parameter]]:
        """Every parameter once, by the role that decides how it is trained (the names of scaling.LearningRates)."""
        return {
            "unembedding": [self.unembedding], "embedding": [self.embedding], "value_embedding": [self.value_embedding],
            "residual": [self.residual], "input": [self.input], "smear": [self.smear_gate, self.smear, self.backout],
            "matrix": list(self.blocks.parameters()),
        }

    def rotary(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin (length, 1, D/2) in the compute dtype, made once for the longest length asked for."""
        if self._rotary is None or self._rotary[0].size(0) < length or self._rotary[0].device != self.device:
            size = max(length, self.shape.sequence_len)
            self._rotary = tuple(t.to(self.dtype) for t in rotary_table(size, self.shape.head_dim, self.device))
        return self._rotary[0][:length], self._rotary[1][:length]

    def trunk(self, idx: torch.Tensor, cache: KVCache | None = None) -> torch.Tensor:
        """Tokens (B, T) -> normalised final states (B, T, C). With a cache, T more tokens of each of its first B rows."""
        B, T = idx.shape
        x = norm(F.embedding(idx, self.embedding))                    # (B, T, C)
        if cache is None:
            cos, sin = self.rotary(T)
            previous = F.pad(x[:, :-1], (0, 0, 1, 0))                 # x of the token before, zero at the start
        else:
            positions = cache.lengths[:B, None] + torch.arange(T, device=idx.device)           # (B, T)
            span = int(cache.lengths[:B].max()) + T
            assert span <= cache.max_len, f"{span} tokens in a cache of {cache.max_len}"
            masks = {w: cache_mask(positions, span, w) for w in set(self.shape.windows)}
            cos, sin = (table[positions] for table in self.rotary(cache.max_len))              # (B, T, 1, D/2)
            previous = torch.cat((cache.previous[:B, None], x[:, :-1]), dim=1)
            cache.previous[:B] = x[:, -1]
            cache.lengths[:B] += T
        gate = torch.sigmoid(x[..., :self.shape.smear_channels] @ self.smear_gate.to(x.dtype))  # (B, T)
        x = torch.addcmul(x, (self.smear.to(x.dtype) * gate).unsqueeze(-1), previous)
        x0 = x
        values = iter(F.embedding(idx, self.value_embedding).chunk(len(self.shape.value_layers), dim=-1))
        residual, first = self.residual.to(x.dtype), self.input.to(x.dtype)
        for i, block in enumerate(self.blocks):
            x = residual[i] * x + first[i] * x0
            q, k, v = block.qkv(norm(x), next(values) if block.gate is not None else None, cos, sin)
            if self.shape.key_offset:
                own, k = k, offset_keys(k, None if cache is None else cache.last_k[i, :B])
                if cache is not None:
                    cache.last_k[i, :B] = own[:, -1]
            if cache is None:
                y = attend(q, k, v, self.shape.windows[i])
            else:
                y = attend_cached(q, *cache.append(i, positions, k, v, span), masks[self.shape.windows[i]])
            x = x + block.o(y.reshape(B, T, -1))                      # (B, T, H, D) -> (B, T, C)
            x = x + block.mlp(norm(x))
            if i == self.shape.n_layer // 2:
                middle = x
        if self.shape.n_layer > 1:
            x = x - self.backout.to(x.dtype) * middle
        return norm(x)

    def forward(self, idx: torch.Tensor, targets: torch.Tensor | None = None, reduction: str = "mean") -> torch.Tensor:
        """
        idx (B, T) -> logits (B, T, vocab_size) fp32. With targets (B, T), -1 where ignored: the loss in nats, its
        "mean" or "sum" over the targets that count, or "none": (B, T), without gradient.
        """
        x = self.trunk(idx)
        if targets is None:
            return capped_logits(x, self.unembedding, self.shape.vocab_size, SOFTCAP)
        flat = (x.flatten(0, 1), self.unembedding, targets.flatten(), self.shape.vocab_size, SOFTCAP)
        if reduction == "none":
            return token_losses(*flat).view_as(targets)
        total = summed_loss(*flat)
        return total if reduction == "sum" else total / (targets != -1).sum().clamp(min=1)

    @torch.no_grad()                                 # not inference_mode: tables made here serve training too
    def step(self, idx: torch.Tensor, cache: KVCache) -> torch.Tensor:
        """Append idx (B, T) to the first B rows of the cache -> fp32 logits (B, vocab_size) after the last token."""
        return capped_logits(self.trunk(idx, cache)[:, -1], self.unembedding, self.shape.vocab_size, SOFTCAP)
