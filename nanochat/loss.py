"""The end of the model in one piece: head, softcap and cross-entropy, a few tokens at a time.

Logits in fp32 for a whole micro-batch are the largest tensor of a training step (B * T * V * 4 bytes). Here a
chunk of them is made, turned into its loss and, in place, into its gradient, and is gone before the next one:
the backward pass only scales what the forward pass left. Used by gpt.py only."""
import torch
import torch.nn.functional as F
from nanochat.scaling import LOSS_CHUNK

# N tokens, n tokens of a chunk, C width, V padded vocabulary; x states, z logits before the softcap

IGNORE = -1                     # targets that do not count
CHUNK_ELEMENTS = 2 ** 21        # on CPU: a chunk of logits (8 MB in fp32) that stays in cache

def capped_logits(x: torch.Tensor, weight: torch.Tensor, vocab_size: int, softcap: float) -> torch.Tensor:
    """x (..., C), weight (V, C) -> fp32 logits (..., vocab_size), softcap * tanh(z / softcap)."""
    return cap(F.linear(x, weight.to(x.dtype))[..., :vocab_size], softcap)

def cap(z: torch.Tensor, softcap: float) -> torch.Tensor:
    """z of any dtype -> fp32, softcap * tanh(z / softcap): the order stays, nothing is ever certain."""
    tanh = z.float().div(softcap).tanh_()
    return tanh * softcap if tanh.requires_grad else tanh.mul_(softcap)

def _chunks(x: torch.Tensor, weight: torch.Tensor) -> list[slice]:
    """Slices of x (N, C) whose logits are small enough to be made at once."""
    size = LOSS_CHUNK if x.is_cuda else max(64, CHUNK_ELEMENTS // weight.size(0))
    return [slice(start, min(start + size, x.size(0))) for start in range(0, x.size(0), size)]

def token_losses(x: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, vocab_size: int,
                 softcap: float) -> torch.Tensor:
    """Nats per token, no gradient. x (N, C), weight (V, C), targets (N,) -> (N,) fp32, 0 where ignored."""
    losses = [x.new_zeros(0, dtype=torch.float32)]                    # for N = 0
    for chunk in _chunks(x, weight):
        logits = capped_logits(x[chunk], weight, vocab_size, softcap)
        losses.append(F.cross_entropy(logits, targets[chunk].long(), ignore_index=IGNORE, reduction="none"))
    return torch.cat(losses)

class _SummedLoss(torch.autograd.Function):
    """Sum of nats over the targets that count; the gradients are made in the forward pass, chunk by chunk."""
    @staticmethod
    def forward(ctx, x, weight, targets, vocab_size, softcap):
        head, losses = weight.to(x.dtype), []
        dx, dweight = torch.empty_like(x), torch.zeros_like(weight, dtype=torch.float32)
        for chunk in _chunks(x, weight):
            loss, dz = _loss_and_gradient(F.linear(x[chunk], head), targets[chunk], vocab_size, softcap)
            losses.append(loss)
            dz = dz.to(x.dtype)
            torch.mm(dz, head, out=dx[chunk])
            if x.dtype == torch.float32:
                dweight.addmm_(dz.t(), x[chunk])
            else:
                dweight += dz.t() @ x[chunk]
        ctx.save_for_backward(dx, dweight)
        ctx.weight_dtype = weight.dtype
        # Not added up in place: what depends on such a result had wrong gradients, compiled by torch 2.11.
        return sum(losses, torch.zeros((), device=x.device))

    @staticmethod
    def backward(ctx, scale):
        dx, dweight = ctx.saved_tensors
        return dx * scale.to(dx.dtype), (dweight * scale).to(ctx.weight_dtype), None, None, None

def _loss_and_gradient(z: torch.Tensor, targets: torch.Tensor, vocab_size: int,
                       softcap: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed nats of a chunk and d(sum)/dz. z (n, V) before the cap; padding columns get no probability."""
    tanh = torch.tanh_(z.float().div_(softcap))                       # (n, V), in the memory of z / softcap
    capped = tanh * softcap
    capped[:, vocab_size:] = float("-inf")
    counted = targets != IGNORE
    index = targets.long().clamp(min=0).unsqueeze(1)                  # (n, 1)
    normaliser = torch.logsumexp(capped, dim=1, keepdim=True)
    loss = ((normaliser - capped.gather(1, index)).squeeze(1) * counted).sum()
    p = torch.exp_(capped.sub_(normaliser))                           # softmax, in place of the logits
    if torch.compiler.is_compiling():                   # p - onehot, in one kernel with what is around it
        p = p - (index == torch.arange(p.size(1), device=p.device)).float()
    else:
        p.scatter_add_(1, index, torch.full_like(normaliser, -1.0))
    one = torch.ones((), device=z.device)
    slope = torch.addcmul(one, tanh, tanh, value=-1.0)                # d capped / dz = 1 - tanh²
    return loss, p.mul_(slope).mul_(counted.unsqueeze(1))

def summed_loss(x: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, vocab_size: int,
                softcap: float) -> torch.Tensor:
    """Differentiable sum of nats over targets != -1. x (N, C), weight (V, C), targets (N,) -> () fp32."""
    if not torch.is_grad_enabled():
        return token_losses(x, weight, targets, vocab_size, softcap).sum()
    return _SummedLoss.apply(x, weight, targets, vocab_size, softcap)
