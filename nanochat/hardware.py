"""What the accelerators can do, in one table: dense bf16 matrix FLOPS and memory bandwidth by device name,
from the vendors' data sheets. Unknown devices and CPUs have no peak: MFU is then not reported."""

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
