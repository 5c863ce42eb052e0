"""depth -> Plan: the published counts come out, and every depth is trainable."""

import math
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from nanochat.gpt import GPT
from nanochat.muon import orthogonalise
from nanochat.past import Rows
from nanochat.scaling import derive, make_shape

DEPTHS = range(2, 41)


def millions(count: int) -> float:
    return round(count / 1e6, 2)


@pytest.mark.parametrize("depth, matrices, value, table, total", [
    (12, 84.93, 150.99, 25.17, 286.3), (24, 679.48, 603.98, 50.33, 1384.1)])
def test_parameter_counts_are_those_of_the_reference(depth, matrices, value, table, total):
    params = derive(depth).shape.params()
    assert abs(millions(params["matrices"]) - matrices) <= 0.01
    assert millions(params["value_embedding"]) == value
    assert millions(params["embedding"]) == millions(params["unembedding"]) == table
    assert round(sum(params.values()) / 1e6, 1) == total


def test_the_first_release_counts_come_out_at_its_vocabulary():
    params = derive(20, vocab_size=65536).shape.params()
    assert params["embedding"] == params["unembedding"] == 83_886_080
    assert params["matrices"] == 131_072_000 + 262_144_000


@pytest.mark.parametrize("depth, scaling, gigaflops, log2_batch, steps", [
    (12, 110.10, 0.760, 19, 2520), (16, 234.88, 1.585, 19, 5376), (20, 435.16, 2.886, 20, 4980),
    (24, 729.81, 4.775, 20, 8352), (26, 918.42, 5.991, 20, 10510)])
def test_horizon_and_flops_are_those_of_the_reference(depth, scaling, gigaflops, log2_batch, steps):
    plan = derive(depth)
    assert millions(plan.shape.scaling_params()) == scaling
    assert round(plan.shape.flops_per_token() / 1e9, 3) == gigaflops
    assert plan.batch_tokens == 2 ** log2_batch and plan.num_iterations == steps


@pytest.mark.parametrize("depth, log2_batch", [(8, 18), (10, 19), (16, 19), (18, 20), (26, 20), (32, 21)])
def test_batch_follows_the_power_law(depth, log2_batch):
    assert derive(depth).batch_tokens == 2 ** log2_batch


def test_weight_decay_is_that_of_depth_12_there_and_falls_with_the_horizon():
    assert derive(12).weight_decay == pytest.approx(0.28)
    shorter = derive(12).shape.scaling_params() / derive(24).shape.scaling_params()
    assert derive(24).weight_decay == pytest.approx(0.28 * math.sqrt(2) * shorter)


@pytest.mark.parametrize("depth", DEPTHS)
def test_every_depth_is_trainable(depth):
    plan = derive(depth)
    shape = plan.shape
    assert shape.n_embd == shape.n_head * 128 and shape.n_embd >= 64 * depth > shape.n_embd - 128
    assert plan.num_iterations > 0 and math.log2(plan.batch_tokens).is_integer()
    assert len(shape.windows) == depth and shape.windows[-1] == 2048 and set(shape.windows) <= {512, 2048}
    assert depth - 1 in shape.value_layers and len(shape.value_layers) == math.ceil(depth / 2)
    assert shape.padded_vocab % 64 == 0


@pytest.mark.parametrize("depth, options", [(2, {}), (3, {"head_dim": 64}), (4, {"n_kv_head": 1})])
def test_counted_parameters_are_those_of_the_model(depth, options):
    shape = make_shape(depth, 1000, **options)
    with torch.device("meta"):
        model = GPT(shape)
    assert sum(p.numel() for p in model.parameters()) == sum(shape.params().values())


def test_horizon_flags_override_in_order():
    assert derive(4, num_iterations=7, target_flops=1e18, ratio=3).num_iterations == 7
    plan = derive(4, target_flops=1e15)
    flops_per_step = plan.batch_tokens * plan.shape.flops_per_token()
    assert abs(plan.summary()["total_flops"] - 1e15) <= flops_per_step / 2     # the nearest number of steps
    assert derive(4, ratio=24).num_iterations == pytest.approx(2 * derive(4, ratio=12).num_iterations, abs=1)


def test_web_text_is_fetched_for_one_pass():
    """5.8B tokens are 28B characters; of 250M per shard packing keeps 96%: 117, as speedrun.sh says."""
    assert derive(24, ratio=8).num_shards == 117
    for plan in (derive(4, num_iterations=1), derive(12), derive(32)):
        read = plan.total_tokens * 4.8 / 0.96
        assert (plan.num_shards - 1) * 250e6 < read <= plan.num_shards * 250e6


def test_learning_rates_scale_with_the_root_of_the_batch():
    small, large = derive(12, batch_tokens=2 ** 17), derive(12, batch_tokens=2 ** 19)
    assert large.rates.matrix == pytest.approx(0.02) and small.rates.matrix == pytest.approx(0.01)
    assert small.rates.smear == large.rates.smear == 0.2
    assert derive(12, lr_scale=3).rates.embedding == pytest.approx(0.9)


@pytest.mark.parametrize("options", [{"head_dim": 6}, {"window_pattern": "SXL"}, {"window_pattern": ""},
                                     {"sequence_len": 1}, {"aspect_ratio": 0}])
def test_numbers_that_make_no_model_are_refused_with_exit_code_2(options, capsys):
    with pytest.raises(SystemExit) as stop:
        make_shape(4, 1000, **options)
    assert stop.value.code == 2 and capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("depth, rows", [(12, 32), (18, 32), (20, 16), (24, 16)])
def test_rows_of_a_micro_batch_fit_into_80_gb(depth, rows):
    shape = derive(depth).shape
    assert shape.rows_that_fit(85e9, 32) == rows
    fits = [shape.rows_that_fit(size, 32) for size in (1e9, 24e9, 48e9, 85e9, 150e9, math.inf)]
    assert fits == sorted(fits) and fits[0] == 1 and fits[-1] == 32


def test_what_a_row_keeps_is_estimated_as_eager_training_keeps_it():
    """The oracle counts the storages that autograd saves; compiled, a part of them is made anew."""
    shape, width = make_shape(4, 512, sequence_len=256, head_dim=32), torch.bfloat16.itemsize
    model, sizes = GPT(shape, torch.bfloat16).init_weights(), {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def note(tensor):
        if (place := tensor.untyped_storage().data_ptr()) not in weights:
            sizes[place] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        states = model.trunk(torch.zeros(2, 256, dtype=torch.int32), Rows())
    matrices = width * shape.params()["matrices"]       # cast for the pass
    kept = (sum(sizes.values()) - matrices) / 2
    assert states.requires_grad and 0.5 < shape.memory(width=width)["row"] / kept < 1.1


def test_flops_of_the_phases_are_those_of_the_step_and_of_the_optimizers_matmuls():
    plan = derive(12)
    flops = {phase: flops for phase, (flops, _) in plan.phases().items()}
    assert sum(flops.values()) - flops["optimizer"] == plan.batch_tokens * plan.shape.flops_per_token()
    C = plan.shape.n_embd
    with FlopCounterMode(display=False) as counter:
        for m, n, count in ((C, C, 4), (4 * C, C, 1), (C, 4 * C, 1)):
            orthogonalise(torch.empty(count, m, n, device="meta"))
    assert counter.get_total_flops() * plan.shape.n_layer == flops["optimizer"]
