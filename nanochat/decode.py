"""decode.c, built once by the machine's C compiler, and called for small batches on a CPU: a token then takes
a fraction of PyTorch's time. Where there is no compiler, PyTorch does it. Used by engine.py only."""
import platform
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from ctypes import CDLL, c_int32, c_void_p
from functools import cache
from pathlib import Path
import torch
from torch import Tensor
from nanochat.common import base_dir, sha256
from nanochat.gpt import GPT, QK_SCALE
from nanochat.past import KVCache

MOST_PRODUCTS = 200_000_000                             # of a weight and a number, in a pass
PRODUCTS_PER_THREAD = 4_000_000                         # of less, threads wait longer than they work
# sums in any order; not -ffast-math, which would change the arithmetic of the whole process when it is loaded
FLAGS = ("-O3", "-march=native", "-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math",
         "-fno-math-errno", "-fopenmp", "-shared", "-fPIC",
         *(("-mprefer-vector-width=512",) if platform.machine() == "x86_64" else ()))
SOURCE = Path(__file__).with_suffix(".c")
WEIGHTS = {torch.bfloat16: "uint16_t", torch.float32: "float"}
LAYER, MODEL = "8P2i2f", "8P10i4f"                      # structs of decode.c: addresses, int32_t, float

@cache
def library(dtype: torch.dtype) -> CDLL | None:
    """The compiled file for weights of a dtype, built on first use; None where no compiler can make it."""
    command = ["cc", *FLAGS, f"-DWEIGHT={WEIGHTS[dtype]}", str(SOURCE)]
    told = Path("/proc/cpuinfo").read_text() if sys.platform == "linux" else ""
    able = re.findall("^(?:flags|Features).*", told, re.MULTILINE)[:1]      # a folder may serve many machines
    key = sha256(f"{command} {platform.platform()} {able}".encode() + SOURCE.read_bytes())
    built = base_dir() / "kernels" / f"decode-{key[:16]}.so"
    if not built.exists():
        try:
            built.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=built.parent) as folder:
                new = Path(folder) / built.name
                subprocess.run([*command, "-lm", "-o", new], check=True, capture_output=True, timeout=60)
                new.replace(built)
        except (OSError, subprocess.SubprocessError):   # no compiler, or no folder to write to
            return None
    return CDLL(str(built))

class Kernel:
    """GPT.step for `most_rows` rows at most that go on by one token each. Holds the weights and the cache."""
    def __init__(self, code: CDLL, model: GPT, cache: KVCache):
        shape, self.cache, self._code = model.shape, cache, code
        C, heads = shape.n_embd, (shape.n_head + 2 * shape.n_kv_head) * shape.head_dim
        # beyond that, PyTorch's matrix products win; one row is always the memory's speed
        self.most_rows = max(1, MOST_PRODUCTS // shape.scaling_params())
        memory = torch.empty(self.most_rows * (9 * C + heads))
        rho, mu = model.residual.tolist(), model.input.tolist()
        # the structs hold addresses alone; the model itself, which has us, would be a circle
        self._kept: list[Tensor] = []
        def struct_of(form: str, tensors: Sequence[Tensor], *numbers: float) -> bytes:
            self._kept += tensors
            return struct.pack(form, *(each.data_ptr() for each in tensors), *numbers)
        layers = []
        for i, block in enumerate(model.blocks):
            attention, kv = block.attention, cache.kv[i]
            joint = torch.cat((attention.q.weight, attention.k.weight, attention.v.weight))
            gate = attention.gate.weight if attention.gate else torch.empty(0)      # whose address is NULL
            value = shape.value_layers.index(i) if attention.gate else 0
            layers.append(struct_of(LAYER, (joint, attention.o.weight, block.mlp.up.weight,
                                            block.mlp.down.weight, gate, kv[0], kv[1], cache.last_key[i]),
                                    kv.size(3), value, rho[i], mu[i]))
        self._layers, self._model = b"".join(layers), struct_of(
            MODEL, (model.embedding, model.value_embedding, model.unembedding, model.smear_gate.float(),
                    model.cos.float(), model.sin.float(), cache.last_embedding, memory),
            C, shape.n_head, shape.n_kv_head, shape.head_dim, shape.vocab_size, shape.n_layer,
            len(shape.value_layers), shape.gate_channels, shape.smear_channels, shape.key_offset,
            model.smear.item(), model.backout.item(), QK_SCALE, torch.finfo(torch.float32).eps)

    def __call__(self, tokens: Sequence[int]) -> Tensor:
        """One token for each of the first rows of the cache -> (rows, vocab_size) fp32, as GPT.step."""
        cache, rows = self.cache, len(tokens)
        positions = cache.lengths[:rows]
        assert rows <= self.most_rows and max(positions) < cache.max_len, (rows, positions)
        z = torch.empty(rows, cache.shape.vocab_size)
        numbers, products = c_int32 * rows, rows * cache.shape.scaling_params()
        threads = max(1, min(torch.get_num_threads(), products // PRODUCTS_PER_THREAD))
        self._code.decode(self._model, self._layers, threads, rows, numbers(*tokens), numbers(*positions),
                          c_void_p(z.data_ptr()))
        cache.lengths[:rows] = [position + 1 for position in positions]
        return z

def make(model: GPT, cache: KVCache) -> Kernel | None:
    """The kernel for these weights (of GPT.for_inference) and this cache, where it can be had."""
    code = library(model.dtype) if model.device.type == "cpu" and model.dtype in WEIGHTS else None
    return Kernel(code, model, cache) if code else None
