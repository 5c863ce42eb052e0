"""How well the tokenizer compresses: bytes per token on samples of several kinds, beside GPT-2 and GPT-4.

    python -m scripts.tok_eval
More bytes per token is better: less to compute for the same text, and more text in a context."""
import argparse
import re
from pathlib import Path
from nanochat.common import RunLog, base_dir, new_parser
from nanochat.report import tokenizer_table
from nanochat.tokenizer import Tokenizer

# Vocabulary, and tokens of each sample, in their order; counted once with tiktoken's gpt2 and cl100k_base.
OTHERS = {"gpt2": (50257, (70, 137, 97, 171, 112, 70)), "gpt4": (100277, (71, 69, 100, 83, 82, 74))}

def parser() -> argparse.ArgumentParser:
    return new_parser(__doc__)

def samples() -> dict[str, str]:
    """Of tok_eval.txt: what kind of text -> text."""
    text = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^== (\w+)\n(.*?)\n(?=== |\Z)", text, re.MULTILINE | re.DOTALL))

def main(args: argparse.Namespace) -> None:
    tokenizer, log = Tokenizer.load(), RunLog(base_dir() / "tokenizer" / "tok_eval.jsonl")
    ours = tokenizer.vocab_size, [len(tokenizer.encode(text)) for text in samples().values()]
    for label, (vocab_size, tokens) in {"ours": ours, **OTHERS}.items():
        sizes = {kind: round(len(text.encode()) / count, 3)
                 for (kind, text), count in zip(samples().items(), tokens, strict=True)}
        log.write(stage="tok_eval", tokenizer=label, vocab_size=vocab_size, bytes_per_token=sizes)
    print(tokenizer_table())

if __name__ == "__main__":
    main(parser().parse_args())
