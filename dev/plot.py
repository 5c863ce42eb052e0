"""
Curves of run logs in one picture, one line per log.

    python -m dev.plot --key pass@1 --out dev/rl.svg models/a/rl.jsonl models/b/rl.jsonl
"""

import argparse
from pathlib import Path

from nanochat.common import RunLog, die, new_parser


def points(path: Path, key: str) -> list[tuple[int, float]]:
    """(step, value) of the records that have the key."""
    records = RunLog(path).read()
    found = [(record["step"], record[key]) for record in records if {key, "step"} <= record.keys()]
    return found or die(f"{path} has no {key} by step")


def parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    parser.add_argument("logs", nargs="+", type=Path)
    parser.add_argument("--key", required=True, help="a field of the records, such as loss or pass@1")
    parser.add_argument("--out", required=True, type=Path, help="an .svg or .png file")
    return parser


def main(args: argparse.Namespace) -> None:
    import matplotlib
    matplotlib.use("svg" if args.out.suffix == ".svg" else "agg")
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(figsize=(6, 3.2), layout="constrained")
    for path in args.logs:
        axes.plot(*zip(*points(path, args.key), strict=True), marker=".", label=path.parent.name)
    axes.set(xlabel="step", ylabel=args.key)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(args.out, dpi=150)
    print(f"written to {args.out}")


if __name__ == "__main__":
    main(parser().parse_args())
