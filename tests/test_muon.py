"""The optimizer against torch.optim, a naive Muon and a singular value decomposition."""

import math
import multiprocessing
import weakref
from functools import partial
from types import SimpleNamespace
import pytest
import torch
import torch.distributed as dist
from nanochat import muon
from nanochat.dist import World
from nanochat.gpt import GPT
from nanochat.muon import MuonAdamW, adam_update, muon_update, orthogonalise
from nanochat.scaling import LearningRates, derive, make_shape

def test_adam_matches_torch():
    generator = torch.Generator().manual_seed(0)
    ours = torch.randn(30, 5, generator=generator)
    theirs = torch.nn.Parameter(ours.clone())
    reference = torch.optim.AdamW([theirs], lr=0.01, betas=(0.8, 0.95), eps=1e-10, weight_decay=0.1)
    state = {}
    for _ in range(20):
        grad = torch.randn(30, 5, generator=generator)
        theirs.grad = grad.clone()
        reference.step()
        adam_update(ours, grad, state, 0.01, 0.8, 0.95, 0.1)
    torch.testing.assert_close(ours, theirs.data, atol=1e-6, rtol=1e-5)


def test_adam_on_bfloat16_tables_computes_in_fp32():
    p = torch.ones(8, 2, dtype=torch.bfloat16)
    state = {}
    adam_update(p, torch.full_like(p, 1e-3), state, 0.1, 0.8, 0.95, 0.0)
    assert state["m"].dtype == state["v"].dtype == torch.float32
    torch.testing.assert_close(p.float(), torch.full((8, 2), 0.9), atol=4e-3, rtol=0)


@pytest.mark.parametrize("m, n", [(16, 16), (64, 16), (16, 64), (3, 5)])
def test_orthogonalised_singular_values_are_near_one(m, n):
    x = torch.randn(3, m, n, generator=torch.Generator().manual_seed(m))
    u, s, vh = torch.linalg.svd(orthogonalise(x), full_matrices=False)
    assert s.min() > 0.6 and s.max() < 1.3
    exact = torch.linalg.svd(x, full_matrices=False)
    polar = (exact.U @ exact.Vh).flatten(1)
    assert torch.nn.functional.cosine_similarity(orthogonalise(x).flatten(1), polar).min() > 0.97


def naive_muon(p, grad, buffer, second, lr, momentum, decay):
    """The seven steps, one matrix at a time, in float64."""
    m, n = p.shape
    buffer = momentum * buffer + (1 - momentum) * grad
    x = (1 - momentum) * grad + momentum * buffer
    norm = x.norm()
    x = torch.stack([row * (norm / math.sqrt(m)) / max(row.norm(), 1e-6) for row in x])
    x = x / (1.01 * x.norm() + 1e-6)
    for a, b, c in muon.POLAR_EXPRESS:
        gram = x @ x.T
        x = a * x + b * gram @ x + c * gram @ gram @ x
    x = x * math.sqrt(min(m, n)) / x.norm()
    second = 0.9 * second + 0.1 * x.square().mean(dim=1 if m >= n else 0, keepdim=True)
    before = x.norm()
    x = x / second.sqrt()
    x = x * before / x.norm()
    lr = lr * math.sqrt(max(1, m / n))
    return p - lr * x - lr * decay * p * (x * p >= 0), buffer, second


@pytest.mark.parametrize("m, n", [(12, 12), (24, 6), (6, 24)])
def test_muon_matches_a_naive_one(m, n):
    generator = torch.Generator().manual_seed(m)
    p = torch.randn(2, m, n, generator=generator)
    reference = [(w.double(), torch.zeros(m, n).double(), torch.zeros(1).double()) for w in p]
    state = {}
    for _ in range(5):
        grad = torch.randn(2, m, n, generator=generator)
        reference = [naive_muon(w, gradient.double(), buffer, second, 0.1, 0.9, 0.5)
                     for (w, buffer, second), gradient in zip(reference, grad)]
        muon_update(p, grad, state, 0.1, 0.9, 0.5)
    torch.testing.assert_close(p.double(), torch.stack([w for w, _, _ in reference]), atol=1e-4, rtol=1e-3)


