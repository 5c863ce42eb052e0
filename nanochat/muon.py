"""The optimizer: Muon for the matrices of the blocks, AdamW for everything else, on any number of ranks.

Muon (Jordan et al., 2024) treats a matrix as a matrix. Adam sizes the update of each number by itself; but
what a layer does to its input is decided by its singular values, and a gradient has few large ones, so the
same few directions get nearly all of the step. Muon averages the gradients (momentum), then replaces their
average by the nearest matrix whose singular values are all one: every direction that the data pointed to
moves alike. The polynomial iteration that does so needs only matmuls and starts best from rows of equal size
(equilibration); what it leaves short of one is made up by a rescaling; and a second moment per row evens out
what rows still differ in (NorMuon). The step then has a known size, whatever the gradient's, so the learning
rate means the same for every shape and depth, and nothing is clipped.

There is no DDP. Gradients are reduced here, and each rank keeps the state of, and updates, its own share: a
slice of the rows of a large table, some matrices of a stacked Muon group; small ones are updated alike."""
import math
import operator
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
import torch
import torch.distributed as dist
from torch import Tensor
from torch.linalg import matrix_norm
from nanochat.dist import World
from nanochat.scaling import LearningRates

# K matrices of a group, m rows and n columns each, R rows of a table, W ranks

