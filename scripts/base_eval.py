"""
How well a base model predicts text it was trained on and text it was not, in bits per byte, and what it writes.

    python -m scripts.base_eval                                   # newest base model, on the text it was trained on
    torchrun --standalone --nproc_per_node=8 -m scripts.base_eval -- --source=climbmix
"""

import argparse

from nanochat import checkpoint, dataset
from nanochat.common import die
from nanochat.dataloader import val_batches
from nanochat.engine import Engine, SamplingParams
from nanochat.evals import continuations, evaluate_bpb
from nanochat.stage import add_stage_arguments, open_stage

def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    dataset.add_arguments(parser)
    parser.add_argument("-i", "--stage", choices=checkpoint.STAGES, default="base")
    parser.add_argument("--step", type=int, help="checkpoint (default: the newest)")
    parser.add_argument("--eval-tokens", type=int, default=2 ** 20, help="tokens of each split, at most")
    parser.add_argument("--device-batch-size", type=int, help="rows of a micro-batch on one device (default: as trained)")
    parser.add_argument("--temperature", type=float, default=0.8, help="of the unconditioned samples")
    add_stage_arguments(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    directory = checkpoint.find(args.stage, args.model_tag, args.step)
    trained = checkpoint.read_state(directory)
    if args.source is None and args.data is None:                     # the text that it was trained on
        for name in ("source", "data", "num_shards", "almanac_mb"):
            setattr(args, name, trained["args"].get(name))
    if args.eval_tokens < 1:
        die(f"--eval-tokens is {args.eval_tokens}, must be at least 1")
    with open_stage("base_eval", args, trained["tag"]) as stage:
        world = stage.world
        make = lambda: dataset.prepare(args.source, args.data, args.num_shards, args.almanac_mb, stage.print)
        data = world.broadcast_object(make() if world.is_main else None)
        model, tokenizer, _ = checkpoint.load(directory, stage.device, stage.dtype)
        model.eval().requires_grad_(False)
        stage.begin(model=f"{trained['stage']} {trained['step']}", dataset=data.name, validation=data.val_sha256)
        stage.print(f"evaluating {directory} on {data.name}")
        rows = args.device_batch_size or trained["rows"]
        for split, paths in (("train", data.train[:1]), ("val", data.val)):
            batches = val_batches(tokenizer, paths, rows, model.shape.sequence_len, args.eval_tokens, world.rank, world.size)
            bpb = evaluate_bpb(model, batches, tokenizer.token_bytes(), world)
            stage.log(split=split, bpb=bpb, step=trained["step"], line=f"{split:>8}  {bpb:.4f} bits per byte")
        if world.is_main:
            sample(Engine(model, tokenizer), args, stage)


def sample(engine: Engine, args: argparse.Namespace, stage) -> None:
    """Greedy continuations of a few prompts, and a few texts from nothing."""
    texts = continuations(engine)
    free = SamplingParams(temperature=args.temperature, max_tokens=96, seed=args.seed)
    texts += [completion.text for completion in engine.generate([[engine.tokenizer.bos]] * 3, free)]
    stage.log(samples=texts, line="\n".join("  > " + text.replace("\n", "\n    ") for text in texts))


if __name__ == "__main__":
    main(parser().parse_args())
