"""Progress -> multipliers. Pure functions of the step t in [0, N) and the number of steps N, used by every
stage. Whatever the configuration: learning-rate multipliers lie in [0, 1], rise once and fall once."""
import math
from dataclasses import dataclass

@dataclass(frozen=True)
class Schedule:
    """Trapezoid: linear warmup over `warmup` steps, flat, linear warmdown over the last `warmdown` share."""
    num_iterations: int
    warmup: int = 40
    warmdown: float = 0.65
    final_lr: float = 0.05

    def _cooled(self, t: int) -> float:
        """Share of the warmdown that lies behind step t, in [0, 1]."""
        steps = round(self.warmdown * self.num_iterations)
        return min(1.0, max(0.0, (t - self.num_iterations + steps) / max(1, steps)))

    def lr(self, t: int) -> float:
        """Multiplier of every learning rate. In a short run the warmdown would begin before the warmup ends:
        the warmup goes to its peak, and then the rate drops to where the warmdown has come meanwhile. At 60
        steps that is worth .009 nats against the smaller of both (measured by others)."""
        if t < self.warmup:
            return (t + 1) / self.warmup
        return 1.0 - (1.0 - self.final_lr) * self._cooled(t)

    def momentum(self, t: int) -> float:
        """Muon's momentum: .85 -> .97 over the first 400 steps, at most .97 -> .90 over the warmdown. In a
        short run it goes on rising while the rates already fall: stopping the rise there costs .004 nats."""
        return min(0.85 + 0.12 * min(1.0, t / 400), 0.97 - 0.07 * self._cooled(t))

    def weight_decay(self, t: int) -> float:
        """Multiplier of Muon's weight decay: half a cosine from 1 to 0."""
        return 0.5 * (1.0 + math.cos(math.pi * t / max(1, self.num_iterations)))
