"""The model. Read from the bottom: GPT.trunk is the drawing, Block, Attention and MLP are its parts.

A GPT (arXiv 2005.14165) with rotary positions, RMSNorm without weights, and a few unusual pieces that each
buy loss for almost no compute; every one has a line or two where it stands. Most were found or combined by
the speedrunners of modded-nanogpt and nanochat. What came before the tokens at hand (nothing, or a cache) is
past.py's: nothing here asks.

Matrices are fp32 and cast where they are used; the embedding tables live in the compute dtype."""
import copy
from collections.abc import Sequence
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from nanochat import fp8
from nanochat.loss import cap, capped_logits, summed_loss, token_losses
from nanochat.past import Chunks, KVCache, Rows
from nanochat.scaling import Shape

# B batch, T time, C width, H query heads, K kv heads, D head dim, V padded vocabulary, L layers

ROPE_BASE = 100_000
QK_SCALE = 1.2                  # normalised queries and keys, a little sharper than unit length
SOFTCAP = 15.0                  # of logits, so that nothing is ever certain (Gemma 2, arXiv 2408.00118)

def norm(x: Tensor) -> Tensor:
    """RMSNorm over the last dimension (arXiv 1910.07467), without a weight: the next matrix scales."""
    return F.rms_norm(x, (x.size(-1),))