def test_the_optimizer_updates_every_parameter_with_the_settings_of_its_role():
    model = GPT(make_shape(4, 100, head_dim=8, aspect_ratio=4)).init_weights()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    roles = model.param_roles()
    assert set(roles) == {*muon.ADAM, "matrix"}
    optimizer = MuonAdamW(roles, LearningRates(), weight_decay=0.1)
    for p in model.parameters():
        p.grad = torch.ones_like(p) * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)).abs()
    optimizer.step()
    for name, p in model.named_parameters():
        assert not torch.equal(p, before[name]), name
    # Adam's first step is the learning rate in every entry, whatever the gradient's size.
    decayed = before["embedding"] * (1 - 0.3 * 0.001)
    assert (decayed - model.embedding).abs().median().item() == pytest.approx(0.3, rel=1e-3)


def test_a_learning_rate_of_zero_changes_nothing():
    model = GPT(make_shape(2, 100, head_dim=8, aspect_ratio=4)).init_weights()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = MuonAdamW(model.param_roles(), LearningRates(), weight_decay=0.1)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step(lr=0.0)
    assert all(map(torch.equal, model.parameters(), before))


def test_saved_state_continues_exactly():
    shape = make_shape(2, 100, head_dim=8, aspect_ratio=4)
    model = GPT(shape).init_weights()
    optimizer = MuonAdamW(model.param_roles(), LearningRates(), 0.1)

    def take_step(model, optimizer, number):
        for p, gradient in zip(model.parameters(), gradients(model, number, rank=0)):
            p.grad = gradient
        optimizer.step(0.5, 0.9, 1.0)

    take_step(model, optimizer, 1)
    restored = GPT(shape)
    restored.load_state_dict(model.state_dict())
    restored_optimizer = MuonAdamW(restored.param_roles(), LearningRates(), 0.1)
    restored_optimizer.load_state_dict(optimizer.state_dict())
    take_step(model, optimizer, 2)
    take_step(restored, restored_optimizer, 2)
    assert all(map(torch.equal, model.parameters(), restored.parameters()))


def gradients(model: GPT, step: int, rank: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(10 * step + rank)
    return [torch.randn(p.shape, generator=generator) for p in model.parameters()]


def small_roles(generator: torch.Generator) -> dict[str, list[torch.nn.Parameter]]:
    """Every kind of parameter: bf16 tables, one with rows for two ranks but not four, groups of seven, three
    and two matrices, wide, tall and square."""
    def make(*shape, dtype=torch.float32):
        return torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype))
    return {"unembedding": [make(1536, 8)], "embedding": [make(1536, 8, dtype=torch.bfloat16)],
            "value_embedding": [make(1030, 6, dtype=torch.bfloat16)],
            "residual": [make(3)], "input": [make(3)], "smear": [make(24), make(), make()],
            "matrix": [*(make(8, 8) for _ in range(7)), *(make(32, 8) for _ in range(3)),
                       *(make(8, 32) for _ in range(3)), *(make(2, 4) for _ in range(2))]}


def small_gradients(parameters, step: int, rank: int) -> list[torch.Tensor]:
    """Whole numbers: their sums are exact in bf16 too, in whatever order the ranks are added up."""
    generator = torch.Generator().manual_seed(10 * step + rank)
    return [torch.randint(-3, 4, p.shape, generator=generator).to(p.dtype) for p in parameters]


def small_run(gradients_of, world: World = World(), compiled: bool = False, few: bool = False):
    """Four steps; the third has gradients that are no numbers, and leaves every bit as it was."""
    roles = small_roles(torch.Generator().manual_seed(0))
    if few:
        roles = {"embedding": roles["embedding"], "matrix": roles["matrix"][-2:]}
    optimizer = MuonAdamW(roles, LearningRates(), 0.1, world, torch.float32, compiled)
    for step in range(4):
        for p, grad in zip(optimizer.parameters, gradients_of(optimizer.parameters, step)):
            p.grad = grad if step != 2 else torch.full_like(p, math.nan)
        before = everything(optimizer)
        optimizer.step(0.1 * (step + 1), 0.9 - 0.1 * step, 1.0 - 0.2 * step, torch.tensor(step != 2))
        assert same_bits(before, everything(optimizer)) == (step == 2)
    return [p.data for p in optimizer.parameters], optimizer


