"""Linear layers whose products are in float8, which newer GPUs do in half the time of bf16. Each tensor gets
one scale: its largest element becomes the largest of the format (arXiv 2209.05433), which is e4m3 for
activations and weights, e5m2, of a wider range, for gradients."""
import torch
import torch.nn.functional as F
from nanochat.hardware import probe

def quantise(x: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """x (rows, columns) -> float8, row-major, and the fp32 scale () to multiply it by. inf becomes NaN."""
    scale = x.abs().amax().float().clamp(min=1e-30) / torch.finfo(dtype).max            # zeros stay zeros
    return (x.float() / scale).to(dtype).contiguous(), scale

class _Linear(torch.autograd.Function):
    """x (M, C), weight (N, C) -> (M, N). Left operands must be row-major, right ones column-major."""
    @staticmethod
    def forward(ctx, x, weight):
        (x8, x_scale), (w8, w_scale) = (quantise(each, torch.float8_e4m3fn) for each in (x, weight))
        ctx.save_for_backward(x8, x_scale, w8, w_scale)
        return torch._scaled_mm(x8, w8.t(), x_scale, w_scale, out_dtype=x.dtype, use_fast_accum=True)

    @staticmethod
    def backward(ctx, dy):
        x8, x_scale, w8, w_scale = ctx.saved_tensors
        dy8, dy_scale = quantise(dy, torch.float8_e5m2)
        w8, x8 = (each.t().contiguous().t() for each in (w8, x8))
        dx = torch._scaled_mm(dy8, w8, dy_scale, w_scale, out_dtype=dy.dtype)
        return dx, torch._scaled_mm(dy8.t().contiguous(), x8, dy_scale, x_scale, out_dtype=torch.float32)

def linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x (..., C), weight (N, C) -> (..., N) of x's dtype; plain where tokens are not a multiple of 16."""
    if x.shape[:-1].numel() % 16:
        return F.linear(x, weight.to(x.dtype))
    return _Linear.apply(x.flatten(0, -2), weight).unflatten(0, x.shape[:-1])

def enable(model: torch.nn.Module) -> str:
    """Train matrices of model.blocks in float8, if that works on their device -> how many, or why none."""
    works, why = probe({"fp8": linear}, F.linear, [(64, 256), (128, 256)], model.device, model.dtype, 0.1)
    matrices = [each for each in model.blocks.modules() if works and hasattr(each, "float8")
                and not any(side % 16 for side in each.weight.shape)]           # as cuBLASLt demands
    for each in matrices:
        each.float8 = True
    return f"linear layers: {len(matrices)} in fp8{why}"
