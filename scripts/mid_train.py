"""
Midtraining: teach a base model the form of a conversation, multiple choice and the python tool, on many conversations.

    python -m scripts.mid_train                         # from the newest base model
"""

import argparse

from nanochat import almanac, checkpoint
from nanochat.finetune import finetune, finetune_parser
from nanochat.stage import open_stage
from tasks.common import take


def parser() -> argparse.ArgumentParser:
    parser = finetune_parser(__doc__, num_iterations=300, lr_frac=1.0)
    parser.add_argument("--num-conversations", type=int, default=30_000, help="almanac conversations to learn from")
    return parser


def main(args: argparse.Namespace) -> None:
    source = checkpoint.find("base", args.source_tag, args.source_step)
    with open_stage("mid", args, args.model_tag or source.parent.parent.name) as stage:
        conversations = take(almanac.conversations(args.seed), args.num_conversations)
        validation = take(almanac.conversations(args.seed, "val"), 500)
        finetune(stage, source, conversations, validation)


if __name__ == "__main__":
    main(parser().parse_args())