def decide_on_the_device(monkeypatch) -> None:
    """compiled=True, but for the compiler: `ok` is an input of the arithmetic, nothing looks at it."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr(MuonAdamW, "_run", lambda self, ok, *inputs: self.compiled(ok, *inputs))


def everything(optimizer: MuonAdamW) -> list[torch.Tensor]:
    states = [value for state in optimizer.adam_state + optimizer.muon_state for value in state.values()]
    return [x.detach().clone() for x in (*optimizer.parameters, *states) if torch.is_tensor(x)]


def same_bits(before: list[torch.Tensor], after: list[torch.Tensor]) -> bool:
    """Minus zero is not zero, and nothing is like not a number, but by its bits."""
    as_bytes = lambda tensors: [x.contiguous().flatten().view(torch.uint8) for x in tensors]
    return len(before) == len(after) and all(map(torch.equal, as_bytes(before), as_bytes(after)))


def one_of_many(rank: int, size: int, path: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}/store", rank=rank, world_size=size)
    mine = lambda parameters, step: small_gradients(parameters, step, rank)
    weights, optimizer = small_run(mine, World(rank, size))
    decide_on_the_device(pytest.MonkeyPatch())
    gated, _ = small_run(mine, World(rank, size), compiled=True)
    rows = [state["m"].size(0) for state in optimizer.adam_state[:3]]
    matrices = [state["momentum"].size(0) for state in optimizer.muon_state]
    torch.save((weights, gated, rows, matrices), f"{path}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_many_ranks_update_like_one_and_each_keeps_the_state_of_its_share(size, tmp_path, monkeypatch):
    """Gradients are summed over the ranks; the oracle is a world of one with the sums."""
    context = multiprocessing.get_context("forkserver")         # imports torch once for all of them
    context.set_forkserver_preload(["pytest", "nanochat.gpt", "nanochat.muon"])
    ranks = [context.Process(target=one_of_many, args=(rank, size, str(tmp_path))) for rank in range(size)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    assert [process.exitcode for process in ranks] == [0] * size
    sums = lambda parameters, step: [
        sum(each) for each in zip(*(small_gradients(parameters, step, rank) for rank in range(size)))]
    expected, _ = small_run(sums)
    decide_on_the_device(monkeypatch)
    expected_gated, _ = small_run(sums, compiled=True)
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(size)]
    for weights, gated, rows, matrices in results:
        assert same_bits(results[0][0], weights)
        assert rows == [1536 // size, 1536 // size, 1030 // size if size <= 2 else 1030]
        assert matrices == [math.ceil(count / size) for count in (7, 3, 3, 2)]
        torch.testing.assert_close(weights, expected, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(gated, expected_gated, atol=1e-6, rtol=1e-5)


class Recorder:
    """Stands for torch.distributed in a world of two whose other rank does the same: writes down what starts
    and what is waited for, and finds that what a collective uses lives until then."""
    def __init__(self):
        self.events = []

    def start(self, name, *tensors):
        number, alive = len(self.events), [weakref.ref(tensor) for tensor in tensors]
        self.events.append((name, number))

        def wait():
            assert all(reference() is not None for reference in alive)
            self.events.append((f"wait for {name}", number))
        return SimpleNamespace(wait=wait)

    def all_reduce(self, tensor, async_op):
        tensor.mul_(2)
        return self.start("reduce", tensor)

    def reduce_scatter_tensor(self, mine, whole, async_op):
        mine.copy_(whole.chunk(2)[0] * 2)
        return self.start("reduce", mine, whole)

    def all_gather_into_tensor(self, whole, mine, async_op):
        whole.copy_(torch.cat((mine, mine)))
        return self.start("gather", whole, mine)


def test_all_reductions_start_first_and_a_share_is_gathered_while_the_next_is_updated(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(muon, "dist", recorder)
    monkeypatch.setattr(muon, "adam_update", lambda *_: recorder.events.append(("update", None)))
    monkeypatch.setattr(muon, "muon_update", lambda *_: recorder.events.append(("update", None)))
    optimizer = MuonAdamW(small_roles(torch.Generator().manual_seed(0)), LearningRates(), 0.1, World(0, 2))
    optimizer.step()
    sharded = [True] * 3 + [False] * 5 + [True] * 4              # tables, what is small, groups of matrices
    names = [name for name, _ in recorder.events]
    assert names[:12] == ["reduce"] * 12
    gathers = sum(sharded)
    assert names[12:-gathers] == [
        name for shared in sharded for name in ["wait for reduce", "update"] + ["gather"] * shared]
    assert names[-gathers:] == ["wait for gather"] * gathers
    started = [event for event in recorder.events if event[0] in ("reduce", "gather")]
    waited = [(name.removeprefix("wait for "), n) for name, n in recorder.events if name.startswith("wait")]
    assert waited == started


def test_a_state_of_plain_numbers_and_moments_as_it_was_always_saved_is_continued():
    """One matrix and one bf16 table, seven steps old, against the plain formulas."""
    draw = lambda *shape: torch.randn(shape, generator=generator)
    generator = torch.Generator().manual_seed(0)
    table, matrix = torch.nn.Parameter(draw(5, 3).bfloat16()), torch.nn.Parameter(draw(6, 4))
    adam = {"step": 7, "m": draw(5, 3), "v": draw(5, 3).square()}
    state = {"momentum": draw(1, 6, 4), "second": draw(1, 6, 1).square()}
    table.grad, matrix.grad = draw(5, 3).bfloat16(), draw(6, 4)
    expected, *_ = naive_adam(table.double(), table.grad.double(), adam["m"].double(), adam["v"].double(), 8,
                              0.3 * 0.5, 0.8, 0.995, 0.001)
    expected_matrix, *_ = naive_muon(matrix.double(), matrix.grad.double(), state["momentum"][0].double(),
                                     state["second"][0].double(), 0.02 * 0.5, 0.9, 0.1)
    optimizer = MuonAdamW({"embedding": [table], "matrix": [matrix]}, LearningRates(), 0.1)
    optimizer.load_state_dict({"world_size": 1, "adam": [adam], "muon": [state]})
    optimizer.step(0.5, 0.9)
    torch.testing.assert_close(table.data, expected.bfloat16(), atol=0, rtol=2 ** -7)
    torch.testing.assert_close(matrix.double(), expected_matrix, atol=1e-5, rtol=1e-4)
    assert optimizer.state_dict()["adam"][0]["step"] == 8
    assert type(optimizer.state_dict()["adam"][0]["step"]) is int


def test_a_step_that_is_not_ok_is_as_if_it_had_not_been_where_looking_is_free():
    """On a CPU; where the device decides, only Adam's count of steps goes on."""
    runs = []
    for steps in ((0, 1, 3), (0, 1, 2, 3)):
        optimizer = MuonAdamW(small_roles(torch.Generator().manual_seed(0)), LearningRates(), 0.1)
        for step in steps:
            for p, grad in zip(optimizer.parameters, small_gradients(optimizer.parameters, step, 0)):
                p.grad = grad
            optimizer.step(ok=torch.tensor(step != 2))
        runs.append(everything(optimizer))
    assert same_bits(*runs)


