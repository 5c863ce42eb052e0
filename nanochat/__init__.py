"""The library. One setting must be made before torch loads its threads: here, for every entry point.

OpenMP threads wait for each other by spinning, by default so long that one busy process beside them makes
training ten times slower and decoding a hundred times. A short spin keeps the speed of an idle machine and
most of it beside a busy one (dev/LOG.md). Who sets either variable decides."""
import os

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
