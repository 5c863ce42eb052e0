"""The model against a naive one, written from the formulas alone; its cache against its own full pass."""

import math
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from nanochat.gpt import GPT
from nanochat.past import KVCache
from nanochat.scaling import make_shape

def random_model(depth=4, vocab=97, seed=1, **options) -> GPT:
    """Every weight off its initial zeros, so that nothing is hidden behind an identity."""
    shape = make_shape(depth, vocab, **{"head_dim": 8, "aspect_ratio": 6, "sequence_len": 400, **options})
    model = GPT(shape).init_weights(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            size = p.std() if p.numel() > 1 else p.abs()
            p.add_(0.3 * size.clamp(min=0.05) * torch.randn(p.shape, generator=generator))
    return model


def naive_logits(model: GPT, idx: torch.Tensor) -> torch.Tensor:
    """Token by token, head by head, in float64: the formulas as they are written down. idx (T,) -> (T, V)."""
    shape, w = model.shape, {name: p.detach().double() for name, p in model.named_parameters()}
    D, H, T = shape.head_dim, shape.n_head, len(idx)
    norm = lambda x: x / (x.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).sqrt()
    e = norm(w["embedding"][idx])
    x = e.clone()
    for t in range(1, T):
        x[t] += w["smear"] * torch.sigmoid(w["smear_gate"] @ e[t][:shape.smear_channels]) * e[t - 1]
    x0, L = x.clone(), shape.n_layer
    angle = [[t * 100_000 ** (-2 * j / D) for j in range(D // 2)] for t in range(T)]

    def turn(v, t):
        out = v.clone()
        for j in range(D // 2):
            c, s = math.cos(angle[t][j]), math.sin(angle[t][j])
            out[j], out[j + D // 2] = v[j] * c + v[j + D // 2] * s, v[j + D // 2] * c - v[j] * s
        return norm(out) * 1.2

    for i in range(L):
        attention = {name: w[f"blocks.{i}.attention.{name}.weight"] for name in ("q", "k", "v", "o")}
        up, down = w[f"blocks.{i}.mlp.up.weight"], w[f"blocks.{i}.mlp.down.weight"]
        x = w["residual"][i] * x + w["input"][i] * x0
        u = norm(x)
        q, k, v = ((u @ attention[name].T).view(T, -1, D) for name in ("q", "k", "v"))
        q = torch.stack([torch.stack([turn(q[t, h], t) for h in range(q.size(1))]) for t in range(T)])
        k = torch.stack([torch.stack([turn(k[t, h], t) for h in range(k.size(1))]) for t in range(T)])
        if shape.key_offset:                            # frequencies D/4 .. D/2 look one token back
            slow = [j + half for j in range(D // 4, D // 2) for half in (0, D // 2)]
            k[1:, :, slow], k[0, :, slow] = k[:-1, :, slow].clone(), 0
        if i % 2 == (L - 1) % 2:
            gate = 3 * torch.sigmoid(u[:, :shape.gate_channels] @ w[f"blocks.{i}.attention.gate.weight"].T)
            table = shape.value_layers.index(i)
            width = v.size(1) * D
            values = w["value_embedding"][idx, table * width:(table + 1) * width].view_as(v)
            v = v + gate[..., None] * values
        y = torch.zeros(T, H, D, dtype=torch.float64)
        for h in range(H):
            kv = h // (H // k.size(1))
            for t in range(T):
                first = max(0, t - shape.windows[i])
                p = torch.softmax(k[first:t + 1, kv] @ q[t, h] / math.sqrt(D), 0)
                y[t, h] = p @ v[first:t + 1, kv]
        x = x + y.reshape(T, -1) @ attention["o"].T
        x = x + torch.relu(norm(x) @ up.T).square() @ down.T
        if i == L // 2:
            middle = x.clone()
    z = norm(x - w["backout"] * middle) @ w["unembedding"].T
    return (15 * torch.tanh(z / 15))[:, :shape.vocab_size]


@pytest.mark.parametrize("options", [{}, {"depth": 3}, {"n_kv_head": 1}, {"window_pattern": "L"},
                                     {"key_offset": True}])
def test_forward_matches_a_naive_model(options):
    model = random_model(**options)
    idx = torch.randint(0, 97, (140,), generator=torch.Generator().manual_seed(3))      # a window has 128
    torch.testing.assert_close(model(idx[None])[0].double(), naive_logits(model, idx), atol=2e-4, rtol=1e-3)


def test_loss_and_gradients_match_plain_cross_entropy():
    model = random_model()
    idx, targets = torch.randint(0, 97, (2, 3, 50), generator=torch.Generator().manual_seed(0))
    targets[0, 5:9] = -1
    model(idx, targets).backward()
    ours = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    loss = F.cross_entropy(model(idx).flatten(0, 1), targets.flatten(), ignore_index=-1)
    loss.backward()
    torch.testing.assert_close(model(idx, targets), loss)
    for name, p in model.named_parameters():
        torch.testing.assert_close(ours[name], p.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_summed_and_single_losses_agree_with_the_mean():
    model = random_model()
    idx, targets = torch.randint(0, 97, (2, 2, 20), generator=torch.Generator().manual_seed(0))
    targets[1, :15] = -1
    each = model(idx, targets, reduction="none")
    assert each.shape == (2, 20) and (each[1, :15] == 0).all()
    torch.testing.assert_close(each.sum(), model(idx, targets, reduction="sum"))
    torch.testing.assert_close(each.sum() / 25, model(idx, targets))


def test_a_batch_without_targets_has_no_loss_and_no_nan():
    model = random_model()
    loss = model(torch.zeros(1, 8, dtype=torch.int32), torch.full((1, 8), -1))
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert loss.item() == 0 and all(torch.isfinite(gradient).all() for gradient in gradients)


def test_initialisation_touches_every_weight_and_starts_at_the_uniform_distribution():
    model = GPT(make_shape(4, 1000, sequence_len=64))
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(float("nan"))
    model.init_weights()
    assert all(torch.isfinite(p).all() for p in model.parameters())
    idx = torch.randint(0, 1000, (2, 64))
    assert model(idx, idx).item() == pytest.approx(math.log(1000), abs=0.01)
    last_matrices = [w for block in model.blocks for w in (block.attention.o.weight, block.mlp.down.weight)]
    assert not any(w.any() for w in last_matrices)      # every block starts as the identity


def test_a_seed_is_a_model():
    one, same, other = (GPT(make_shape(2, 100)).init_weights(seed) for seed in (7, 7, 8))
    assert all(map(torch.equal, one.parameters(), same.parameters()))
    assert not torch.equal(one.embedding, other.embedding)


def test_tables_live_in_the_compute_dtype_and_matrices_in_fp32():
    model = GPT(make_shape(2, 100, sequence_len=32), torch.bfloat16).init_weights()
    assert model.embedding.dtype == model.value_embedding.dtype == torch.bfloat16
    assert model.blocks[0].attention.q.weight.dtype == model.unembedding.dtype == torch.float32
    logits = model(torch.zeros(1, 8, dtype=torch.long))
    assert logits.dtype == torch.float32


def test_every_parameter_has_exactly_one_role():
    model = random_model()
    roles = [p for parameters in model.param_roles().values() for p in parameters]
    assert len(roles) == len({id(p) for p in roles}) == len(list(model.parameters()))


@settings(max_examples=settings().max_examples // 5)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.sampled_from([1, 3]), st.booleans())
def test_cached_decode_matches_full_forward(chunks, rows, key_offset):
    model = random_model(key_offset=key_offset)
    idx = torch.randint(0, 97, (rows, sum(chunks)), generator=torch.Generator().manual_seed(len(chunks)))
    cache = KVCache(model.shape, 3, 400, model.device, model.dtype)
    with torch.no_grad():
        full, done = model(idx), 0
    for size in chunks:
        logits = model.cap(model.step(idx[:, done:done + size].tolist(), cache))
        done += size
        torch.testing.assert_close(logits, full[:, done - 1], atol=1e-4, rtol=1e-3)


def test_rows_of_a_batch_do_not_depend_on_their_neighbours():
    """Rows of different lengths decode together; one leaves, another is moved into its place."""
    model = random_model(key_offset=True)
    rows = [torch.randint(0, 97, (1, n), generator=torch.Generator().manual_seed(n)) for n in (5, 150, 40)]
    batch = KVCache(model.shape, 3, 200, model.device, model.dtype)
    for i, row in enumerate(rows):
        alone = KVCache(model.shape, 1, 200, model.device, model.dtype)
        model.step(row.tolist(), alone)
        batch.insert(i, alone, 0)
    token = torch.tensor([[1], [2], [3]])
    logits = model.cap(model.step(token.tolist(), batch))
    with torch.no_grad():
        for i, row in enumerate(rows):
            full = model(torch.cat((row, token[i:i + 1]), dim=1))[0, -1]
            torch.testing.assert_close(logits[i], full, atol=1e-4, rtol=1e-3)
        batch.insert(0, batch, 2)                                     # row 0 has left, row 2 closes the gap
        logits = model.cap(model.step([[4], [5]], batch))
        full = model(torch.cat((rows[2], token[2:], torch.tensor([[4]])), dim=1))[0, -1]
        torch.testing.assert_close(logits[0], full, atol=1e-4, rtol=1e-3)


def test_a_reset_row_starts_afresh():
    model = random_model(key_offset=True)
    cache = KVCache(model.shape, 1, 64, model.device, model.dtype)
    first = model.step([[3, 4, 5]], cache)
    cache.reset(0)
    torch.testing.assert_close(model.step([[3, 4, 5]], cache), first)


def test_more_tokens_than_the_cache_holds_are_refused():
    model = random_model()
    cache = KVCache(model.shape, 1, 4, model.device, model.dtype)
    with pytest.raises(AssertionError, match="5 tokens in a cache of 4"):
        model.step([[0] * 5], cache)


def test_sampling_in_the_middle_of_training_leaves_training_possible():
    model = random_model()
    model.step([[1, 2]], KVCache(model.shape, 1, 8, model.device, model.dtype))
    model(torch.ones(1, 8, dtype=torch.long), torch.ones(1, 8, dtype=torch.long)).backward()