@pytest.mark.parametrize("backend, few", [("aot_eager", False), ("inductor", True)])
def test_compiled_steps_equal_eager_ones_and_new_settings_do_not_compile_again(backend, few, monkeypatch):
    """Every shape is compiled once, also when they are more than dynamo's limit of eight."""
    from torch._dynamo.backends.registry import lookup_backend  # seconds: not where each rank imports it
    gradients_of = lambda parameters, step: small_gradients(parameters, step, rank=0)
    with monkeypatch.context() as patch:
        decide_on_the_device(patch)
        expected, _ = small_run(gradients_of, compiled=True, few=few)
    graphs = []

    def counted(graph, inputs):
        graphs.append(graph)
        return lookup_backend(backend)(graph, inputs)

    torch.compiler.reset()
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")        # no pool of processes for two graphs
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counted))
    weights, optimizer = small_run(gradients_of, compiled=True, few=few)
    assert len(graphs) == len({(p.shape, p.dtype) for p in optimizer.parameters}) == (2 if few else 10)
    torch.testing.assert_close(weights, expected, atol=1e-6, rtol=1e-5)


# The recipe's table, before any scaling: role -> (rate, beta1, beta2, weight decay).
TABLE = {
    "unembedding": (.008, .8, .96, .01),
    "embedding": (.3, .8, .995, .001),
    "value_embedding": (.15, .8, .995, .01),
    "residual": (.005, .8, .95, .05),
    "input": (.5, .96, .95, 0),
    "smear": (.2, .8, .95, 0),
}


