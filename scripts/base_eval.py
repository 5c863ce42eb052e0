"""
How well a base model predicts text that it was and was not trained on, in bits per byte, and what it writes.

    python -m scripts.base_eval                         # newest base model, on the text it was trained on
    torchrun --standalone --nproc_per_node=8 -m scripts.base_eval -- --source=climbmix
"""

import argparse

from nanochat import checkpoint, dataset
from nanochat.common import new_parser, require_positive
from nanochat.dataloader import validation
from nanochat.engine import Engine, SamplingParams
from nanochat.evals import continuations, evaluate_bpb
from nanochat.gpt import GPT
from nanochat.stage import Stage, add_stage_arguments, open_stage
from nanochat.tokenizer import Tokenizer


def parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    dataset.add_arguments(parser)
    parser.add_argument("-i", "--stage", choices=checkpoint.STAGES, default="base")
    parser.add_argument("--step", type=int, help="checkpoint (default: the newest)")
    parser.add_argument("--eval-tokens", type=int, default=2 ** 20, help="tokens of each split, at most")
    parser.add_argument("--device-batch-size", type=int,
                        help="rows of a micro-batch on one device (default: as trained)")
    parser.add_argument("--temperature", type=float, default=0.8, help="of the unconditioned samples")
    add_stage_arguments(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    require_positive(args, "eval_tokens")
    directory = checkpoint.find(args.stage, args.model_tag, args.step)
    trained = checkpoint.read_state(directory)
    text = dataset.choose(args, trained["text"])                       # by default what it was trained on
    data = dataset.prepare(**text)
    with open_stage("base_eval", args, trained["tag"], trained["dtype"]) as stage:
        world = stage.world
        model, tokenizer, _ = checkpoint.load(directory, stage.device, stage.dtype)
        model.eval().requires_grad_(False)
        stage.begin(model=checkpoint.identity(directory), dataset=data.name, text=text,
                    validation=data.val_sha256)
        stage.print(f"evaluating {directory} on {data.name} in {stage.dtype_name}")
        rows = args.device_batch_size or trained["rows"]
        for split, paths in (("train", data.train[:1]), ("val", data.val)):
            bpb = evaluate_bpb(model, validation(tokenizer, paths, rows, model.shape.sequence_len,
                                                 args.eval_tokens, world.rank, world.size), world).value
            stage.log(split=split, bpb=bpb, step=trained["step"], line=f"{split:>8}  {bpb:.4f} bits per byte")
        if world.is_main:
            sample(model, tokenizer, stage)


def sample(model: GPT, tokenizer: Tokenizer, stage: Stage) -> None:
    """Greedy continuations of a few prompts, and a few texts from nothing."""
    texts = continuations(model, tokenizer)
    free = SamplingParams(temperature=stage.args.temperature, max_tokens=96, seed=stage.args.seed)
    completions = Engine(model, tokenizer, max_batch=3).generate([[tokenizer.bos]] * 3, free)
    texts += [completion.text for completion in completions]
    stage.log(samples=texts, line="\n".join("  > " + text.replace("\n", "\n    ") for text in texts))


if __name__ == "__main__":
    main(parser().parse_args())
