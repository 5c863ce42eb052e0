"""
Supervised finetuning: the last polish of a midtrained model, on conversations it has not seen, at a low learning rate.
Your own conversations, a persona for example, are added with --conversations.

    python -m scripts.chat_sft --conversations persona.jsonl
"""

import argparse
from pathlib import Path

from nanochat import almanac, checkpoint
from nanochat.finetune import finetune, finetune_parser
from nanochat.stage import open_stage
from tasks import customjson
from tasks.common import take


def parser() -> argparse.ArgumentParser:
    parser = finetune_parser(__doc__, num_iterations=100, lr_frac=0.2)
    parser.add_argument("--source", choices=("mid", "base"), default="mid", help="stage to go on from")
    parser.add_argument("--num-conversations", type=int, default=10_000, help="almanac conversations to learn from")
    parser.add_argument("--conversations", type=Path, help="a .jsonl file of your own, mixed in")
    parser.add_argument("--repeat", type=int, default=1, help="how often your own conversations count")
    return parser


def main(args: argparse.Namespace) -> None:
    own = customjson.load(args.conversations) * args.repeat if args.conversations else []
    source = checkpoint.find(args.source, args.source_tag, args.source_step)
    with open_stage("sft", args, args.model_tag or source.parent.parent.name) as stage:
        conversations = take(almanac.conversations(args.seed + 1), args.num_conversations) + own
        validation = take(almanac.conversations(args.seed + 1, "val"), 500)
        finetune(stage, source, conversations, validation)


if __name__ == "__main__":
    main(parser().parse_args())
