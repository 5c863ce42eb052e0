"""Attention: one contract, whatever computes it. A query sees itself and the `window` tokens before it, never
what comes after.

Full causal layers use PyTorch's fused kernels. Windowed layers use what `backend` names, which a training run
sets once, by choose(): whatever it is, the cost is T * window and no layer makes a mask that is T x T."""
from collections.abc import Callable
from importlib.util import find_spec
import torch
import torch.nn.functional as F
from torch.nn import attention as flash
from nanochat.hardware import probe
from nanochat.scaling import Shape

# B batch, T time, H query heads, K kv heads, D head dim, S keys in the cache

FLASH = {"FA3": "flash_attn_interface", "FA4": "flash_attn"}        # packages that PyTorch knows: modules
backend = "blocks"              # a key of BACKENDS

def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    """Causal attention over whole rows. q (B, T, H, D), k and v (B, T, K, D) with K dividing H -> (B, T, H,
    D). `window` counts the previous tokens that a query sees beside itself; T - 1 or more means all."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))    # (B, T, H or K, D) -> (B, H or K, T, D)
    if window < q.size(2) - 1:
        y = BACKENDS[backend](q, k, v, window)
    else:
        y = _full(q, k, v)
    return y.transpose(1, 2)                            # (B, H, T, D) -> (B, T, H, D)

def _full(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.size(1) != k.size(1))

def _blocks(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    """Each block of queries sees only its slice of keys. A mask keeps a GPU's fastest kernels away."""
    T, grouped = q.size(2), q.size(1) != k.size(1)
    positions, block, blocks = torch.arange(T, device=q.device), max(64, window), []
    for start in range(0, T, block):
        some, seen = slice(start, start + block), slice(max(0, start - window), start + block)
        blocks.append(F.scaled_dot_product_attention(
            q[:, :, some], k[:, :, seen], v[:, :, seen], enable_gqa=grouped,
            attn_mask=visible(positions[some], positions[seen], window)))
    return torch.cat(blocks, dim=2)

def _varlen(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    """Flash attention over rows laid end to end: its kernels skip what no window reaches."""
    from torch.nn.attention.varlen import varlen_attn
    B, H, T, _ = q.shape
    ends = torch.arange(0, (B + 1) * T, T, dtype=torch.int32, device=q.device)
    grouped = {"enable_gqa": True} if k.size(1) != H else {}        # torch 2.11 does not know the name
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))  # (B, H or K, T, D) -> (B * T, H or K, D)
    y = varlen_attn(q, k, v, ends, ends, T, T, window_size=(window, 0), **grouped)
    return y.unflatten(0, (B, T)).transpose(1, 2)

def _flex(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    """FlexAttention where it is compiled, which skips blocks, too; else it would make all scores."""
    if not torch.compiler.is_compiling():
        return _blocks(q, k, v, window)
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention
    T = q.size(2)
    mask = create_block_mask(lambda b, h, i, j: (i >= j) & (i - j <= window), None, None, T, T, q.device)
    return flex_attention(q, k, v, block_mask=mask, enable_gqa=q.size(1) != k.size(1))

BACKENDS = {"varlen": _varlen, "flex": _flex, "blocks": _blocks}    # of q (B, H, T, D), k, v (B, K, T, D)

def choose(shape: Shape, device: torch.device, dtype: torch.dtype) -> str:
    """Set `backend` to the first that works for whole rows of a model -> a line that says why none before.
    Where FA3 or FA4 is installed, PyTorch can take all flash attention from there. So what is tried has some
    full attention in it; not much, as windows that are off by one token shall be seen (they differ by 3%)."""
    global backend
    T, window, name, why = shape.sequence_len, min(shape.windows), None, ""
    def tried(name: str, package: str | None = None) -> Callable:
        def run(*qkv: torch.Tensor) -> torch.Tensor:
            if not torch.compiler.is_compiling() and flash.current_flash_attention_impl() != package:
                flash.restore_flash_attention_impl(_raise_warn=False)
                if package:
                    flash.activate_flash_attention_impl(package)
            return BACKENDS[name](*qkv, window) + 0.2 * _full(*qkv)
        return run
    if device.type == "cuda" and window < T - 1:
        candidates = {f"varlen by {package}": tried("varlen", package) for package, module in FLASH.items()
                      if find_spec(module)} | {"varlen": tried("varlen"), "flex": tried("flex")}
        shapes = [(2, heads, T, shape.head_dim) for heads in (shape.n_head, shape.n_kv_head, shape.n_kv_head)]
        name, why = probe(candidates, tried("blocks"), shapes, device, dtype, tolerance=0.02)
    backend = (name or "blocks").split()[0]
    return f"windowed attention: {name or backend}{why}"

def visible(queries: torch.Tensor, keys: torch.Tensor, window: int) -> torch.Tensor:
    """Which keys, at positions (..., S), each query, at positions (..., T), sees: bool (..., T, S)."""
    distance = queries[..., :, None] - keys[..., None, :]
    return (distance >= 0) & (distance <= window)

def attend_cached(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """q (B, T, H, D) over a cache k, v (B, K, S, D); mask ([B, 1,] T, S): what is seen -> (B, T, H, D)."""
    grouped = q.size(2) != k.size(1)
    q = q.transpose(1, 2)                               # (B, T, H, D) -> (B, H, T, D)
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped)
    return y.transpose(1, 2)                            # (B, H, T, D) -> (B, T, H, D)

def attend_one(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """One query per row, q (B, H, D), over a cache k, v (B * K, S, D); bias (B * K, 1, S) or None is added to
    the scores -> (B, H, D). On a CPU two products: its fused kernel takes ten times as long for one query."""
    B, H, D = q.shape
    K = k.size(0) // B
    if q.is_cuda:
        mask = None if bias is None else bias.unflatten(0, (B, K)).to(q.dtype)[:, :1]
        k, v = k.unflatten(0, (B, K)), v.unflatten(0, (B, K))
        return F.scaled_dot_product_attention(q[:, :, None], k, v, attn_mask=mask, enable_gqa=H != K)[:, :, 0]
    grouped = q.to(k.dtype).reshape(B * K, H // K, D)                   # heads that share their keys
    start = k.new_zeros(()) if bias is None else bias
    scores = torch.baddbmm(start, grouped, k.transpose(1, 2), beta=float(bias is not None), alpha=D ** -0.5)
    return torch.bmm(scores.softmax(-1), v).view(B, H, D).to(q.dtype)
