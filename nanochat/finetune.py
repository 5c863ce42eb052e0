"""
Going on from a checkpoint with conversations: what midtraining and supervised finetuning share. They differ in their
data, their length and their learning rates, which is what their scripts say.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from nanochat import checkpoint
from nanochat.dataloader import ChatLoader
from nanochat.evals import evaluate_bpb
from nanochat.muon import MuonAdamW
from nanochat.scaling import LearningRates
from nanochat.schedule import Schedule
from nanochat.stage import Stage, add_stage_arguments
from nanochat.train import accumulation_steps, compile_if_worth, train_steps

VALIDATION_ROWS = 64


def finetune_parser(description: str, *, num_iterations: int, lr_frac: float) -> argparse.ArgumentParser:
    """The flags of such a stage, with its usual length, learning rates and batch."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source-tag", help="model to go on from (default: the newest)")
    parser.add_argument("--source-step", type=int, help="its step (default: the newest)")
    parser.add_argument("--num-iterations", type=int, default=num_iterations, help="optimizer steps")
    parser.add_argument("--init-lr-frac", type=float, default=lr_frac, help="peak learning rates, relative to pretraining")
    parser.add_argument("--warmdown-ratio", type=float, default=1.0, help="share of the steps in which the rates fall to 0")
    parser.add_argument("--device-batch-size", type=int, help="rows of a micro-batch on one device (default: as pretrained)")
    parser.add_argument("--total-batch-size", type=int, help="tokens of an optimizer step (default: as pretrained)")
    parser.add_argument("--eval-every", type=int, default=100, help="steps between validations; zero or less is never")
    parser.add_argument("--save-every", type=int, default=-1, help="the end is always saved")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="torch.compile (default: on a GPU)")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of this stage, if any")
    add_stage_arguments(parser)
    return parser


def identity(source: Path) -> str:
    """Which checkpoint a run started from: a retrained one is another, also under the same name."""
    return f"{source.name} {checkpoint.created(source)}"


def find_resume(stage: Stage, source: Path) -> Path | None:
    """The newest checkpoint of this stage that started from `source`."""
    paths = [path for path in checkpoint.checkpoints(stage.name, stage.tag)
             if checkpoint.read_state(path)["source"] == identity(source)]
    return paths[-1] if paths else None


def finetune(stage: Stage, source: Path, conversations: Sequence[dict], validation: Sequence[dict]) -> None:
    """
    Train the checkpoint `source` on what the assistant says in `conversations`, with a fresh schedule and, where there
    is one for this number of ranks, the optimizer state that it was saved with. Logs the loss on `validation`.
    """
    args, world = stage.args, stage.world
    resumed = find_resume(stage, source) if args.resume else None
    model, tokenizer, saved = checkpoint.load(resumed or source, stage.device, stage.dtype)
    batch_tokens = args.total_batch_size or saved["batch_tokens"]
    T = model.shape.sequence_len
    if resumed and saved["step"] >= args.num_iterations:
        stage.print(f"{resumed} is already complete: nothing to do")
        return
    rows = args.device_batch_size or min(saved["rows"], max(1, batch_tokens // (T * world.size)))
    accumulation = accumulation_steps(batch_tokens, rows, T, world.size)
    scale = 1.0 if resumed else args.init_lr_frac * math.sqrt(batch_tokens / saved["batch_tokens"])
    rates = {role: rate * scale for role, rate in saved["rates"].items()}
    loader = ChatLoader(tokenizer, conversations, rows, T, world.rank, world.size, slots=accumulation * world.size,
                        device=stage.device, seed=args.seed, state=saved["loader"] if resumed else None)
    with ChatLoader(tokenizer, validation, rows, T, world.rank, world.size) as batches:
        held_out = [next(batches) for _ in range(max(1, VALIDATION_ROWS // (rows * world.size)))]
    optimizer = MuonAdamW(model.param_roles(), LearningRates(**rates), weight_decay=0.0, world=world)
    if not checkpoint.load_optimizer(resumed or source, optimizer):
        stage.print(f"{resumed or source} has no optimizer state for {world.size} ranks: starting with a fresh one")
    schedule = Schedule(args.num_iterations, warmup=0, warmdown=args.warmdown_ratio, final_lr=0.0)
    start = saved["step"] if resumed else 0
    stage.begin(source=str(source), rates=rates, conversations=len(conversations), batch_tokens=batch_tokens, rows=rows,
                accumulation=accumulation, num_iterations=args.num_iterations, resumed_at=start)
    stage.print(f"{stage.device_name} | {world.size} ranks | {stage.dtype} | from {resumed or source} | "
                f"{len(conversations):,} conversations | {rows} rows x {T} x {accumulation} micro-batches a rank")
    for s in train_steps(compile_if_worth(model, stage, args.compile), optimizer, loader, schedule, stage,
                         accumulation=accumulation, flops_per_token=model.shape.flops_per_token(), start=start):
        if s.due_save(args.save_every):
            checkpoint.save(stage, model, tokenizer, s.step, optimizer=optimizer, loader=loader, rates=rates,
                            batch_tokens=batch_tokens, rows=rows, source=identity(source))
        if s.due(args.eval_every):
            bpb = evaluate_bpb(model, held_out, tokenizer.token_bytes(), world)
            stage.log(step=s.step, val_bpb=bpb, line=f"{stage.name} {s.step:5d} | validation {bpb:.4f} bits per byte of answers")
    loader.close()
