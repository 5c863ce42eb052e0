"""Pretrain a base model. --depth decides everything; any number can be overridden.

    python -m scripts.base_train --depth=20 --plan                  # print what it would be, and stop
    python -m scripts.base_train --depth=4 --data ~/texts           # your own text, one device
    torchrun --standalone --nproc_per_node=8 -m scripts.base_train --depth=24 --source=climbmix
A `--` before the flags is fine, and needed where --run is among them: torchrun has some like it."""
import argparse
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from nanochat import attention, checkpoint, dataset, dist, fp8
from nanochat.common import die, new_parser
from nanochat.core_eval import BUNDLE_HELP, Reader, evaluate_core, open_bundle
from nanochat.dataloader import BYTES_PER_TOKEN, PretrainLoader, validation
from nanochat.evals import continuations, evaluate_bpb
from nanochat.gpt import GPT
from nanochat.hardware import peaks
from nanochat.muon import MuonAdamW
from nanochat.scaling import LearningRates, Plan, derive
from nanochat.stage import Stage, add_stage_arguments, model_dir, open_stage
from nanochat.tokenizer import Tokenizer
from nanochat.train import accumulated, accumulation_steps, compile_model, train_steps

PLAN_VOCAB = 32768                                      # of --plan, which reads no tokenizer
H100 = peaks("H100")                                    # FLOP/s and bytes/s

def parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    model = parser.add_argument_group("model").add_argument
    model("--depth", type=int, default=20, help="layers; everything else follows from it")
    model("--aspect-ratio", type=int, default=64,
          help="width per layer (the rules for batch, rates and length compare with d12 at 64)")
    model("--head-dim", type=int, default=128)
    model("--n-kv-head", type=int, help="key heads, shared by query heads (default: one each)")
    model("--max-seq-len", type=int, default=2048, help="context in tokens")
    model("--window-pattern", default="SSSL", help="per layer: S sees a quarter of the context, L all of it")
    model("--key-offset", action="store_true",
          help="half of every key is that of the token before: copying is learned sooner")
    dataset.add_arguments(parser.add_argument_group("data"))
    horizon = parser.add_argument_group("how long; the first one given counts").add_argument
    horizon("--num-iterations", type=int, help="optimizer steps")
    horizon("--target-flops", type=float, help="training FLOPs, to the nearest step")
    horizon("--target-param-data-ratio", type=float, help="tokens per scaling parameter (default: 12)")
    optim = parser.add_argument_group("optimization").add_argument
    optim("--device-batch-size", type=int, help="rows of a micro-batch on one device (default: what fits)")
    optim("--total-batch-size", type=int, help="tokens of an optimizer step over all devices")
    for rate in fields(LearningRates):
        optim(f"--{rate.name.replace('_', '-')}-lr", type=float, default=rate.default,
              help=f"default: {rate.default}, then scaled")
    optim("--lr-scale", type=float, default=1.0, help="of the rates of matrices and tables")
    optim("--weight-decay", type=float, default=0.28, help="Muon's, at depth 12")
    optim("--warmup-steps", type=int, default=40)
    optim("--warmdown-ratio", type=float, default=0.65, help="share of the steps")
    optim("--final-lr-frac", type=float, default=0.05, help="of the peak rates")
    optim("--compile", action=argparse.BooleanOptionalAction, help="torch.compile (default: on a GPU)")
    optim("--fp8", action="store_true", help="train the blocks' matrices in float8, where a GPU has it")
    often = parser.add_argument_group("how often, in optimizer steps; zero or less is never").add_argument
    often("--eval-every", type=int, default=250)
    often("--eval-tokens", type=int, help=f"validation text, reckoned as {BYTES_PER_TOKEN} bytes per token, "
          "whatever the tokenizer (default: 4M on a GPU, 262,144 elsewhere)")
    often("--core-metric-every", type=int, help="CORE (default: 2,000 on a GPU, else off)")
    often("--core-metric-max-per-task", type=int, default=500, help="its examples of each task")
    often("--core-bundle", help=BUNDLE_HELP)
    often("--sample-every", type=int, default=2000)
    often("--save-every", type=int, default=-1, help="the end is always saved")
    add = parser.add_argument
    add("--resume", action="store_true", help="go on from this model's newest checkpoint, if there is one")
    add("--plan", action="store_true", help=f"print the plan for a vocabulary of {PLAN_VOCAB:,} and stop")
    add_stage_arguments(parser)
    return parser