def role_of(name: str) -> str:
    name = name.split(".")[0]
    return {"blocks": "matrix", "smear_gate": "smear", "backout": "smear"}.get(name, name)


def naive_adam(p, grad, m, v, t, lr, beta1, beta2, decay):
    m, v = beta1 * m + (1 - beta1) * grad, beta2 * v + (1 - beta2) * grad ** 2
    return p * (1 - lr * decay) - lr * (m / (1 - beta1 ** t)) / ((v / (1 - beta2 ** t)) ** .5 + 1e-10), m, v


def naive_schedule(t, steps):
    """LR, momentum and weight decay multipliers of step t, from the recipe's sentences."""
    down = round(.65 * steps)
    cooled = max(0, (t - (steps - down)) / down)
    lr = (t + 1) / 40 if t < 40 else 1 - .95 * cooled
    return lr, min(.85 + .12 * min(1, t / 400), .97 - .07 * cooled), .5 * (1 + math.cos(math.pi * t / steps))


@pytest.mark.parametrize("steps", [3, 60, 300, 2520])
def test_optimizer_steps_match_plain_formulas_in_fp64(steps):
    """Every role with its own rate, betas and decay, at the first, middle and last step of the schedule."""
    plan = derive(2, 100, head_dim=8, aspect_ratio=4, num_iterations=steps)
    batch, width = (plan.batch_tokens / 2 ** 19) ** .5, (plan.shape.n_embd / 768) ** -.5
    model = GPT(plan.shape, torch.float64).init_weights().double()
    optimizer = MuonAdamW(model.param_roles(), plan.rates, plan.weight_decay, dtype=torch.float64)
    expected = {name: p.detach().clone() for name, p in model.named_parameters()}
    memory = {name: (torch.zeros_like(p), torch.zeros(()).double()) for name, p in model.named_parameters()}
    for count, t in enumerate((0, steps // 2, steps - 1), start=1):
        lr, momentum, decay = naive_schedule(t, steps)
        for seed, (name, p) in enumerate(model.named_parameters()):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(99 * t + seed)).double()
            role = role_of(name)
            if role == "matrix":
                p.grad[0] *= 1e-9                       # a row that is nearly zero, as at initialisation
                settings = .02 * batch * lr, momentum, plan.weight_decay * decay
                naive = naive_muon
            else:
                rate, *betas_and_decay = TABLE[role]
                if role != "smear":
                    rate *= batch
                if "embedding" in role:
                    rate *= width
                settings = count, rate * lr, *betas_and_decay
                naive = naive_adam
            expected[name], *memory[name] = naive(expected[name], p.grad, *memory[name], *settings)
        optimizer.step(plan.schedule.lr(t), plan.schedule.momentum(t), plan.schedule.weight_decay(t))
        for name, p in model.named_parameters():
            torch.testing.assert_close(p.data, expected[name], atol=1e-12, rtol=1e-10, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_iteration_computes_in_the_dtype_of_the_run_whatever_the_device(dtype, monkeypatch):
    seen = []
    monkeypatch.setattr(muon, "orthogonalise", lambda x: seen.append(x.dtype) or orthogonalise(x))
    model = GPT(make_shape(2, 100, head_dim=8, aspect_ratio=4), dtype).init_weights()
    optimizer = MuonAdamW(model.param_roles(), LearningRates(), 0.1, dtype=dtype)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    assert set(seen) == {dtype} and model.blocks[0].mlp.up.weight.dtype == torch.float32
