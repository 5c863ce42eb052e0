"""Attention against softmax over an explicit mask."""

import math
from dataclasses import replace
import pytest
import torch
from nanochat import attention
from nanochat.attention import attend, attend_cached, choose, visible
from nanochat.hardware import probe
from nanochat.scaling import Shape

CPU = torch.device("cpu")
SHAPE = Shape(n_layer=2, n_head=4, n_kv_head=2, n_embd=32, sequence_len=200, vocab_size=64)     # window 128

def naive(q, k, v, window):
    T, D = q.size(1), q.size(3)
    k, v = (x.repeat_interleave(q.size(2) // x.size(2), dim=2) for x in (k, v))
    distance = torch.arange(T)[:, None] - torch.arange(T)
    scores = torch.einsum("bthd,bshd->bhts", q, k) / math.sqrt(D)
    scores = scores.masked_fill((distance < 0) | (distance > window), float("-inf"))
    return torch.einsum("bhts,bshd->bthd", scores.softmax(-1), v)

def packed_naive(q, k, v, ends_q, ends_k, longest_q, longest_k, *, window_size=(-1, -1), enable_gqa=False):
    """What varlen_attn says that it does, by a mask over all tokens of all rows: q (N, H, D), k, v (N, K, D);
    a query sees `left` keys before and `right` keys after itself in its own row, -1: all of them."""
    assert ends_q.dtype == ends_k.dtype == torch.int32
    assert torch.compiler.is_compiling() or longest_q == longest_k == ends_q[1] == q.size(0) - ends_q[-2]
    assert enable_gqa or q.size(1) == k.size(1), "Expect query and key/value to have the same number of heads"
    at = torch.arange(q.size(0))
    row = (at[:, None] >= ends_q[1:]).sum(1)
    before, (left, right) = at[:, None] - at, window_size
    seen = (row[:, None] == row) & ((before <= left) | (left < 0)) & ((-before <= right) | (right < 0))
    k, v = (x.repeat_interleave(q.size(1) // x.size(1), dim=1) for x in (k, v))
    scores = torch.einsum("nhd,mhd->hnm", q, k) / math.sqrt(q.size(2))
    return torch.einsum("hnm,mhd->nhd", scores.masked_fill(~seen, float("-inf")).softmax(-1), v)

@pytest.fixture(autouse=True)
def plain_afterwards(monkeypatch):
    monkeypatch.setattr(attention, "backend", "blocks")
    torch._dynamo.reset()                               # else many trials are taken for one that goes wrong


@pytest.fixture
def varlen(monkeypatch):
    """A CPU has no kernel for varlen_attn: (function) -> that one is called in its place."""
    import torch.nn.attention.varlen
    return lambda function: monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", function)


@pytest.fixture
def flex_with_gradients(monkeypatch):
    """FlexAttention differentiates on a CPU, too, but refuses to."""
    import torch.nn.attention.flex_attention
    monkeypatch.setattr(torch.nn.attention.flex_attention, "_validate_device", lambda *_: None)


@pytest.fixture
def tried(monkeypatch):
    """choose() tries here what it tries on a GPU, and returns that GPU."""
    monkeypatch.setattr(attention, "probe", lambda *args, **more: probe(*args[:3], CPU, *args[4:], **more))
    return torch.device("cuda")


@pytest.mark.parametrize("backend", ["blocks", "varlen"])
@pytest.mark.parametrize("T, window", [(1, 128), (64, 0), (130, 1), (200, 64), (200, 65),
                                       (300, 128), (129, 128), (128, 999)])
@pytest.mark.parametrize("heads, kv_heads", [(2, 2), (4, 2)])
def test_attention_and_its_gradients_match_an_explicit_mask(T, window, heads, kv_heads, backend, varlen,
                                                            monkeypatch):
    varlen(packed_naive)
    monkeypatch.setattr(attention, "backend", backend)
    check(attend, T, window, heads, kv_heads)

def check(attend, T, window, heads, kv_heads):
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


@pytest.mark.parametrize("T, window, kv_heads", [(200, 64, 2), (131, 1, 4), (64, 0, 2)])
def test_flex_attention_and_its_gradients_match_an_explicit_mask(T, window, kv_heads, tried, varlen,
                                                                 flex_with_gradients, monkeypatch):
    """Compiled, and without a graph break."""
    varlen(None)
    monkeypatch.setattr(Shape, "windows", (window, T))
    shape = Shape(n_layer=2, n_head=4, n_kv_head=kv_heads, n_embd=32, sequence_len=T, vocab_size=64)
    assert choose(shape, tried, torch.float32).startswith("windowed attention: flex (varlen: TypeError: ")
    kernels, traced = [], torch.compile(attend, fullgraph=True, dynamic=False, backend=lambda graph, _:
        kernels.extend(str(node.target) for node in graph.graph.nodes) or graph)
    check(traced, T, window, 4, kv_heads)
    assert "flex_attention" in kernels and not any("scaled_dot_product" in each for each in kernels)


def test_flex_attention_is_blocks_in_eager_code(tried, varlen, flex_with_gradients, monkeypatch):
    varlen(None)
    assert "attention: flex" in choose(SHAPE, tried, torch.float32)
    monkeypatch.setattr(torch.nn.attention.flex_attention, "flex_attention", None)
    check(attend, 200, 128, 4, 2)


@pytest.mark.parametrize("device, pattern", [("cpu", "SL"), ("mps", "SL"), ("cuda", "L")])
def test_without_a_gpu_or_windows_nothing_is_tried(device, pattern, monkeypatch):
    monkeypatch.setattr(attention, "probe", None)
    monkeypatch.setattr(attention, "backend", "varlen")
    shape = replace(SHAPE, window_pattern=pattern)
    assert choose(shape, torch.device(device), torch.float32) == "windowed attention: blocks"
    assert attention.backend == "blocks"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_works_is_chosen_and_no_other_draw_changes(dtype, tried, varlen):
    varlen(packed_naive)
    state = torch.get_rng_state()
    assert choose(SHAPE, tried, dtype) == "windowed attention: varlen" and attention.backend == "varlen"
    assert torch.equal(state, torch.get_rng_state())


def test_a_window_that_is_off_by_one_is_found(tried, varlen):
    varlen(lambda *args, window_size, **more:
           packed_naive(*args, window_size=(window_size[0] - 1, 0), **more))
    line = choose(SHAPE, tried, torch.bfloat16)
    assert line.startswith("windowed attention: blocks (varlen: ArithmeticError: differs by 0.0")


def test_where_all_fail_blocks_stay_and_the_line_says_why(tried, varlen, monkeypatch):
    def fails(*args, **more):
        raise RuntimeError("no kernel image\nmany more lines")
    varlen(fails)
    monkeypatch.setitem(attention.BACKENDS, "flex", fails)
    reason = "RuntimeError: no kernel image"
    line = f"windowed attention: blocks (varlen: {reason}) (flex: {reason})"
    assert choose(SHAPE, tried, torch.float32) == line and attention.backend == "blocks"
    check(attend, 200, 128, 4, 2)


@pytest.mark.parametrize("broken, chosen", [((), "varlen by FA3"), (("FA3",), "varlen by FA4"),
                                            (("FA3", "FA4"), "varlen")])
def test_installed_packages_are_tried_first_and_given_back_where_full_layers_fail(broken, chosen, tried,
                                                                                   varlen, monkeypatch):
    """Stand-ins for the packages: one that is active serves full layers, too, and may be wrong there."""
    active, sdpa = [None], torch.nn.functional.scaled_dot_product_attention
    def full(*args, is_causal=False, **more):
        return sdpa(*args, is_causal=is_causal, **more) * (1.2 if is_causal and active[-1] in broken else 1)
    varlen(packed_naive)
    monkeypatch.setattr(attention, "find_spec", lambda name: True)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", full)
    monkeypatch.setattr(torch.nn.attention, "current_flash_attention_impl", lambda: active[-1])
    monkeypatch.setattr(torch.nn.attention, "activate_flash_attention_impl", active.append)
    monkeypatch.setattr(torch.nn.attention, "restore_flash_attention_impl", lambda **_: active.append(None))
    line = choose(SHAPE, tried, torch.float32)
    assert line.startswith(f"windowed attention: {chosen}") and attention.backend == "varlen"
    assert all(f"(varlen by {package}: ArithmeticError: differs" in line for package in broken)
    assert active[-1] == (chosen.split()[-1] if "by" in chosen else None)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("backend", ["varlen", "flex"])
def test_a_gpu_has_something_better_than_blocks(backend, kv_heads, monkeypatch):
    """Each of the two, and what choose() compares with is right."""
    for other in {"varlen", "flex"} - {backend}:
        monkeypatch.setitem(attention.BACKENDS, other, lambda *_: 1 / 0)
    shape = Shape(n_layer=2, n_head=4, n_kv_head=kv_heads, n_embd=512, sequence_len=1024, vocab_size=64)
    line = choose(shape, torch.device("cuda"), torch.bfloat16)
    assert attention.backend == backend, line
    q, k, v = (torch.randn(2, 1024, heads, 128, device="cuda", dtype=torch.bfloat16)
               for heads in (4, kv_heads, kv_heads))
    found = torch.compile(attend, fullgraph=True, dynamic=False)(q, k, v, 256)
    expected = naive(q.cpu().float(), k.cpu().float(), v.cpu().float(), 256)
    assert (found.cpu().float() - expected).norm() < 0.02 * expected.norm()
