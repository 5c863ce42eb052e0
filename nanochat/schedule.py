"""
Progress -> multipliers. Pure functions of the step t in [0, N) and the number of steps N, used by every stage.
Whatever the configuration: learning-rate multipliers lie in [0, 1], and every curve is continuous.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Trapezoid: linear warmup over `warmup` steps, flat, linear warmdown over the last `warmdown` share of the steps."""

    num_iterations: int
    warmup: int = 40
    warmdown: float = 0.65
    final_lr: float = 0.05

    @property
    def warmdown_steps(self) -> int:
        return round(self.warmdown * self.num_iterations)

    def _cooled(self, t: int) -> float:
        """Share of the warmdown that lies behind step t, in [0, 1]."""
        start = self.num_iterations - self.warmdown_steps
        return min(1.0, max(0.0, (t - start) / max(1, self.warmdown_steps)))

    def lr(self, t: int) -> float:
        """Multiplier of every learning rate. A short run can be cooling before it is warm: the smaller one counts."""
        warm = min(1.0, (t + 1) / self.warmup) if self.warmup > 0 else 1.0
        return min(warm, 1.0 - (1.0 - self.final_lr) * self._cooled(t))

    def momentum(self, t: int) -> float:
        """Muon's momentum: .85 -> .97 over the first 400 steps, down to .90 over the warmdown."""
        warm = lambda step: 0.85 + 0.12 * min(1.0, step / 400)
        peak = warm(min(t, self.num_iterations - self.warmdown_steps))
        return peak + (min(0.90, peak) - peak) * self._cooled(t)

    def weight_decay(self, t: int) -> float:
        """Multiplier of Muon's weight decay: half a cosine from 1 to 0."""
        return 0.5 * (1.0 + math.cos(math.pi * t / max(1, self.num_iterations)))