SHARD_FROM = 1024               # Adam parameters with more rows than this are sharded
ADAM_EPS = 1e-10
MUON_BETA2 = 0.9
SMALLEST_ROW = 1e-6             # of a gradient's norm: smaller ones, as most are at first, stay small
# Polar Express (arXiv 2505.16932): five steps, safety 2e-2, cushion 2
POLAR_EXPRESS = ((8.156554524902461, -22.48329292557795, 15.878769915207462),
                 (4.042929935166739, -2.808917465908714, 0.5000178451051316),
                 (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
                 (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
                 (2.3465413258596377, -1.7097828382687081, 0.42323551169305323))

# beta1, beta2, weight decay
ADAM = {"unembedding": (0.8, 0.96, 0.01), "embedding": (0.8, 0.995, 0.001),
        "value_embedding": (0.8, 0.995, 0.01), "residual": (0.8, 0.95, 0.05),
        "input": (0.96, 0.95, 0.0), "smear": (0.8, 0.95, 0.0)}

def adam_update(p: Tensor, grad: Tensor, state: dict, lr: float, beta1: float, beta2: float,
                weight_decay: float, run: Callable[..., None] = operator.call) -> None:
    """One AdamW step on p, in place. All of it in fp32 where p is narrower; eps after the bias correction."""
    if not state:
        wide = torch.promote_types(p.dtype, torch.float32)
        state.update(step=0, m=torch.zeros_like(p, dtype=wide), v=torch.zeros_like(p, dtype=wide))
    state["step"] += 1
    scale, rate = (1 - beta2 ** state["step"]) ** 0.5, -lr / (1 - beta1 ** state["step"])
    run(_adam_arithmetic, p, state["m"], state["v"], grad,
        1 - beta1, 1 - beta2, scale, 1 - lr * weight_decay, rate)

def _adam_arithmetic(p, m, v, grad, weight1, weight2, scale, keep, rate):
    grad = grad.to(m.dtype)
    m.lerp_(grad, weight1)
    v.lerp_(grad.square(), weight2)
    update = m / v.sqrt().div_(scale).add_(ADAM_EPS)
    exact = p.to(m.dtype)                               # p itself if it is that wide: then nothing is copied
    p.copy_(exact.mul_(keep).add_(update, alpha=rate))

def orthogonalise(x: Tensor) -> Tensor:
    """Nearest semi-orthogonal matrix of each of a stack (K, m, n), roughly: five odd polynomials aX + b(XX')X
    + c(XX')²X on the shorter side push all singular values towards 1. In x's dtype: bf16 is enough."""
    wide = x.size(-2) <= x.size(-1)
    x = x / (1.01 * matrix_norm(x, keepdim=True) + 1e-6)
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.mT if wide else x.mT @ x
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a) if wide else torch.baddbmm(x, x, polynomial, beta=a)
    return x

def muon_update(p: Tensor, grad: Tensor, state: dict, lr: float, momentum: float, weight_decay: float,
                dtype: torch.dtype | None = None, run: Callable[..., None] = operator.call) -> None:
    """A Muon step on a stack of matrices p (K, m, n), in place; the iteration is in `dtype` or that of p."""
    m, n = p.shape[-2:]
    if not state:
        short = (p.size(0), m, 1) if m >= n else (p.size(0), 1, n)
        state.update(momentum=torch.zeros_like(grad), second=p.new_zeros(short))
    rate = -lr * math.sqrt(max(1.0, m / n))
    run(_muon_arithmetic, p, state["momentum"], state["second"], grad, dtype or p.dtype,
        1 - momentum, momentum, rate, rate * weight_decay)

def _muon_arithmetic(p, buffer, second, grad, dtype, weight, momentum, rate, decay_rate):
    m, n = p.shape[-2:]
    x = torch.lerp(grad, buffer.lerp_(grad, weight), momentum)        # Nesterov
    rows = x.norm(dim=-1, keepdim=True)                               # row equilibration (arXiv 2603.28254)
    x = x * (matrix_norm(x, keepdim=True) / math.sqrt(m) / rows.clamp(min=SMALLEST_ROW))
    x = orthogonalise(x.to(dtype)).to(p.dtype)
    x = x * (math.sqrt(min(m, n)) / matrix_norm(x, keepdim=True).clamp(min=1e-10))    # (arXiv 2602.21545)
    # NorMuon (arXiv 2510.05491): a second moment per row (or column) evens out the sizes of their updates
    second.lerp_(x.square().mean(dim=-1 if m >= n else -2, keepdim=True), 1 - MUON_BETA2)
    before = matrix_norm(x, keepdim=True)
    x = x * second.clamp(min=1e-10).rsqrt()
    x = x * (before / matrix_norm(x, keepdim=True).clamp(min=1e-10))
    decay = p * (x * p >= 0)                                          # cautious: only where the update agrees
    p.add_(x, alpha=rate).add_(decay, alpha=decay_rate)

def _run_if(ok: Tensor | None, arithmetic: Callable[..., None], *inputs) -> None:
    """arithmetic(*inputs) changes the first three, a parameter and its moments. Where ok () is false, they
    stay what they are, whatever the gradient holds; the host never knows. Compiled, this copies nothing."""
    if ok is None:
        return arithmetic(*inputs)
    new = [tensor.clone() for tensor in inputs[:3]]
    arithmetic(*new, *inputs[3:])
    for old, changed in zip(inputs[:3], new, strict=True):
        old.copy_(torch.where(ok, changed, old))

class MuonAdamW:
    """`step(...)` takes the gradients of one step, sums them over the ranks, and updates the weights."""
    def __init__(self, roles: dict[str, list[torch.nn.Parameter]], rates: LearningRates, weight_decay: float,
                 world: World = World(), dtype: torch.dtype | None = None, compiled: bool = False):
        """roles: role -> parameters; `rates` has a peak learning rate for each role; weight_decay is Muon's
        at its peak. `dtype` is what the run computes in: Muon's iteration is in bf16 where the run is."""
        self.world, self.rates, self.weight_decay, self.dtype = world, rates, weight_decay, dtype
        self.compiled = torch.compile(_run_if, fullgraph=True, dynamic=False) if compiled else None
        self.parameters = [p for parameters in roles.values() for p in parameters]
        self.adam = [(role, p) for role, parameters in roles.items() if role != "matrix" for p in parameters]
        shapes = defaultdict(list)
        for p in roles["matrix"]:
            shapes[p.shape].append(p)
        self.muon = list(shapes.values())                             # each a list of matrices of one shape
        self.adam_state, self.muon_state = [{} for _ in self.adam], [{} for _ in self.muon]

    def zero_grad(self) -> None:
        for p in self.parameters:
            p.grad = None

    @torch.no_grad()
    def step(self, lr: float = 1.0, momentum: float = 0.95, weight_decay: float = 1.0,
             ok: Tensor | None = None) -> None:
        """lr and weight_decay multiply the peak values; gradients are summed over the ranks. Where ok, a ()
        bool on the device and the same on all ranks, is false, weights and moments keep every bit, and the
        host does not wait to know: it counts the step in Adam's bias correction. On a CPU it just looks."""
        look = ok is not None and ok.device.type == "cpu" and not self.compiled
        if look and not ok:
            return
        run = partial(self._run, None if look else ok)
        jobs = [self._adam(p, state, getattr(self.rates, role) * lr, *ADAM[role], run)
                for (role, p), state in zip(self.adam, self.adam_state, strict=True)]
        muon = self.rates.matrix * lr, momentum, self.weight_decay * weight_decay, self.dtype, run
        jobs += [self._muon(*each, *muon) for each in zip(self.muon, self.muon_state, strict=True)]
        for job in jobs * 3:            # start all reductions; as each is done, update, start to gather; end
            next(job, None)

    def _run(self, ok: Tensor | None, arithmetic: Callable[..., None], *inputs) -> None:
        if not self.compiled:
            return _run_if(ok, arithmetic, *inputs)
        # Numbers become () tensors on the host: arguments of kernels, so that new values do not compile anew.
        # Each shape is a graph of the same function; dynamo would take the ninth for a mistake.
        inputs = [torch.tensor(x, dtype=inputs[1].dtype) if isinstance(x, float) else x for x in inputs]
        with torch._dynamo.config.patch(recompile_limit=10 ** 6, accumulated_recompile_limit=10 ** 6):
            self.compiled(ok, arithmetic, *inputs)

    def _adam(self, p: Tensor, *settings) -> Iterator:
        W, share, grad = self.world.size, p, p.grad if p.grad is not None else torch.zeros_like(p)
        if W > 1 and p.ndim > 1 and p.size(0) >= SHARD_FROM and p.size(0) % W == 0:
            share = p.data.chunk(W)[self.world.rank].clone()          # (R / W, ...)
        return self._shared(adam_update, share, grad.contiguous(), p.data, *settings)

    def _muon(self, group: list[Tensor], *settings) -> Iterator:
        W, K = self.world.size, len(group)
        each = math.ceil(K / W)                         # matrices per rank; the last ranks may hold padding
        padded = group + [torch.zeros_like(group[0])] * (each * W - K)
        grads = torch.stack([p.grad if p.grad is not None else torch.zeros_like(p) for p in padded])
        weights = torch.stack([p.data for p in padded[self.world.rank * each:][:each]])     # (each, m, n)
        updated = weights if W == 1 else grads                        # whose memory serves twice
        yield from self._shared(muon_update, weights, grads, updated, *settings)
        torch._foreach_copy_(group, updated[:K].unbind())

    def _shared(self, update: Callable, weights: Tensor, grads: Tensor, whole: Tensor, *settings) -> Iterator:
        """Update this rank's share of the weights, then gather `whole`; or all alike, if they are as large as
        the gradients. Pauses where a collective has started: its handle and tensors live on in this frame."""
        alike = weights.shape == grads.shape
        mine = grads if alike else torch.empty_like(weights)
        if self.world.size > 1:
            pending = (dist.all_reduce(grads, async_op=True) if alike
                       else dist.reduce_scatter_tensor(mine, grads, async_op=True))
            yield
            pending.wait()
        update(weights, mine, *settings)
        if not alike:
            pending = dist.all_gather_into_tensor(whole, weights, async_op=True)
            yield
            pending.wait()

    def state_dict(self) -> dict:
        """This rank's share of the state. Fits the same model on the same number of ranks."""
        return {"world_size": self.world.size, "adam": self.adam_state, "muon": self.muon_state}

    def load_state_dict(self, state: dict) -> None:
        assert state["world_size"] == self.world.size, "optimizer state of another number of ranks"
        for own, saved in zip(self.adam_state + self.muon_state, state["adam"] + state["muon"], strict=True):
            own.clear()
            own.update({key: value.to(self.world.device, copy=True) if torch.is_tensor(value) else value
                        for key, value in saved.items()})
