"""Going on from a checkpoint: what midtraining, supervised finetuning and reinforcement learning share. The
first two learn from conversations; their scripts say from which, how packed and at which learning rates."""
# T context; a rank trains `rows` x T tokens per micro-batch, `accumulation` micro-batches per step
import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
import torch
from torch import Tensor
from nanochat import attention, checkpoint
from nanochat.chat import render_conversation
from nanochat.common import die, new_parser
from nanochat.dataloader import ChatLoader, Validation
from nanochat.dist import World
from nanochat.evals import evaluate_bpb
from nanochat.muon import MuonAdamW
from nanochat.scaling import LearningRates
from nanochat.schedule import Schedule
from nanochat.stage import Stage, add_stage_arguments, open_stage
from nanochat.train import Work, accumulated, accumulation_steps, compile_model, train_steps

VALIDATION_ROWS = 64
MEASURED = 1000                 # conversations whose length tells how many steps an epoch has

def finetune_parser(description: str, *, lr_frac: float, warmdown: float = 1.0,
                    conversations: bool = True) -> argparse.ArgumentParser:
    """The flags of every stage that goes on from a checkpoint, or of one that learns from conversations."""
    parser = new_parser(description)
    add = parser.add_argument
    add("--step", type=int, help="step of the checkpoint to go on from (default: the newest)")
    add("--out-tag", help="name of the model that comes out (default: the same model)")
    add("--num-iterations", type=int, help="optimizer steps (default: once through the data, about)")
    add("--init-lr-frac", type=float, default=lr_frac,
        help=f"peak learning rates, relative to those of pretraining (default: {lr_frac})")
    add("--warmdown-ratio", type=float, default=warmdown, help="share of the steps in which they fall to 0")
    add("--device-batch-size", type=int, help="rows of a micro-batch on one device (default: as before)")
    add("--eval-every", type=int, default=100, help="steps between evaluations; zero or less is never")
    add("--save-every", type=int, default=-1, help="steps between saves; the end is always saved")
    add("--resume", action="store_true", help="go on from the newest checkpoint of this stage, if any")
    if conversations:
        add("--total-batch-size", type=int, help="tokens of an optimizer step (default: as before)")
        add("--compile", action=argparse.BooleanOptionalAction, help="torch.compile (default: on a GPU)")
    add_stage_arguments(parser, model_tag="model to go on from (default: the newest)")
    return parser

class Continuation:
    """A stage after `start` of its steps: model, tokenizer and state of the checkpoint at `path`, which is
    `source`, or with --resume the newest of this stage that came from there. Dies if that one learned from
    other `data`. `pretraining`: the peak "rates" of that by role, for steps of "batch_tokens"."""
    def __init__(self, stage: Stage, source: Path, data: str):
        stage.agree(data)
        origin, self.stage, self.path, self.start = checkpoint.identity(source), stage, source, 0
        for path in checkpoint.checkpoints(stage.name, stage.tag) if stage.args.resume else []:
            if (saved := checkpoint.read_state(path)).get("origin") == origin:
                self.path, self.start = path, saved["step"]
        self.model, self.tokenizer, saved = checkpoint.load(self.path, stage.device, stage.dtype)
        if self.start and saved["data"] != data:
            die(f"{self.path} learned from {saved['data']}; these flags make {data}",
                hint="resume with the flags and the file of that run, or start over without --resume")
        if self.start:
            checkpoint.require_dtype(self.path, stage)
        if stage.device.type == "cuda":
            stage.print(attention.choose(self.model.shape, stage.device, stage.dtype))
        self.saved = saved
        self.pretraining = saved.get("pretraining") or {key: saved[key] for key in ("rates", "batch_tokens")}
        self.kept = {"origin": origin, "data": data, "pretraining": self.pretraining, "text": saved["text"]}

    def train(self, work: Iterator[Work], loss_of: Callable[..., Tensor], evaluate: Callable[[int], None], *,
              steps: int, scale: float, rows: int, batch_tokens: int, loader: ChatLoader | None = None,
              new_goal: bool = False, flops_per_token: int = 0, **facts) -> None:
        """What is left of `steps`, at `scale` times the rates of pretraining; evaluations and saves as the
        flags say; `facts` are logged. `new_goal`: the loss is another than in the stage before, so that its
        optimizer is not taken over, and the model is evaluated as it came, too."""
        stage, args, world, start = self.stage, self.stage.args, self.stage.world, self.start
        if start >= steps:
            return stage.print(f"{self.path} is already complete: nothing to do")
        rates = LearningRates(**{role: rate * scale for role, rate in self.pretraining["rates"].items()})
        optimizer = MuonAdamW(self.model.param_roles(), rates, 0.0, world, stage.dtype, stage.compiles)
        if (start or not new_goal) and not checkpoint.load_optimizer(self.path, optimizer):
            problem = f"{self.path} has no whole optimizer state for {world}"
            if start:
                die(problem, hint="resume with as many ranks as it had, or start over without --resume")
            stage.print(f"{problem}: starting with a fresh one")
        kept = self.kept | {"rows": rows, "batch_tokens": batch_tokens}
        stage.begin(f"from {self.path}\n{kept['data']}", **kept, **facts, num_iterations=steps,
                    rates=asdict(rates), resumed_at=start)
        if new_goal and args.eval_every > 0 and not start:
            evaluate(0)
        schedule = Schedule(steps, warmup=0, warmdown=args.warmdown_ratio, final_lr=0.0)
        for s in train_steps(loss_of, optimizer, work, schedule, stage, flops_per_token=flops_per_token,
                             start=start):
            if s.due_save(args.save_every):
                checkpoint.save(stage, self.model, self.tokenizer, s.step, optimizer=optimizer, loader=loader,
                                **kept)
            if s.due(args.eval_every):
                evaluate(s.step)

