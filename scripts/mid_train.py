"""Midtraining: teach a base model the form of a conversation, multiple choice and the python tool.

    python -m scripts.mid_train                                       # the newest base model, on the almanac
    python -m scripts.mid_train --mixture=web-mid                     # on sets of the Hugging Face hub
    python -m scripts.mid_train --mixture="gsm8k*2 + smoltalk=10000" --task-data ~/sets
"""
import argparse
from nanochat import checkpoint
from nanochat.finetune import finetune, finetune_parser
from tasks import add_mixture_arguments, mixtures

def parser() -> argparse.ArgumentParser:
    parser = finetune_parser(__doc__, lr_frac=1.0, warmdown=0.2)
    add_mixture_arguments(parser, default="almanac-mid")
    return parser

def main(args: argparse.Namespace) -> None:
    source = checkpoint.find("base", args.model_tag, args.step)                 # 1. from where
    train, validation = mixtures(args, seed=args.seed)                          # 2. on what data
    finetune("mid", args, source, train, validation, train.identity, packed=True)       # 3. go

if __name__ == "__main__":
    main(parser().parse_args())
