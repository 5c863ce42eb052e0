"""Going on from a checkpoint: what midtraining, supervised finetuning and reinforcement learning share. The
first two learn from conversations; their scripts say from which, how packed and at which learning rates."""

# T context; a rank trains `rows` x T tokens per micro-batch, `accumulation` micro-batches per step

import argparse
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from nanochat import checkpoint
from nanochat.chat import render_conversation
from nanochat.common import die, new_parser
from nanochat.dataloader import ChatLoader, Validation
from nanochat.dist import World
from nanochat.evals import evaluate_bpb
from nanochat.gpt import GPT
from nanochat.muon import MuonAdamW
from nanochat.scaling import LearningRates
from nanochat.schedule import Schedule
from nanochat.stage import Stage, add_stage_arguments, open_stage
from nanochat.tokenizer import Tokenizer
from nanochat.train import accumulated, accumulation_steps, compile_if_worth, train_steps

VALIDATION_ROWS = 64
MEASURED = 1000                 # conversations whose length tells how many steps an epoch has


def continuing_parser(description: str, *, lr_frac: float, warmdown: float = 1.0) -> argparse.ArgumentParser:
    """The flags of every stage that goes on from a checkpoint, with its usual learning rates."""
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
    add_stage_arguments(parser, model_tag="model to go on from (default: the newest)")
    return parser


def finetune_parser(description: str, *, lr_frac: float, warmdown: float = 1.0) -> argparse.ArgumentParser:
    """The same for a stage that learns from conversations."""
    parser = continuing_parser(description, lr_frac=lr_frac, warmdown=warmdown)
    add = parser.add_argument
    add("--total-batch-size", type=int, help="tokens of an optimizer step (default: as in the stage before)")
    add("--compile", action=argparse.BooleanOptionalAction, help="torch.compile (default: on a GPU)")
    return parser


def open_finetuning(name: str, args: argparse.Namespace, source: Path) -> AbstractContextManager[Stage]:
    """A stage that goes on from the checkpoint `source`, in its dtype, under its tag or that of --out-tag."""
    saved = checkpoint.read_state(source)
    return open_stage(name, args, args.out_tag or args.model_tag or saved["tag"], saved["dtype"])


def finetune(stage: Stage, source: Path, conversations: Sequence[dict], validation: Sequence[dict],
             data: str, packed: bool = False) -> None:
    """Train the checkpoint `source` on what the assistant says in `conversations`, with a fresh schedule and,
    where there is one for this number of ranks, its optimizer state. Logs the loss on `validation`. `data`
    names the conversations: a run on others is not resumed. `packed`: rows are full, and the last
    conversation of each is cut off; else all stay whole, and rows are padded."""
    args, world = stage.args, stage.world
    begin_at, start, model, tokenizer, saved = load_or_resume(stage, source, data)
    T = model.shape.sequence_len
    batch_tokens = args.total_batch_size or saved["batch_tokens"]
    rows = args.device_batch_size or min(saved["rows"], max(1, batch_tokens // (T * world.size)))
    steps = args.num_iterations or epoch_steps(tokenizer, conversations, T, batch_tokens)
    if start >= steps:
        stage.print(f"{begin_at} is already complete: nothing to do")
        return
    accumulation = accumulation_steps(batch_tokens, rows, T, world.size)
    loader = ChatLoader(tokenizer, conversations, rows, T, world.rank, world.size, accumulation * world.size,
                        stage.device, None if args.in_order else args.seed,
                        saved["loader"] if start else None, crop=packed)
    held_out = held_out_rows(tokenizer, validation, rows, T, world)
    pretraining = pretraining_rates(saved)
    scale = args.init_lr_frac * math.sqrt(batch_tokens / pretraining["batch_tokens"])
    optimizer = MuonAdamW(model.param_roles(), scaled_rates(pretraining, scale), 0.0, world, stage.dtype)
    restore(optimizer, begin_at, stage, must=start > 0)
    schedule = Schedule(steps, warmup=0, warmdown=args.warmdown_ratio, final_lr=0.0)
    kept = {"origin": checkpoint.identity(source), "data": data, "pretraining": pretraining, "rows": rows,
            "batch_tokens": batch_tokens, "text": saved["text"]}
    stage.begin(**kept, conversations=len(conversations), accumulation=accumulation, num_iterations=steps,
                rates=asdict(optimizer.rates), resumed_at=start)
    stage.print(f"{stage.device_name} | {world} | {stage.dtype_name} | from {begin_at}")
    stage.print(f"{data} | {rows} rows x {T} x {accumulation} micro-batches per rank")
    runnable = compile_if_worth(model, stage, args.compile)
    for s in train_steps(partial(runnable, reduction="sum"), optimizer, accumulated(loader, accumulation),
                         schedule, stage, flops_per_token=model.shape.flops_per_token(), start=start):
        if s.due_save(args.save_every):
            checkpoint.save(stage, model, tokenizer, s.step, optimizer=optimizer, loader=loader, **kept)
        if s.due(args.eval_every):
            bpb = evaluate_bpb(model, held_out, world).value
            stage.log(f"{stage.name} {s.step:5d} | validation {bpb:.4f} bits per byte of answers",
                      step=s.step, val_bpb=bpb)
    loader.close()


def load_or_resume(stage: Stage, source: Path, data: str) -> tuple[Path, int, GPT, Tokenizer, dict]:
    """Where to begin, after how many steps of this stage; model, tokenizer and state of that checkpoint. With
    --resume the newest one of this stage that started from `source`. Dies if it learned from other data."""
    stage.agree(data)
    origin = checkpoint.identity(source)
    for path in reversed(checkpoint.checkpoints(stage.name, stage.tag) if stage.args.resume else []):
        saved = checkpoint.read_state(path)
        if saved.get("origin") == origin:
            if saved["data"] != data:
                die(f"{path} learned from {saved['data']}; these flags make {data}",
                    hint="resume with the flags and the file of that run, or start over without --resume")
            checkpoint.require_dtype(path, stage)
            return path, saved["step"], *checkpoint.load(path, stage.device, stage.dtype)
    return source, 0, *checkpoint.load(source, stage.device, stage.dtype)


def epoch_steps(tokenizer, conversations: Sequence[dict], T: int, batch_tokens: int) -> int:
    """Steps of `batch_tokens` that see every conversation once, by the length of evenly spaced ones."""
    some = range(0, len(conversations), max(1, len(conversations) // MEASURED))
    tokens = sum(len(render_conversation(tokenizer, conversations[index], T + 1)[0]) for index in some)
    return max(1, round(tokens / len(some) * len(conversations) / batch_tokens))


def pretraining_rates(saved: dict) -> dict:
    """Peak learning rates of pretraining, by role, and the tokens per step that they were for."""
    return saved.get("pretraining") or {name: saved[name] for name in ("rates", "batch_tokens")}


def scaled_rates(pretraining: dict, scale: float) -> LearningRates:
    return LearningRates(**{role: rate * scale for role, rate in pretraining["rates"].items()})


def restore(optimizer: MuonAdamW, directory: Path, stage: Stage, must: bool) -> None:
    """Load what was saved. Where another number of ranks saved it, start afresh, or die if it `must`."""
    if checkpoint.load_optimizer(directory, optimizer):
        return
    problem = f"{directory} has no whole optimizer state for {stage.world}"
    if must:
        die(problem, hint="resume with as many ranks as it had, or start over without --resume")
    stage.print(f"{problem}: starting with a fresh one")


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
