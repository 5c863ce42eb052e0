"""The library. Two settings must be made before torch is loaded: here, for every entry point.

OpenMP threads wait for each other by spinning, by default so long that one busy process beside them makes
training ten times slower and decoding a hundred times. A short spin keeps the speed of an idle machine and
most of it beside a busy one (dev/LOG.md). And a GPU's memory is taken in segments that can grow, so that what
is freed in one size serves another. Who sets a variable decides."""
import os

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:         # its older name
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
