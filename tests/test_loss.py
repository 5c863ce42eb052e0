"""The chunked head and loss against F.cross_entropy on whole logits."""

import pytest
import torch
import torch.nn.functional as F
from nanochat import loss

@pytest.mark.parametrize("tokens", [1, 64, 200])
@pytest.mark.parametrize("vocab, padded", [(100, 128), (128, 128)])
def test_chunked_loss_and_gradients_match_whole_logits(tokens, vocab, padded, monkeypatch):
    monkeypatch.setattr(loss, "CHUNK_ELEMENTS", 64 * 128)             # chunks of 64 tokens
    generator = torch.Generator().manual_seed(tokens)
    x = torch.randn(tokens, 16, generator=generator, requires_grad=True)
    weight = torch.randn(padded, 16, generator=generator, requires_grad=True)
    targets = torch.randint(-1, vocab, (tokens,), generator=generator)
    total = loss.summed_loss(x, weight, targets, vocab, 5.0)
    logits = 5.0 * torch.tanh((x @ weight.T)[:, :vocab] / 5.0)
    expected = F.cross_entropy(logits, targets, ignore_index=-1, reduction="sum")
    torch.testing.assert_close(total, expected, atol=1e-4, rtol=1e-5)
    gradients = torch.autograd.grad(total * 0.5, (x, weight))
    wanted = torch.autograd.grad(expected * 0.5, (x, weight))
    for ours, theirs in zip(gradients, wanted):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    each = loss.token_losses(x.detach(), weight.detach(), targets, vocab, 5.0)
    expected = F.cross_entropy(logits, targets, ignore_index=-1, reduction="none")
    torch.testing.assert_close(each, expected, atol=1e-5, rtol=1e-4)


def test_whole_logits_never_exist(monkeypatch):
    """The largest tensor that training saves or makes has a chunk's rows, not all tokens'."""
    monkeypatch.setattr(loss, "CHUNK_ELEMENTS", 64 * 1024)
    seen, saved, original = [], [], loss._loss_and_gradient

    def record_rows(z, *rest):
        seen.append(z.shape[0])
        return original(z, *rest)

    def record_size(tensor):
        saved.append(tensor.numel())
        return tensor

    monkeypatch.setattr(loss, "_loss_and_gradient", record_rows)
    x, weight = torch.randn(1000, 8, requires_grad=True), torch.randn(1024, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(record_size, lambda tensor: tensor):
        loss.summed_loss(x, weight, torch.zeros(1000, dtype=torch.long), 1024, 15.0).backward()
    assert sum(seen) == 1000 and max(seen) == 64 and max(saved) == weight.numel()


def test_bfloat16_states_give_fp32_losses_close_to_exact_ones():
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(300, 32, generator=generator), torch.randn(64, 32, generator=generator) * 0.2
    targets = torch.randint(0, 64, (300,), generator=generator)
    exact = loss.token_losses(x, weight, targets, 64, 15.0)
    ours = loss.token_losses(x.bfloat16(), weight, targets, 64, 15.0)
    assert ours.dtype == torch.float32 and (ours - exact).abs().mean() < 0.02