def main(args: argparse.Namespace) -> None:
    if args.plan:
        print_plan(plan := make_plan(args, PLAN_VOCAB))
        return print_limits(plan)
    tag = args.model_tag or f"d{args.depth}"
    start = checkpoint.newest("base", tag) if args.resume else None
    saved = checkpoint.read_state(start) if start else {"step": 0}
    tokenizer = Tokenizer.load()                                                # 1. what
    plan = make_plan(args, tokenizer.vocab_size)
    shape, T = plan.shape, plan.shape.sequence_len
    text = dataset.choose(args, saved.get("text"), plan.num_shards)             # 2. on what data
    model_dir(tag)                                      # what is wrong with these is said before the wait
    on_gpu = dist.find_device(args.device).type == "cuda"
    data = dataset.prepare(**text)                      # before the ranks meet: this may take hours
    core_every = args.core_metric_every if args.core_metric_every is not None else 2000 * on_gpu
    bundle = open_bundle(args.core_bundle, text["source"]) if core_every > 0 else None
    with open_stage("base", args, tag, saved.get("dtype")) as stage:
        world = stage.world
        at_once = min(65536 if on_gpu else 4096, plan.batch_tokens // world.size)       # tokens
        rows = (args.device_batch_size or saved.get("rows") or
                shape.rows_that_fit(stage.memory, max(1, at_once // T), world.size))
        accumulation = accumulation_steps(plan.batch_tokens, rows, T, world.size)
        model = (load_to_resume(start, plan, tokenizer, stage) if start else
                 GPT(shape, stage.dtype).init_weights(args.seed).to(stage.device))
        loader = PretrainLoader(tokenizer, data.train, rows, T, world.rank, world.size,
                                accumulation * world.size, stage.device, saved.get("loader"))
        eval_tokens = args.eval_tokens or (2 ** 22 if on_gpu else 2 ** 18)
        held_out = validation(tokenizer, data.val, rows, T, eval_tokens, world.rank,
                              world.size) if args.eval_every > 0 else None
        kernels = [attention.choose(shape, stage.device, stage.dtype)] if on_gpu else []        # 3. how
        if args.fp8:
            kernels.append(fp8.enable(model))
        compiled = compile_model(model, stage)
        optimizer = MuonAdamW(model.param_roles(), plan.rates, plan.weight_decay, world, stage.dtype,
                              stage.compiles)
        if start and not checkpoint.load_optimizer(start, optimizer):
            die(f"{start} has no whole optimizer state for {world}",
                hint="resume with as many ranks as it had, or start over without --resume")
        if world.is_main and not start:
            print_plan(plan)
        work = f"{data.name} | {rows} rows x {T} x {accumulation} micro-batches per rank"
        stage.begin("\n".join([*kernels, work]), plan=plan.summary(), dataset=data.name, text=text,
                    validation=data.val_sha256, eval_tokens=eval_tokens, rows=rows, accumulation=accumulation,
                    kernels=kernels, resumed_at=saved["step"])
        if saved["step"] >= plan.num_iterations:
            return stage.print(f"{start} is already complete: nothing to do")
        for s in train_steps(partial(compiled, reduction="sum"), optimizer,             # 4. go
                             accumulated(loader, accumulation), plan.schedule, stage,
                             flops_per_token=shape.flops_per_token(), start=saved["step"]):
            if s.due_save(args.save_every):
                checkpoint.save(stage, model, tokenizer, s.step, optimizer=optimizer, loader=loader,
                                text=text, rates=asdict(plan.rates), rows=rows,
                                batch_tokens=plan.batch_tokens)
            if s.due(args.eval_every):
                bpb = evaluate_bpb(compiled, held_out, world)
                stage.log(step=s.step, val_bpb=bpb.value, val_bpb_error=bpb.error,
                          line=f"base {s.step:5d} | validation {bpb}")
            if s.due(core_every):
                reader = Reader(model, tokenizer)
                evaluate_core(reader, bundle, stage, args.core_metric_max_per_task, step=s.step)
            if s.due(args.sample_every) and world.is_main:
                texts = continuations(model, tokenizer)
                stage.log(step=s.step, samples=texts, line="\n".join(f"  > {text}" for text in texts))
        loader.close()

def make_plan(args: argparse.Namespace, vocab_size: int) -> Plan:
    rates = LearningRates(**{rate.name: getattr(args, f"{rate.name}_lr") for rate in fields(LearningRates)})
    return derive(args.depth, vocab_size, ratio=args.target_param_data_ratio, lr_scale=args.lr_scale,
                  num_iterations=args.num_iterations, target_flops=args.target_flops,
                  batch_tokens=args.total_batch_size, rates=rates, weight_decay=args.weight_decay,
                  warmup=args.warmup_steps, warmdown=args.warmdown_ratio, final_lr=args.final_lr_frac,
                  aspect_ratio=args.aspect_ratio, head_dim=args.head_dim, n_kv_head=args.n_kv_head,
                  sequence_len=args.max_seq_len, window_pattern=args.window_pattern,
                  key_offset=args.key_offset)

def load_to_resume(start: Path, plan: Plan, tokenizer: Tokenizer, stage: Stage) -> GPT:
    """The model of a checkpoint. Dies where this run is not the one that wrote it."""
    stage.print(f"resuming from {start}")
    checkpoint.require_dtype(start, stage)
    model, trained_with, _ = checkpoint.load(start, stage.device, stage.dtype)
    if trained_with.hash != tokenizer.hash:
        die(f"{start} was trained with another tokenizer than the one saved now",
            hint="start over without --resume")
    if model.shape != plan.shape:
        die(f"{start} has another shape than these flags make", hint="another --model-tag, or no --resume")
    return model

def print_plan(plan: Plan) -> None:
    for key, value in plan.summary().items():
        print(f"{key:>26}  " + {int: "{:,}", float: "{:.4g}"}.get(type(value), "{}").format(value))

def print_limits(plan: Plan) -> None:
    """What one GPU would have to hold and to do: estimates, for what is measured to be compared with."""
    held = ", ".join(f"{part} {size / 1e9:.1f}" for part, size in plan.shape.memory().items())
    print(f"{'GB on one GPU':>26}  {held}")
    print(f"{'of a step, on one H100':>26}    TFLOP  GB moved  ms at least")
    for phase, (flops, size) in plan.phases().items():
        least = max(flops / H100[0], size / H100[1])
        print(f"{phase:>26}  {flops / 1e12:7.1f}  {size / 1e9:8.1f}  {1e3 * least:11.1f}")

if __name__ == "__main__":
    main(parser().parse_args())
