"""The one training loop. A generator: it takes an optimizer step, yields what happened, and the script
decides what is due: an evaluation, a sample, a save. Pretraining, midtraining, finetuning and reinforcement
learning all go through it; they differ in the work that they bring for each step, and in its loss."""
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
import torch
from nanochat.common import die
from nanochat.dataloader import Loader
from nanochat.gpt import GPT
from nanochat.muon import MuonAdamW
from nanochat.schedule import Schedule
from nanochat.stage import Stage

PRINT_EVERY = 5.0               # seconds between progress lines
MAX_BAD_STEPS = 10              # in a row, before the run is given up

@dataclass(frozen=True)
class Work:
    """What this rank contributes to one optimizer step."""
    targets: int                                        # over how many the loss is averaged
    micro_batches: list[tuple[torch.Tensor, ...]]       # arguments of the loss; inputs (B, T) come first
    facts: dict[str, float] = field(default_factory=dict)     # to be logged with the step

@dataclass(frozen=True)
class Step:
    """State after `step` optimizer steps."""
    step: int
    last: bool
    interrupted: bool = False   # someone asked to stop: save, there is no next one

    def due(self, every: int) -> bool:
        """Time for something done every `every` steps, and at the end; zero or less is never."""
        return every > 0 and not self.interrupted and (self.step % every == 0 or self.last)

    def due_save(self, every: int) -> bool:
        """Always at the end, however it came."""
        return self.last or self.interrupted or self.due(every)

def accumulation_steps(batch_tokens: int, rows: int, sequence_len: int, world_size: int) -> int:
    """Micro-batches per rank in an optimizer step. Dies if the batch does not divide."""
    micro = rows * sequence_len * world_size
    if batch_tokens % micro or batch_tokens < micro:
        hint = f"--total-batch-size={micro} is one micro-batch"
        fit = math.gcd(batch_tokens // (sequence_len * world_size), rows)
        if fit and batch_tokens % sequence_len == 0:
            hint = f"--device-batch-size={fit} divides it"
        die(f"batch of {batch_tokens:,} tokens is not a multiple of {micro:,} "
            f"(= {rows} rows x {sequence_len} tokens x {world_size} ranks)", hint)
    return batch_tokens // micro

def accumulated(loader: Loader, accumulation: int) -> Iterator[Work]:
    """The batches (inputs, targets) of a loader, `accumulation` of them per step."""
    while True:
        counted = [(next(loader), loader.targets) for _ in range(accumulation)]
        yield Work(sum(targets for _, targets in counted), [batch for batch, _ in counted])

def train_steps(loss_of: Callable[..., torch.Tensor], optimizer: MuonAdamW, work: Iterator[Work],
                schedule: Schedule, stage: Stage, *, flops_per_token: int = 0,
                start: int = 0) -> Iterator[Step]:
    """Optimizer steps start + 1 .. schedule.num_iterations, one item of `work` each. loss_of(*micro_batch) is
    summed over its targets; the loss of a step is the mean over all targets of all ranks, so the split into
    micro-batches and ranks does not matter. A step whose loss is not finite, or in which no rank has anything
    to learn from, leaves the weights untouched. Logs every step; a signal stops all ranks alike. Nothing here
    waits for a GPU: it has a step in its queue before the loss of the one before is read."""
    stage.catch_signals()
    progress = _Progress(stage, schedule.num_iterations, flops_per_token, start)
    unread = deque()                                    # at most the last step
    for t in range(start, schedule.num_iterations):
        mine = next(work)
        counts = torch.tensor([mine.targets, stage.stop_signal > 0, len(mine.micro_batches)])
        targets_in_step, interrupted, taught = stage.world.sum(counts).tolist()         # on the CPU
        loss = torch.zeros((), device=stage.device)
        for micro_batch in mine.micro_batches:
            share = loss_of(*micro_batch) / max(1, targets_in_step)
            share.backward()
            loss = loss + share.detach()
        stage.world.sum(loss)
        if taught:
            optimizer.step(schedule.lr(t), schedule.momentum(t), schedule.weight_decay(t), loss.isfinite())
        optimizer.zero_grad()
        tokens = sum(inputs.numel() for inputs, *_ in mine.micro_batches) * stage.world.size
        unread.append((t + 1, time.perf_counter(), _read_later(loss), schedule.lr(t), tokens, mine.facts))
        step = Step(t + 1, t + 1 == schedule.num_iterations, interrupted > 0)
        while len(unread) > (not (step.last or step.interrupted)):
            progress.report(*unread.popleft())
        yield step
        if interrupted:
            return

def _read_later(value: torch.Tensor) -> Callable[[], float]:
    """Start to copy a number to the host; the call waits for what led to it, not for what came after."""
    if not value.is_cuda:
        return value.item
    host, copied = value.to("cpu", non_blocking=True), torch.cuda.Event()               # pinned
    copied.record()
    return lambda: (copied.synchronize(), host.item())[1]

class _Progress:
    """Turns steps into one log record each, and a line with speed and time left every few seconds."""
    def __init__(self, stage: Stage, num_iterations: int, flops_per_token: int, start: int):
        self.stage, self.num_iterations, self.flops_per_token = stage, num_iterations, flops_per_token
        self.first, self.begun, self.last, self.printed = start, None, time.perf_counter(), -math.inf
        self.bad = 0                                    # steps in a row whose loss was not finite

    def report(self, step: int, now: float, read_loss: Callable[[], float], lr: float, tokens: int,
               facts: dict[str, float]) -> None:
        loss = read_loss()
        self.bad = 0 if math.isfinite(loss) else self.bad + 1
        if self.bad:
            self.stage.print(f"step {step}: loss is {loss}; step skipped, weights untouched")
        if self.bad >= MAX_BAD_STEPS:
            die(f"the loss was not finite {self.bad} steps in a row, up to step {step}",
                hint="lower learning rates (--matrix-lr ... or --init-lr-frac), from the last checkpoint")
        speed = tokens / (now - self.last)              # evaluations and saves between steps included
        self.last = now
        line = ""
        if now - self.printed > PRINT_EVERY or step == self.num_iterations:
            self.printed = now
            line = f"{self.stage.name} {step:5d}/{self.num_iterations} | loss {loss:.4f} | "
            line += "".join(f"{name} {value:.3g} | " for name, value in facts.items())
            line += f"lr {lr:.2f} | {speed:,.0f} tok/s"
            if self.stage.peak_flops and self.flops_per_token:
                line += f" | mfu {100 * speed * self.flops_per_token / self.stage.peak_flops:.1f}%"
            if self.begun is not None:
                each = (now - self.begun) / (step - self.first - 1)
                line += f" | {timedelta(seconds=round(each * (self.num_iterations - step)))} left"
        self.begun = self.begun or now                  # the first step warms up: not counted
        self.stage.log(line, step=step, loss=loss, lr=lr, tokens_per_second=round(speed, 1), **facts)

def compile_model(model: GPT, stage: Stage) -> Callable[..., torch.Tensor]:
    """The model to train and to measure bits per byte with, each a single graph for batches of one shape."""
    return torch.compile(model, dynamic=False, fullgraph=True) if stage.compiles else model
