"""Float8 linear layers against float64 products of numbers rounded here, by the formats' definition."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nanochat import fp8
from nanochat.gpt import GPT
from nanochat.scaling import Shape

E4M3, E5M2 = (3, -6, 448.0), (2, -14, 57344.0)          # bits of mantissa, least exponent, largest number
TYPES = {E4M3: torch.float8_e4m3fn, E5M2: torch.float8_e5m2}
SHAPE = Shape(n_layer=2, n_head=2, n_kv_head=2, n_embd=64, sequence_len=64, vocab_size=100)

def rounded(x, form):
    """x -> (float64 numbers that the format has, the nearest to x / scale, ties to even; scale)."""
    bits, least, largest = form
    x = x.detach().float().numpy()
    scale = np.abs(x).max() / np.float32(largest)
    scaled = (x / scale).astype(np.float64)
    exponent = np.maximum(np.floor(np.log2(np.maximum(np.abs(scaled), 1e-300))), least)
    step = 2.0 ** (exponent - bits)
    return np.clip(np.rint(scaled / step) * step, -largest, largest), np.float64(scale)

def draw(*sizes, dtype=torch.bfloat16, seed=0):
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed)).to(dtype)

def gradients(function, x, weight, dy):
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = function(x, weight)
    return y.detach(), *torch.autograd.grad(y, (x, weight), dy)

def plain(x, weight):
    return F.linear(x, weight.to(x.dtype))

def distance(found, expected):
    expected = torch.as_tensor(expected)
    return float((found.double() - expected.double()).norm() / expected.double().norm())

@pytest.fixture
def case():
    """x (2, 24, 64) and dy (2, 24, 32) bf16 and, as they come in a model, a weight (32, 64) fp32."""
    return draw(2, 24, 64), 0.1 * draw(32, 64, dtype=torch.float32, seed=1), 1e-3 * draw(2, 24, 32, seed=2)

@pytest.mark.parametrize("form", TYPES, ids=["e4m3", "e5m2"])
@pytest.mark.parametrize("size", [1.0, 2.0 ** -70, 2.0 ** 70])
def test_numbers_are_rounded_to_the_nearest_of_the_format(form, size):
    x = draw(64, 96, dtype=torch.float32) ** 5 * size               # of many magnitudes
    found, scale = fp8.quantise(x, TYPES[form])
    expected, expected_scale = rounded(x, form)
    assert float(scale) == expected_scale and scale.dtype == torch.float32 and found.is_contiguous()
    assert np.array_equal(found.double().numpy(), expected) and np.abs(expected).max() == form[2]


def test_products_are_those_of_the_rounded_numbers_in_float64(case):
    x, weight, dy = case
    y, dx, dw = gradients(fp8.linear, x, weight, dy)
    (x8, x_scale), (w8, w_scale) = rounded(x.flatten(0, 1), E4M3), rounded(weight, E4M3)
    dy8, dy_scale = rounded(dy.flatten(0, 1), E5M2)
    assert y.dtype == dx.dtype == torch.bfloat16 and dw.dtype == torch.float32
    assert distance(y.flatten(0, 1), x8 @ w8.T * x_scale * w_scale) < 2 ** -8       # what bf16 rounds
    assert distance(dx.flatten(0, 1), dy8 @ w8 * dy_scale * w_scale) < 2 ** -8
    assert distance(dw, dy8.T @ x8 * dy_scale * x_scale) < 1e-6


def test_results_are_the_plain_ones_within_what_float8_rounds(case):
    for found, expected, most in zip(gradients(fp8.linear, *case), gradients(plain, *case), (.05, .08, .08)):
        assert found.shape == expected.shape and found.dtype == expected.dtype
        assert 0.005 < distance(found, expected) < most


def test_weights_or_inputs_of_zeros_give_zeros_and_finite_gradients(case):
    x, weight, dy = case
    y, dx, dw = gradients(fp8.linear, x, torch.zeros_like(weight), dy)              # as o and down start
    assert not y.any() and not dx.any() and distance(dw, gradients(plain, x, weight, dy)[2]) < 0.08
    for each in gradients(fp8.linear, torch.zeros_like(x), weight, torch.zeros_like(dy)):
        assert not each.any()


@pytest.mark.parametrize("size", [2.0 ** -50, 2.0 ** 50])
def test_magnitudes_do_not_matter(case, size):
    (x, weight, dy), (y, dx, dw) = case, gradients(fp8.linear, *case)
    big_y, same_dx, big_dw = gradients(fp8.linear, size * x, weight, dy)
    assert torch.equal(big_y, size * y) and torch.equal(same_dx, dx) and torch.equal(big_dw, size * dw)
    same_y, big_dx, big_dw = gradients(fp8.linear, x, weight, size * dy)
    assert torch.equal(same_y, y) and torch.equal(big_dx, size * dx) and torch.equal(big_dw, size * dw)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_stays_visible(case, bad):
    x, weight, dy = case
    x[0, 0, 0] = bad
    assert gradients(fp8.linear, x, weight, dy)[0][0, 0].isnan().all()


def test_a_number_of_tokens_that_the_hardware_cannot_multiply_is_computed_plainly(case):
    x, weight, dy = case[0][:, :23], case[1], case[2][:, :23]
    for found, expected in zip(gradients(fp8.linear, x, weight, dy), gradients(plain, x, weight, dy)):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("dy", [torch.ones((), dtype=torch.bfloat16).expand(1, 48, 32), draw(1, 32, 48).mT])
def test_operands_lie_in_memory_as_a_gpu_demands_in_whatever_order_the_gradient_does(case, dy, monkeypatch):
    """Such as that of a sum, which is one number everywhere. A CPU would multiply any."""
    (x, weight, _), multiply, products = case, torch._scaled_mm, []
    def strict(a, b, *scales, **more):
        products.append((a.dtype, b.dtype))
        assert a.stride() == (a.size(1), 1) and b.stride() == (1, b.size(0))
        assert not any(side % 16 for side in (*a.shape, *b.shape)) and not any(each.ndim for each in scales)
        return multiply(a, b, *scales, **more)
    monkeypatch.setattr(torch, "_scaled_mm", strict)
    found = gradients(fp8.linear, x.view(1, 48, 64), weight, dy)
    for mine, expected in zip(found, gradients(fp8.linear, x.view(1, 48, 64), weight, dy.contiguous())):
        assert torch.equal(mine, expected)
    assert len(products) == 6 and (torch.float8_e5m2, torch.float8_e5m2) not in products


def test_compiled_it_gives_the_same_without_a_graph_break(case):
    compiled = torch.compile(fp8.linear, fullgraph=True, dynamic=False, backend="aot_eager")
    for found, expected in zip(gradients(compiled, *case), gradients(fp8.linear, *case)):
        assert torch.equal(found, expected)


def model(dtype=torch.bfloat16):
    made = GPT(SHAPE, dtype).init_weights()
    for block in made.blocks:                               # zeros would hide what the layers below do
        block.attention.o.weight.data.copy_(draw(64, 64, seed=3) / 8)
        block.mlp.down.weight.data.copy_(draw(64, 256, seed=4) / 16)
    return made

def test_a_model_trains_its_large_matrices_in_float8_and_everything_else_stays_as_it_was():
    idx = torch.randint(100, (2, 32), generator=torch.Generator().manual_seed(0))
    ours, theirs = model(), model()
    assert fp8.enable(ours) == "linear layers: 12 in fp8"                           # two layers of six
    for each in (ours, theirs):
        each(idx, idx).backward()
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert mine.dtype == other.dtype and torch.equal(mine, other)
        if name.startswith("blocks.") and "gate" not in name:
            assert 0.001 < distance(mine.grad, other.grad) < 0.3, name
    with torch.no_grad():
        assert torch.equal(ours(idx), theirs(idx)) and torch.equal(ours.for_inference()(idx), theirs(idx))
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_hardware_without_float8_keeps_the_plain_layers_and_says_why(monkeypatch):
    def refuse(*args, **more):
        raise RuntimeError("torch._scaled_mm is only supported on newer devices")
    monkeypatch.setattr(torch, "_scaled_mm", refuse)
    ours = model()
    reason = "RuntimeError: torch._scaled_mm is only supported on newer devices"
    assert fp8.enable(ours) == f"linear layers: 0 in fp8 (fp8: {reason})"
    assert not any(getattr(each, "float8", False) for each in ours.modules())


@pytest.mark.skipif(not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9),
                    reason="needs a CUDA device with float8")
def test_a_gpu_gives_what_the_cpu_gives(case):
    compiled = torch.compile(fp8.linear, fullgraph=True, dynamic=False)
    on_gpu = gradients(compiled, *(each.cuda() for each in case))
    for found, expected in zip(on_gpu, gradients(fp8.linear, *case)):
        assert distance(found.cpu(), expected) < 0.01
