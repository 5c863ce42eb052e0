"""The kernel in C against the model that it stands for."""

import random
import shutil
from pathlib import Path
import pytest
import torch
from nanochat import decode
from nanochat.engine import Engine, SamplingParams
from nanochat.gpt import GPT
from nanochat.past import KVCache
from nanochat.scaling import Shape
from nanochat.tokenizer import SPECIAL_TOKENS, Tokenizer

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler (cc)")


def net(dtype: torch.dtype, kv_heads: int, key_offset: bool, scale: float = 0.3) -> GPT:
    shape = Shape(n_layer=5, n_head=4, n_kv_head=kv_heads, n_embd=64, sequence_len=300, vocab_size=97,
                  window_pattern="SL", key_offset=key_offset)
    model, generator = GPT(shape, dtype), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, scale, generator=generator)
    return model.eval().requires_grad_(False).for_inference()


@pytest.mark.parametrize("kv_heads, key_offset", [(4, True), (2, False), (1, True)])
@pytest.mark.parametrize("dtype, close", [(torch.float32, 1e-4), (torch.bfloat16, 0.15)])
def test_the_kernel_equals_the_model_over_windows_that_go_round(kv_heads, key_offset, dtype, close):
    dice, model = random.Random(0), net(dtype, kv_heads, key_offset, 0.3 if close < 1e-3 else 0.1)
    plain, fast = (KVCache(model.shape, 12, 300, model.device, dtype) for _ in range(2))
    prompts = [[dice.randrange(97) for _ in range(n)] for n in (3, 150, 40, 1, 120, 9, 8, 7, 6, 5, 4, 2)]
    for cache in (plain, fast):
        model.step(prompts, cache)
    kernel = decode.make(model, fast)
    for _ in range(40):
        tokens = [dice.randrange(97) for _ in range(dice.choice((1, 2, 4, 7, 12)))]
        expected = model.cap(model.step([[token] for token in tokens], plain))
        torch.testing.assert_close(model.cap(kernel(tokens)), expected, atol=close, rtol=close)
    assert plain.lengths == fast.lengths


def test_the_engine_uses_it_and_answers_the_same(monkeypatch):
    tokenizer = Tokenizer.train(["abc"], 256 + len(SPECIAL_TOKENS))
    shape = Shape(n_layer=3, n_head=2, n_kv_head=2, n_embd=32, sequence_len=200,
                  vocab_size=tokenizer.vocab_size, window_pattern="SL")
    model = GPT(shape).init_weights()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.4, generator=torch.Generator().manual_seed(3))
    prompts = [[65 + i] * (3 * i + 1) for i in range(6)]
    calls, kernel = [], decode.Kernel.__call__
    monkeypatch.setattr(decode.Kernel, "__call__", lambda self, ids: calls.append(1) or kernel(self, ids))
    fast = [each.ids for each in Engine(model, tokenizer).generate(prompts, SamplingParams(0.8, seed=1))]
    assert calls
    monkeypatch.setattr(decode, "library", lambda dtype: None)          # as where there is no compiler
    slow = Engine(model, tokenizer).generate(prompts, SamplingParams(0.8, seed=1))
    assert fast == [each.ids for each in slow]


def test_nan_goes_through_it():
    model = net(torch.float32, 4, True)
    model.unembedding.fill_(float("nan"))
    cache = KVCache(model.shape, 1, 300, model.device, torch.float32)
    assert decode.make(model, cache)([1]).isnan().all()


def test_without_a_compiler_there_is_no_kernel(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    decode.library.cache_clear()
    try:
        assert decode.library(torch.float32) is None and not list((tmp_path / "kernels").iterdir())
    finally:
        decode.library.cache_clear()


def test_a_folder_that_cannot_be_written_means_no_kernel_and_no_error(tmp_path, monkeypatch):
    (tmp_path / "kernels").touch()                      # where the folder would be
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    decode.library.cache_clear()
    try:
        assert decode.library(torch.float32) is None
    finally:
        decode.library.cache_clear()


def test_it_is_built_once_per_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    read, clock = Path.read_text, iter(range(99))

    def another_clock(path, *rest):                     # what /proc/cpuinfo says of it changes by the second
        text = read(path, *rest)
        return text if path.name != "cpuinfo" else f"cpu MHz : {next(clock)}\n{text}"

    monkeypatch.setattr(Path, "read_text", another_clock)
    try:
        for _ in range(2):
            decode.library.cache_clear()
            assert decode.library(torch.float32)
        assert len(list((tmp_path / "kernels").iterdir())) == 1
    finally:
        decode.library.cache_clear()


def test_loading_it_leaves_the_arithmetic_of_the_process_alone():
    assert decode.library(torch.float32)
    assert torch.tensor(1e-40).mul(1.0).item() != 0 and 5e-324 * 1.0 != 0       # subnormals stay