@contextmanager
def go_on(name: str, args: argparse.Namespace, source: Path, data: str) -> Iterator[Continuation]:
    """From the checkpoint `source`, in its dtype, under its tag or that of --out-tag."""
    saved = checkpoint.read_state(source)
    with open_stage(name, args, args.out_tag or args.model_tag or saved["tag"], saved["dtype"]) as stage:
        yield Continuation(stage, source, data)

def finetune(name: str, args: argparse.Namespace, source: Path, conversations: Sequence[dict],
             validation: Sequence[dict], data: str, packed: bool = False) -> None:
    """Train the checkpoint `source` on what the assistant says in `conversations`; log its loss on
    `validation`. `data` names the conversations: a run on others is not resumed. `packed`: rows are full, and
    the last conversation of each is cut off; else all stay whole, and rows are padded."""
    with go_on(name, args, source, data) as this:
        stage, world, model, tokenizer = this.stage, this.stage.world, this.model, this.tokenizer
        compiled = compile_model(model, stage)
        T, batch_tokens = model.shape.sequence_len, args.total_batch_size or this.saved["batch_tokens"]
        rows = args.device_batch_size or min(this.saved["rows"], max(1, batch_tokens // (T * world.size)))
        accumulation = accumulation_steps(batch_tokens, rows, T, world.size)
        held_out = held_out_rows(tokenizer, validation, rows, T, world)
        loader = ChatLoader(tokenizer, conversations, rows, T, world.rank, world.size,
                            accumulation * world.size, stage.device, args.seed,
                            this.saved["loader"] if this.start else None, crop=packed)
        def evaluate(step: int) -> None:
            bpb = evaluate_bpb(compiled, held_out, world).value
            stage.log(f"{name} {step:5d} | validation {bpb:.4f} bits per byte of answers", step=step,
                      val_bpb=bpb)
        with loader:
            this.train(accumulated(loader, accumulation), partial(compiled, reduction="sum"), evaluate,
                       steps=args.num_iterations or epoch_steps(tokenizer, conversations, T, batch_tokens),
                       scale=args.init_lr_frac * math.sqrt(batch_tokens / this.pretraining["batch_tokens"]),
                       rows=rows, batch_tokens=batch_tokens, loader=loader, accumulation=accumulation,
                       flops_per_token=model.shape.flops_per_token(), conversations=len(conversations))

def epoch_steps(tokenizer, conversations: Sequence[dict], T: int, batch_tokens: int) -> int:
    """Steps of `batch_tokens` that see every conversation once, by the length of evenly spaced ones."""
    some = range(0, len(conversations), max(1, len(conversations) // MEASURED))
    tokens = sum(len(render_conversation(tokenizer, conversations[index], T + 1)[0]) for index in some)
    return max(1, round(tokens / len(some) * len(conversations) / batch_tokens))

def held_out_rows(tokenizer, conversations: Sequence[dict], rows: int, T: int, world: World) -> Validation:
    """This rank's share of about VALIDATION_ROWS rows, which are the same ones for any number of ranks. A row
    is a document, of what the assistant says in it; special tokens stand for no bytes and are not counted."""
    with ChatLoader(tokenizer, conversations, rows, T) as loader:
        made = [next(loader) for _ in range(max(1, VALIDATION_ROWS // rows))]
    inputs, targets = map(torch.cat, zip(*made, strict=True))                           # (N, T)
    sizes = torch.tensor(tokenizer.token_bytes())[targets.clamp(min=0)] * (targets >= 0)
    documents = torch.arange(len(inputs), dtype=torch.int32)[:, None].expand_as(inputs)
    columns = (column.split(rows) for column in (inputs, targets.where(sizes > 0, -1), documents))
    return Validation(list(zip(*columns, strict=True))[world.rank::world.size], sizes.sum(1).tolist())
