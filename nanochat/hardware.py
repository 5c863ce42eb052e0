"""What accelerators can do: by a table, dense bf16 matrix FLOPS and memory bandwidth by device name, from the
vendors' data sheets (unknown devices and CPUs have no peak: MFU is then not reported), and by trying."""
from collections.abc import Callable, Sequence
import torch

# part of the device name (the longest that matches wins): (dense bf16 FLOP/s, memory bytes/s)
PEAKS = {
    "GB200": (2.5e15, 8.0e12), "B200": (2.25e15, 8.0e12), "B100": (1.75e15, 8.0e12),
    "GH200": (989e12, 4.0e12), "H200": (989e12, 4.8e12),
    "H100 NVL": (835e12, 3.9e12), "H100 PCIe": (756e12, 2.0e12), "H100": (989e12, 3.35e12),
    "H800": (989e12, 3.35e12), "H20": (148e12, 4.0e12),
    "A6000": (155e12, 0.77e12), "A40": (150e12, 0.70e12), "A10G": (70e12, 0.60e12), "A10": (125e12, 0.60e12),
    "A100": (312e12, 2.0e12), "A800": (312e12, 2.0e12), "L40S": (362e12, 0.86e12), "L4": (121e12, 0.30e12),
    "RTX 5090": (210e12, 1.79e12), "RTX 4090": (165e12, 1.01e12), "RTX 3090": (71e12, 0.94e12),
}

def peaks(device_name: str) -> tuple[float, float] | None:
    """(FLOP/s in dense bf16, bytes/s of memory) of a device by its driver's name, None if unknown."""
    return PEAKS.get(max((name for name in PEAKS if name in device_name), key=len, default=""))

def probe(candidates: dict[str, Callable], plain: Callable, shapes: Sequence[tuple[int, ...]],
          device: torch.device, dtype: torch.dtype, tolerance: float) -> tuple[str | None, str]:
    """The first candidate that does on a device what `plain` does with noise of some shapes, or None; and why
    none before it. Each runs forward and backward, as it is and compiled without a graph break; output and
    gradients may differ by `tolerance` times their norm. What raises is not used."""
    generator, why = torch.Generator().manual_seed(0), ""
    inputs = [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for shape in shapes]
    def run(function: Callable) -> list[torch.Tensor]:
        y = function(*inputs)
        return [each.float() for each in (y.detach(), *torch.autograd.grad(y.float().square().sum(), inputs))]
    expected = run(plain)
    compiler = "inductor" if device.type == "cuda" else "eager"     # on a GPU what will compile the model
    for name, function in candidates.items():
        try:
            for each in (function, torch.compile(function, fullgraph=True, dynamic=False, backend=compiler)):
                errors = [(a - b).norm() / b.norm() for a, b in zip(run(each), expected, strict=True)]
                if not (worst := torch.stack(errors).max().item()) <= tolerance:            # or NaN
                    raise ArithmeticError(f"differs by {worst:.2g}")
            return name, why
        except Exception as error:
            why += f" ({name}: {type(error).__name__}: {error}".splitlines()[0][:120] + ")"
    return None, why
