"""Attention against softmax over an explicit mask."""

import math
import pytest
import torch
from nanochat.attention import attend, attend_cached, visible

def naive(q, k, v, window):
    T, D = q.size(1), q.size(3)
    k, v = (x.repeat_interleave(q.size(2) // x.size(2), dim=2) for x in (k, v))
    distance = torch.arange(T)[:, None] - torch.arange(T)
    scores = torch.einsum("bthd,bshd->bhts", q, k) / math.sqrt(D)
    scores = scores.masked_fill((distance < 0) | (distance > window), float("-inf"))
    return torch.einsum("bhts,bshd->bthd", scores.softmax(-1), v)


@pytest.mark.parametrize("T, window", [(1, 128), (64, 0), (130, 1), (200, 64), (200, 65),
                                       (300, 128), (129, 128), (128, 999)])
@pytest.mark.parametrize("heads, kv_heads", [(2, 2), (4, 2)])
def test_attention_and_its_gradients_match_an_explicit_mask(T, window, heads, kv_heads):
    generator = torch.Generator().manual_seed(T)
    q = torch.randn(2, T, heads, 8, generator=generator, requires_grad=True)
    k, v = (torch.randn(2, T, kv_heads, 8, generator=generator, requires_grad=True) for _ in range(2))
    weights = torch.randn(2, T, heads, 8, generator=generator)
    ours, theirs = attend(q, k, v, window), naive(q, k, v, window)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    found = torch.autograd.grad((ours * weights).sum(), (q, k, v))
    expected = torch.autograd.grad((theirs * weights).sum(), (q, k, v))
    for gradient, wanted in zip(found, expected):
        torch.testing.assert_close(gradient, wanted, atol=1e-5, rtol=1e-4)


def test_windowed_attention_makes_no_quadratic_mask(monkeypatch):
    """No mask that a windowed layer builds is larger than a block of queries times the keys it sees."""
    import nanochat.attention as attention
    sizes, build = [], attention.visible

    def record(queries, keys, *rest):
        sizes.append((len(queries), len(keys)))
        return build(queries, keys, *rest)

    monkeypatch.setattr(attention, "visible", record)
    x = torch.randn(1, 1024, 1, 8)
    attend(x, x, x, 64)
    assert len(sizes) == 16 and max(queries * keys for queries, keys in sizes) <= 64 * 128


def test_cached_attention_sees_each_rows_own_past():
    generator = torch.Generator().manual_seed(0)
    k, v = (torch.randn(2, 1, 10, 8, generator=generator) for _ in range(2))
    q = torch.randn(2, 1, 1, 8, generator=generator)
    mask = visible(torch.tensor([[3], [9]]), torch.arange(10), window=4)
    y = attend_cached(q, k, v, mask[:, None])
    for row, (first, last) in enumerate(((0, 3), (5, 9))):
        p = torch.softmax(k[row, 0, first:last + 1] @ q[row, 0, 0] / math.sqrt(8), 0)
        torch.testing.assert_close(y[row, 0, 0], p @ v[row, 0, first:last + 1])
