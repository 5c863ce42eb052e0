"""A model as a folder for Hugging Face's transformers, published once it is proved to be the same model.

    python -m scripts.export_hf -i sft --out ~/models/almanac           # of the newest model
    python -m scripts.export_hf --model-tag d12 --out d12-hf
    python -m scripts.export_hf --pack --out almanac.nanochat           # one file, for nanochat itself
A fresh process loads the folder, by transformers alone, and compares tokens, templates and logits with those
of the model. Where they differ nothing is published, the difference is printed, and the exit code is 2."""
import argparse
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from string import Template
from nanochat import checkpoint, export, report
from nanochat.common import compute_dtype, die, new_parser
from nanochat.dist import find_device
from nanochat.stage import model_dir

def parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add = parser.add_argument
    checkpoint.add_arguments(parser)
    add("--out", type=Path, required=True, help="the folder, or file, to make")
    add("--pack", action="store_true", help="one file instead, for chat_cli --model and chat_web --model")
    return parser

def card(title: str, model, state: dict) -> str:
    """The folder's README.md: how to use it, and the report of its training, where the logs of that are."""
    logged = any(model_dir(state["tag"]).glob("*.jsonl"))
    record = report.markdown(report.blocks_of([report.Run(state["tag"])])) if logged else ""
    return Template((export.HERE / "model_card.txt").read_text()).substitute(
        title=title, params=f"{sum(model.shape.params().values()):,}", dtype=str(model.dtype)[6:],
        context=f"{model.shape.sequence_len:,}", stage=state["stage"], step=state["step"],
        record=record.replace("# ", "## How it was trained: ", 1))

def main(args: argparse.Namespace) -> None:
    if not args.pack and not find_spec("transformers"):
        die("an export is proved by transformers, which is not here", hint="uv pip install 'transformers>=5'")
    out, started = args.out.expanduser(), time.perf_counter()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        die(f"{out} is there already", hint="choose another --out, or remove it first")
    whom = checkpoint.chosen(args)
    out.parent.mkdir(parents=True, exist_ok=True)
    if args.pack:
        checkpoint.pack(whom, out)
        print(f"{out}: {out.stat().st_size / 2 ** 20:.1f} MiB, for chat_cli and chat_web --model")
        return
    device = find_device("cpu")                         # where rounding is the same on every machine
    dtype = compute_dtype(device, saved=checkpoint.read_state(whom)["dtype"])
    model, tokenizer, state = checkpoint.load(whom, device, dtype)
    model = model.for_inference()
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        folder = Path(temporary) / "export"
        folder.mkdir()
        export.write(folder, model, tokenizer)
        (folder / "README.md").write_text(card(out.name, model, state))
        print(f"{whom} is written; comparing it with the model ...", flush=True)
        if found := export.difference(folder, model, tokenizer):
            die(f"the exported model is another one: {found}", hint=f"{out} was not made")
        folder.rename(out)
    size = sum(path.stat().st_size for path in out.iterdir()) / 2 ** 20
    print(f"{out}: {size:.1f} MiB in {time.perf_counter() - started:.0f} s, proved equal: tokens, templates, "
          "logits (at once, over a cache, padded), generation")

if __name__ == "__main__":
    main(parser().parse_args())
