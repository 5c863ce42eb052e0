"""What a sweep found: a plot beside the CSV that `nanochat.report --csv` wrote of its models.

    python -m dev.sweep miniseries.csv                          # CORE, bits per byte: against FLOPs, hours
    python -m dev.sweep scaling_laws.csv --budgets 1e18 1e19    # the best size for each budget of FLOPs

The second is an IsoFLOP fit (arXiv 2203.15556, approach 2), kept as .json: a parabola of bits per byte in
log N for each budget C, whose minimum is the best N and D, and the laws N ~ C^a, D ~ C^b of these. A minimum
outside of the sizes that were trained is no measurement: it is named and left out."""
# C training FLOPs, N scaling parameters, D training tokens
import argparse
import csv
import json
import math
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
import numpy as np
from nanochat.common import atomic_write, die, new_parser
from nanochat.evals import Z
from nanochat.report import GPT2_CORE, plot

def read(path: Path) -> list[dict]:
    """The models of a CSV whose FLOPs and bits per byte are known, smallest first. NaN is not known."""
    if not path.is_file():
        die(f"{path} is not there", hint="nanochat.report --csv writes it")
    rows = [{key: text if key == "tag" else float(text or "nan") for key, text in row.items()}
            for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines())]
    known = [row for row in rows if math.isfinite(row["flops"] * row["val_bpb"])]
    if len(known) < len(rows):
        print(f"left out, not finished: {', '.join(row['tag'] for row in rows if row not in known)}")
    return sorted(known, key=lambda row: row["scaling_params"])

def best(N: Sequence[float], D: Sequence[float], bpb: Sequence[float]) -> dict | None:
    """The lowest point of the parabola in log N nearest to models, smallest first, if it is within them."""
    if len(set(N)) < 3:
        return None
    x = np.log(N)
    parabola = bend, slope, _ = np.polyfit(x, bpb, 2).tolist()
    at = -slope / (2 * bend) if bend > 0 else math.nan
    if not x[0] <= at <= x[-1]:
        return None
    return {"N": math.exp(at), "D": math.exp(np.interp(at, x, np.log(D))),
            "bpb": float(np.polyval(parabola, at)), "parabola": parabola}

def power_law(x: Sequence[float], y: Sequence[float]) -> dict | None:
    """y = factor * x^exponent by least squares in logs; the standard error where there are three points."""
    if len(set(x)) < 2:
        return None
    u, v = np.log(x), np.log(y)
    exponent, level = np.polyfit(u, v, 1).tolist()
    error = round(math.sqrt(np.polyfit(u, v, 1, cov=True)[1][0, 0]), 6) if len(u) > 2 else None
    return {"exponent": exponent, "error": error, "factor": math.exp(level)}

def isoflop(rows: Sequence[dict], budgets: Sequence[float]) -> dict:
    """The models of each budget, those whose FLOPs are nearest to it, with its best N and D; the two laws."""
    found = []
    for C in sorted(budgets):
        mine = [row for row in rows if C == min(budgets, key=lambda each: abs(math.log(row["flops"] / each)))]
        N, D, bpb = ([row[key] for row in mine] for key in ("scaling_params", "tokens", "val_bpb"))
        found.append({"C": C, "N": N, "D": D, "bpb": bpb, "best": best(N, D, bpb)})
    inside = [each for each in found if each["best"]]
    laws = {letter: power_law([each["C"] for each in inside], [each["best"][letter] for each in inside])
            for letter in "ND"}
    return {"budgets": found, "laws": laws}

def tell(fit: dict) -> None:
    for each in fit["budgets"]:
        found = ", ".join(f"{key} = {each['best'][key]:.4g}" for key in ("N", "D", "bpb") if each["best"])
        print(f"C = {each['C']:.3g}, {len(each['N'])} models: {found or 'no minimum between them, left out'}")
    for letter, law in fit["laws"].items():
        print(f"{letter} = factor * C^exponent: {law or 'it takes two budgets with a minimum'}")

def draw_isoflop(fit: dict, figure) -> None:
    axes = figure.subplots()
    for each in fit["budgets"]:
        (dots,) = axes.plot(each["N"], each["bpb"], "o", label=f"{each['C']:.3g} FLOPs")
        if lowest := each["best"]:
            N, colour = np.geomspace(each["N"][0], each["N"][-1]), dots.get_color()
            axes.plot(N, np.polyval(lowest["parabola"], np.log(N)), "-", color=colour)
            axes.plot(lowest["N"], lowest["bpb"], "*", color=colour, markersize=12)
    axes.legend()
    axes.set(xscale="log", xlabel="scaling parameters N", ylabel="validation bits per byte")

def draw_series(rows: list[dict], figure) -> None:
    panels = figure.subplots(2, 2, sharex="col", sharey="row").flat
    for axes, (key, against) in zip(panels, product(("core", "val_bpb"), ("flops", "hours")), strict=True):
        for row in [row for row in rows if math.isfinite(row[key])]:
            axes.errorbar(row[against], row[key], Z * row[f"{key}_error"], fmt="oC0", capsize=3)
            axes.annotate(f"  d{row['depth']:.0f}", (row[against], row[key]))
        axes.set(xscale="log", xlabel=against, ylabel=key)
        if key == "core":
            axes.axhline(GPT2_CORE, linestyle="--", color="C1", label="GPT-2 1.6B")
            axes.legend()

def parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    parser.add_argument("csv", type=Path, help="from nanochat.report --csv")
    parser.add_argument("--budgets", type=float, nargs="+", metavar="C", help="fit the best size for each")
    return parser

def main(args: argparse.Namespace) -> None:
    rows = read(args.csv)
    if args.budgets:
        fit = isoflop(rows, args.budgets)
        tell(fit)
        atomic_write(args.csv.with_suffix(".json"), json.dumps(fit, indent=1) + "\n")
        picture = plot("isoflop", partial(draw_isoflop, fit), 6, 3.8)
    else:
        picture = plot("series", partial(draw_series, rows), 8, 6)
    if picture:                                         # none without matplotlib
        atomic_write(args.csv.with_suffix(".svg"), picture)
    print(f"written beside {args.csv}")

if __name__ == "__main__":
    main(parser().parse_args())
