"""Attention: one contract, whatever computes it. A query sees itself and the `window` tokens before it, never
what comes after.

Full causal layers use PyTorch's fused kernels. Windowed layers go through the same kernels block by block:
each block of queries sees only its own slice of keys, so that the cost is T * window and no mask is T x T."""
import torch
import torch.nn.functional as F

# B batch, T time, H query heads, K kv heads, D head dim, S keys in the cache

def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    """Causal attention over whole rows. q (B, T, H, D), k and v (B, T, K, D) with K dividing H -> (B, T, H,
    D). `window` counts the previous tokens that a query sees beside itself; T - 1 or more means all."""
    T = q.size(1)
    grouped = q.size(2) != k.size(2)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))    # (B, T, H or K, D) -> (B, H or K, T, D)
    if window >= T - 1:
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
    else:
        positions, block, blocks = torch.arange(T, device=q.device), max(64, window), []
        for start in range(0, T, block):
            some, seen = slice(start, start + block), slice(max(0, start - window), start + block)
            blocks.append(F.scaled_dot_product_attention(
                q[:, :, some], k[:, :, seen], v[:, :, seen], enable_gqa=grouped,
                attn_mask=visible(positions[some], positions[seen], window)))
        y = torch.cat(blocks, dim=2)
    return y.transpose(1, 2)                            # (B, H, T, D) -> (B, T, H, D)

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
