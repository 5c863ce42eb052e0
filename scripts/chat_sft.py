"""Supervised finetuning: the last polish of a midtrained model, on conversations it has not seen, at low
rates. Your own conversations, a persona for example, are added with --conversations.

    python -m scripts.chat_sft --conversations persona.jsonl --repeat=20
"""
import argparse
from nanochat import checkpoint
from nanochat.finetune import finetune, finetune_parser
from tasks import add_mixture_arguments, mixtures

def parser() -> argparse.ArgumentParser:
    parser = finetune_parser(__doc__, lr_frac=0.1)
    parser.add_argument("-i", "--stage", choices=("mid", "base"), default="mid", help="stage to go on from")
    add_mixture_arguments(parser, default="almanac-sft")
    return parser

def main(args: argparse.Namespace) -> None:
    source = checkpoint.find(args.stage, args.model_tag, args.step)             # 1. from where
    train, validation = mixtures(args, seed=args.seed + 1)                      # 2. on what data: not mid's
    finetune("sft", args, source, train, validation, train.identity)            # 3. go

if __name__ == "__main__":
    main(parser().parse_args())
