"""
Midtraining: teach a base model the form of a conversation, multiple choice and the python tool.

    python -m scripts.mid_train                         # from the newest base model
"""

import argparse

from nanochat import checkpoint
from nanochat.finetune import finetune, finetune_parser, open_finetuning
from tasks import add_mixture_arguments, mixtures


def parser() -> argparse.ArgumentParser:
    parser = finetune_parser(__doc__, num_iterations=300, lr_frac=1.0)
    add_mixture_arguments(parser, default="almanac-mid")
    return parser


def main(args: argparse.Namespace) -> None:
    source = checkpoint.find("base", args.model_tag, args.step)                 # 1. from where
    train, validation = mixtures(args, seed=args.seed)                          # 2. on what data
    with open_finetuning("mid", args, source) as stage:                         # 3. go
        finetune(stage, source, train, validation, data=train.identity)


if __name__ == "__main__":
    main(parser().parse_args())