def rotary_tables(length: int, head_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos of every position and frequency; sin, negative in the second half; (length, 1, D) each (RoFormer,
    arXiv 2104.09864)."""
    frequencies = ROPE_BASE ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angles = torch.outer(torch.arange(length, dtype=torch.float64), frequencies)[:, None]
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    return torch.cat((cos, cos), dim=-1), torch.cat((sin, -sin), dim=-1)

def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (j, j + D/2) of x (B, T, H, D) by the angles (T or B x T, 1, D) of their positions."""
    return torch.addcmul(x * cos, x.roll(x.size(-1) // 2, -1), sin)

def offset_keys(k: Tensor, before: Tensor) -> Tensor:
    """Key offset: the slowly turning half of every key (B, T, K, D) is that of the token `before`. A query
    then finds what followed its own token in one layer; induction heads (arXiv 2209.11895) need two."""
    fast, _, fast_pair, _ = k.chunk(4, dim=-1)              # rotary pairs (j, j + D/2) stay together
    _, slow, _, slow_pair = before.chunk(4, dim=-1)
    return torch.cat((fast, slow, fast_pair, slow_pair), dim=-1)

class Linear(nn.Linear):
    """No bias; the fp32 weight is cast to the dtype of what comes in (in training to float8: fp8.enable)."""
    def __init__(self, fan_in: int, fan_out: int):
        super().__init__(fan_in, fan_out, bias=False)
        self.float8 = False

    def forward(self, x: Tensor) -> Tensor:
        if self.float8 and torch.is_grad_enabled():
            return fp8.linear(x, self.weight)
        return F.linear(x, self.weight.to(x.dtype))

class ReluSquared(torch.autograd.Function):
    """relu(z)², with its gradient 2 relu(z) taken from the result: the widest tensor is kept only once."""
    @staticmethod
    def forward(ctx, z):
        y = F.relu(z).square_()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, dy):
        y, = ctx.saved_tensors
        return y.sqrt().mul_(dy).mul_(2)

class MLP(nn.Module):
    """Squared ReLU (Primer, arXiv 2109.08668): sparse like ReLU, smooth at zero, cheap to differentiate."""
    def __init__(self, shape: Shape):
        super().__init__()
        self.up, self.down = Linear(shape.n_embd, 4 * shape.n_embd), Linear(4 * shape.n_embd, shape.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        z = self.up(x)                                                # (B, T, C) -> (B, T, 4C) -> (B, T, C)
        if torch.compiler.is_compiling():               # which fuses it; torch 2.11 gets ReluSquared wrong
            return self.down(F.relu(z).square())
        return self.down(ReluSquared.apply(z) if z.requires_grad else F.relu_(z).square_())

class Attention(nn.Module):
    """Causal attention over a window of the past. Query heads may share key heads (GQA, arXiv 2305.13245).

    QK norm (arXiv 2010.04245): queries and keys have a fixed length, so scores cannot grow and no clipping is
    needed. Value embeddings (after arXiv 2410.17897): every second layer adds to its values an embedding of
    the token itself, from a table of its own as much as a gate lets: the stream need not carry it up."""
    def __init__(self, shape: Shape, layer: int):
        super().__init__()
        self.layer, self.head_dim, self.window = layer, shape.head_dim, shape.windows[layer]
        self.key_offset, self.gate_channels = shape.key_offset, shape.gate_channels
        C, kv = shape.n_embd, shape.n_kv_head * shape.head_dim
        self.q, self.k, self.v, self.o = Linear(C, C), Linear(C, kv), Linear(C, kv), Linear(C, C)
        self.gate = Linear(self.gate_channels, shape.n_kv_head) if layer in shape.value_layers else None

    def forward(self, x: Tensor, value: Tensor | None, past: Rows | Chunks) -> Tensor:
        B, T, _ = x.shape
        q, k, v = (f(x).view(B, T, -1, self.head_dim) for f in (self.q, self.k, self.v))   # C -> H or K, D
        q, k = (norm(rotate(heads, *past.rotary)) * QK_SCALE for heads in (q, k))
        if self.key_offset:
            k = offset_keys(k, past.key_before(self.layer, k))
        if self.gate is not None:
            gate = 3 * torch.sigmoid(self.gate(x[..., :self.gate_channels]))               # (B, T, K)
            v = torch.addcmul(v, gate.unsqueeze(-1), value.view_as(v))
        y = past.attend(self.layer, q, k, v, self.window)
        return self.o(y.reshape(B, T, -1))                            # (B, T, H, D) -> heads side by side

class Block(nn.Module):
    def __init__(self, shape: Shape, layer: int):
        super().__init__()
        self.attention, self.mlp = Attention(shape, layer), MLP(shape)

    def forward(self, x: Tensor, value: Tensor | None, past: Rows | Chunks) -> Tensor:
        """x (B, T, C), value embeddings (B, T, K * D) or None, what came before -> (B, T, C)."""
        x = x + self.attention(norm(x), value, past)
        return x + self.mlp(norm(x))

class GPT(nn.Module):
    def __init__(self, shape: Shape, dtype: torch.dtype = torch.float32):
        """Weights are allocated, not set: call init_weights() or load a state. dtype: of the activations."""
        super().__init__()
        self.shape, self.dtype = shape, dtype
        V, C, L = shape.padded_vocab, shape.n_embd, shape.n_layer
        kv = shape.n_kv_head * shape.head_dim
        self.embedding = nn.Parameter(torch.empty(V, C, dtype=dtype))
        # the tables of all layers side by side: one gather in the forward pass, one scatter in the backward
        self.value_embedding = nn.Parameter(torch.empty(V, len(shape.value_layers) * kv, dtype=dtype))
        self.blocks = nn.ModuleList(Block(shape, layer) for layer in range(L))
        self.unembedding = nn.Parameter(torch.empty(V, C))
        self.residual = nn.Parameter(torch.empty(L))                  # rho
        self.input = nn.Parameter(torch.empty(L))                     # mu
        self.smear_gate = nn.Parameter(torch.empty(shape.smear_channels))
        self.smear = nn.Parameter(torch.empty(()))                    # lambda_s
        self.backout = nn.Parameter(torch.empty(()))                  # lambda_b
        cos, sin = rotary_tables(shape.sequence_len, shape.head_dim, dtype)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.kernel = None      # what makes a token for each of a few rows in step()'s place: decode.py

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    def forward(self, idx: Tensor, targets: Tensor | None = None, reduction: str = "mean") -> Tensor:
        """idx (B, T) -> logits (B, T, vocab_size) fp32. With targets (B, T), -1 where ignored: the loss in
        nats, its "mean" or "sum" over the targets that count, or "none": (B, T), without gradient."""
        x = self.trunk(idx, Rows())
        if targets is None:
            return self.logits(x)
        flat = (x.flatten(0, 1), self.unembedding, targets.flatten(), self.shape.vocab_size, SOFTCAP)
        if reduction == "none":
            return token_losses(*flat).view_as(targets)
        total = summed_loss(*flat)
        return total if reduction == "sum" else total / (targets != -1).sum().clamp(min=1)

    @torch.no_grad()
    def step(self, tokens: Sequence[Sequence[int]], cache: KVCache) -> Tensor:
        """Append tokens to the first rows of the cache, some to each -> (rows, vocab_size) after the last of
        each, logits before the softcap: cap() makes them logits, but for ranking them it is not needed."""
        counts = [len(each) for each in tokens]
        if self.kernel is not None and len(counts) == sum(counts) <= self.kernel.most_rows:
            assert self.kernel.cache is cache
            return self.kernel([token for token, in tokens])
        past = Chunks(cache, counts)
        idx = torch.tensor([[token for each in tokens for token in each]], device=self.device)
        x = past.last(self.trunk(idx, past))
        return F.linear(x, self.unembedding.to(x.dtype))[:, :self.shape.vocab_size]

    def cap(self, z: Tensor) -> Tensor:
        """What step() gives -> fp32 logits."""
        return cap(z, SOFTCAP)

    @torch.no_grad()
    def for_inference(self) -> "GPT":
        """A copy to draw from, with all matrices in the compute dtype; what has it already is shared. It does
        not follow when the model is trained further."""
        shared = {id(each): each for each in self.buffers()}
        for parameter in self.parameters():
            shared[id(parameter)] = nn.Parameter(parameter.detach().to(self.dtype), requires_grad=False)
        return copy.deepcopy(self, shared).eval()

    def logits(self, x: Tensor) -> Tensor:
        """What the trunk gives, (..., C) -> fp32 logits (..., vocab_size)."""
        return capped_logits(x, self.unembedding, self.shape.vocab_size, SOFTCAP)

    def trunk(self, idx: Tensor, past: Rows | Chunks) -> Tensor:
        """Tokens (B, T) -> normalised final states (B, T, C). With what came before, at most sequence_len."""
        past.begin(idx, self.cos, self.sin)
        x = self.smeared(self.embed(idx), past)                                                 # (B, T, C)
        values = self.value_embeddings(idx)
        # Every layer reads a learned mix of the stream and the first embedding, so that the stream may forget
        # the token and still find it (as in modded-nanogpt; DenseFormer, arXiv 2402.02622, mixes all layers).
        first, rho, mu = x, self.residual.to(x.dtype), self.input.to(x.dtype)
        for layer, block in enumerate(self.blocks):
            x = block(rho[layer] * x + mu[layer] * first, values.get(layer), past)
            if layer == self.shape.n_layer // 2:
                middle = x
        # Backout: what the stream held half-way up served the layers above; a share of goes before the head.
        return norm(x - self.backout.to(x.dtype) * middle)

    def embed(self, idx: Tensor) -> Tensor:
        return norm(F.embedding(idx, self.embedding))

    def smeared(self, x: Tensor, past: Rows | Chunks) -> Tensor:
        """Smear: a gated share of the token before enters every embedding: pairs need no attention."""
        gate = torch.sigmoid(x[..., :self.shape.smear_channels] @ self.smear_gate.to(x.dtype))  # (B, T)
        return torch.addcmul(x, (self.smear.to(x.dtype) * gate).unsqueeze(-1), past.embedding_before(x))

    def value_embeddings(self, idx: Tensor) -> dict[int, Tensor]:
        """Tokens (B, T) -> layer -> what its gate mixes into its values, (B, T, K * D)."""
        tables = F.embedding(idx, self.value_embedding).chunk(len(self.shape.value_layers), dim=-1)
        return dict(zip(self.shape.value_layers, tables, strict=True))

    @torch.no_grad()
    def init_weights(self, seed: int = 42) -> "GPT":
        """Set every weight. Drawn on the CPU in fp32, so that a seed means the same model on every device."""
        generator = torch.Generator().manual_seed(seed)
        bound = (3 / self.shape.n_embd) ** 0.5                        # uniform with standard deviation C^-0.5
        def normal(parameter: Tensor, std: float) -> None:
            parameter.copy_(torch.empty(parameter.shape).normal_(0, std, generator=generator))
        def uniform(parameter: Tensor, low: float, high: float) -> None:
            parameter.copy_(torch.empty(parameter.shape).uniform_(low, high, generator=generator))
        normal(self.embedding, 0.8)
        normal(self.unembedding, 0.001)
        uniform(self.value_embedding, -bound, bound)
        for block in self.blocks:
            attention, mlp = block.attention, block.mlp
            for matrix in (attention.q, attention.k, attention.v):
                uniform(matrix.weight, -bound, bound)
            uniform(mlp.up.weight, -0.4 * bound, 0.4 * bound)
            attention.o.weight.zero_()                                # every layer starts as the identity
            mlp.down.weight.zero_()
            if attention.gate is not None:
                uniform(attention.gate.weight, 0, 0.02)
        uniform(self.smear_gate, 0, 0.02)
        self.smear.fill_(0)
        self.backout.fill_(0.2)
        height = torch.arange(self.shape.n_layer) / max(1, self.shape.n_layer - 1)
        self.residual.copy_(1.15 - 0.10 * height)
        self.input.copy_(0.20 - 0.15 * height)
        return self

    def param_roles(self) -> dict[str, list[nn.Parameter]]:
        """Every parameter once, by the role that decides how it is trained: scaling.LearningRates."""
        return {"unembedding": [self.unembedding],
                "embedding": [self.embedding],
                "value_embedding": [self.value_embedding],
                "residual": [self.residual],
                "input": [self.input],
                "smear": [self.smear_gate, self.smear, self.backout],
                "matrix": list(self.blocks.parameters())}
