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
from collections import defaultdict
import torch
import torch.distributed as dist
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

def adam_update(p: torch.Tensor, grad: torch.Tensor, state: dict, lr: float, beta1: float, beta2: float,
                weight_decay: float) -> None:
    """One AdamW step on p, in place. All of it in fp32 where p is narrower; eps after the bias correction."""
    wide = torch.promote_types(p.dtype, torch.float32)
    if not state:
        state.update(step=0, m=torch.zeros_like(p, dtype=wide), v=torch.zeros_like(p, dtype=wide))
    state["step"] += 1
    grad = grad.to(wide)
    m, v = state["m"].lerp_(grad, 1 - beta1), state["v"].lerp_(grad.square(), 1 - beta2)
    scale = (1 - beta2 ** state["step"]) ** 0.5
    update = m / v.sqrt().div_(scale).add_(ADAM_EPS)
    exact = p.to(wide)                                                # p itself when it is that wide already
    exact.mul_(1 - lr * weight_decay).add_(update, alpha=-lr / (1 - beta1 ** state["step"]))
    if exact is not p:
        p.copy_(exact)

def orthogonalise(x: torch.Tensor) -> torch.Tensor:
    """Nearest semi-orthogonal matrix of each of a stack (K, m, n), roughly: five odd polynomials aX + b(XX')X
    + c(XX')²X on the shorter side push all singular values towards 1. In x's dtype: bf16 is enough."""
    wide = x.size(-2) <= x.size(-1)
    x = x / (1.01 * matrix_norm(x, keepdim=True) + 1e-6)
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.mT if wide else x.mT @ x
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a) if wide else torch.baddbmm(x, x, polynomial, beta=a)
    return x

def muon_update(p: torch.Tensor, grad: torch.Tensor, state: dict, lr: float, momentum: float,
                weight_decay: float, dtype: torch.dtype | None = None) -> None:
    """A Muon step on a stack of matrices p (K, m, n), in place; the iteration is in `dtype` or that of p."""
    m, n = p.shape[-2:]
    if not state:
        short = (p.size(0), m, 1) if m >= n else (p.size(0), 1, n)
        state.update(momentum=torch.zeros_like(grad), second=p.new_zeros(short))
    buffer = state["momentum"].lerp_(grad, 1 - momentum)
    x = torch.lerp(grad, buffer, momentum)                            # Nesterov
    rows = x.norm(dim=-1, keepdim=True)                               # row equilibration (arXiv 2603.28254)
    x = x * (matrix_norm(x, keepdim=True) / math.sqrt(m) / rows.clamp(min=SMALLEST_ROW))
    x = orthogonalise(x.to(dtype or p.dtype)).to(p.dtype)
    x = x * (math.sqrt(min(m, n)) / matrix_norm(x, keepdim=True).clamp(min=1e-10))    # (arXiv 2602.21545)
    # NorMuon (arXiv 2510.05491): a second moment per row (or column) evens out the sizes of their updates
    second = state["second"].lerp_(x.square().mean(dim=-1 if m >= n else -2, keepdim=True), 1 - MUON_BETA2)
    before = matrix_norm(x, keepdim=True)
    x = x * second.clamp(min=1e-10).rsqrt()
    x = x * (before / matrix_norm(x, keepdim=True).clamp(min=1e-10))
    lr = lr * math.sqrt(max(1.0, m / n))
    decay = p * (x * p >= 0)                                          # cautious: only where the update agrees
    p.add_(x, alpha=-lr).add_(decay, alpha=-lr * weight_decay)

class MuonAdamW:
    """`step(...)` takes the gradients of one step, sums them over the ranks, and updates the weights."""
    def __init__(self, roles: dict[str, list[torch.nn.Parameter]], rates: LearningRates, weight_decay: float,
                 world: World = World(), dtype: torch.dtype | None = None):
        """roles: role -> parameters; `rates` has a peak learning rate for each role; weight_decay is Muon's
        at its peak. `dtype` is what the run computes in: Muon's iteration is in bf16 where the run is."""
        self.world, self.rates, self.weight_decay, self.dtype = world, rates, weight_decay, dtype
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
    def step(self, lr: float = 1.0, momentum: float = 0.95, weight_decay: float = 1.0) -> None:
        """lr and weight_decay multiply the peak values; gradients are summed over the ranks."""
        for (role, p), state in zip(self.adam, self.adam_state, strict=True):
            self._adam(p, state, getattr(self.rates, role) * lr, *ADAM[role])
        for group, state in zip(self.muon, self.muon_state, strict=True):
            self._muon(group, state, self.rates.matrix * lr, momentum, self.weight_decay * weight_decay)

    def _adam(self, p: torch.Tensor, state: dict, *settings: float) -> None:
        grad = p.grad if p.grad is not None else torch.zeros_like(p)
        if self.world.size == 1 or p.ndim < 2 or p.size(0) < SHARD_FROM or p.size(0) % self.world.size:
            adam_update(p, self.world.sum(grad), state, *settings)
            return
        mine = torch.empty_like(grad[:p.size(0) // self.world.size])  # (R / W, ...)
        dist.reduce_scatter_tensor(mine, grad.contiguous())
        share = p.data.chunk(self.world.size)[self.world.rank].clone()
        adam_update(share, mine, state, *settings)
        dist.all_gather_into_tensor(p.data, share)

    def _muon(self, group: list[torch.Tensor], state: dict, lr: float, momentum: float,
              weight_decay: float) -> None:
        W, K = self.world.size, len(group)
        each = math.ceil(K / W)                         # matrices per rank; the last ranks may hold padding
        padded = group + [torch.zeros_like(group[0])] * (each * W - K)
        grads = torch.stack([p.grad if p.grad is not None else torch.zeros_like(p) for p in padded])
        weights = torch.stack([p.data for p in padded[self.world.rank * each:][:each]])     # (each, m, n)
        mine, updated = grads, weights
        if W > 1:
            mine, updated = torch.empty_like(weights), grads          # whose memory serves twice
            dist.reduce_scatter_tensor(mine, grads)
        muon_update(weights, mine, state, lr, momentum, weight_decay, self.dtype)
        if W > 1:
            dist.all_gather_into_tensor(updated, weights)
        for p, new in zip(group, updated[:K], strict=True):
            p.copy_(new)

    def state_dict(self) -> dict:
        """This rank's share of the state. Fits the same model on the same number of ranks."""
        return {"world_size": self.world.size, "adam": self.adam_state, "muon": self.muon_state}

    def load_state_dict(self, state: dict) -> None:
        assert state["world_size"] == self.world.size, "optimizer state of another number of ranks"
        for own, saved in zip(self.adam_state + self.muon_state, state["adam"] + state["muon"], strict=True):
            own.clear()
            own.update({key: value.to(self.world.device, copy=True) if torch.is_tensor(value) else value
                        for key, value in saved.items()})
