"""What a sweep found: a table, and a plot beside the CSV that `nanochat.report --csv` wrote of its models.

    python -m dev.sweep miniseries.csv                          # CORE, bits per byte: against FLOPs, hours
    python -m dev.sweep scaling_laws.csv --budgets 1e18 1e19    # the best size for each budget of FLOPs

The second is an IsoFLOP fit (arXiv 2203.15556, approach 2), kept as .json: the models of a budget C make a
parabola of bits per byte in log N, its minimum is the best N and D, and from those follow N ~ C^a, D ~ C^b. A
minimum outside of the sizes that were trained is no measurement: it is named and left out."""

# C training FLOPs, N scaling parameters, D training tokens

import argparse
import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nanochat.common import atomic_write, die, new_parser

GPT2_CORE = 0.256525                                    # published, for the published bundle
COLOURS = ("#4184d8", "#c8702a", "#2f9c6b", "#b05fae", "#9a8a1f", "#c9524f")    # read on white and on black
GREY = "#7c8087"
STYLE = {"axes.grid": True, "grid.alpha": 0.3, "legend.frameon": False, "font.size": 9,
         "savefig.transparent": True} | dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor",
                                                       "xtick.color", "ytick.color", "grid.color"), GREY)


def read(path: Path) -> list[dict]:
    """The models of a CSV whose FLOPs and bits per byte are known, smallest first. NaN is not known."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [{key: text if key == "tag" else float(text or "nan") for key, text in row.items()}
                    for row in csv.DictReader(file)]
    except OSError as error:
        die(f"{path} cannot be read: {error.strerror}", hint="nanochat.report --csv writes it")
    known = [row for row in rows if math.isfinite(row["flops"] * row["val_bpb"])]
    if len(known) < len(rows):
        print(f"left out, not finished: {', '.join(row['tag'] for row in rows if row not in known)}")
    return sorted(known, key=lambda row: row["scaling_params"])


def minimum(x: Sequence[float], y: Sequence[float]) -> tuple[float, list[float]] | None:
    """Where the parabola nearest to the points is lowest, if within them, and its coefficients."""
    if len(set(x)) < 3:
        return None
    bend, slope, level = np.polyfit(x, y, 2).tolist()
    at = -slope / (2 * bend) if bend > 0 else math.nan
    return (at, [bend, slope, level]) if min(x) <= at <= max(x) else None


def power_law(x: Sequence[float], y: Sequence[float]) -> dict | None:
    """y = factor * x^exponent by least squares in logs; the standard error where there are three points."""
    if len(set(x)) < 2:
        return None
    u, v = np.log(x), np.log(y)
    exponent, level = np.polyfit(u, v, 1).tolist()
    error = math.sqrt(np.polyfit(u, v, 1, cov=True)[1][0, 0]) if len(u) > 2 else None
    return {"exponent": exponent, "error": error, "factor": math.exp(level)}


def isoflop(rows: Sequence[dict], budgets: Sequence[float]) -> dict:
    """The models of each budget, those whose FLOPs are nearest to it, with its best N and D; the two laws."""
    found = {C: {"C": C, "N": [], "D": [], "bpb": [], "best": None} for C in sorted(budgets)}
    for row in rows:
        mine = found[min(found, key=lambda C: abs(math.log(row["flops"] / C)))]
        for key, column in (("N", "scaling_params"), ("D", "tokens"), ("bpb", "val_bpb")):
            mine[key].append(row[column])
    for each in found.values():
        log_n, log_d = np.log(each["N"]), np.log(each["D"])
        if lowest := minimum(log_n, each["bpb"]):
            at, parabola = lowest
            each["best"] = {"N": math.exp(at), "D": math.exp(np.interp(at, log_n, log_d)),
                            "bpb": float(np.polyval(parabola, at)), "parabola": parabola}
    inside = [each for each in found.values() if each["best"]]
    laws = {letter: power_law([each["C"] for each in inside], [each["best"][letter] for each in inside])
            for letter in "ND"}
    return {"budgets": list(found.values()), "laws": laws}


def tell(fit: dict) -> None:
    for each in fit["budgets"]:
        best = each["best"]
        print(f"C = {each['C']:.3g}, {len(each['N'])} models: " + (
            f"N = {best['N']:.3g}, D = {best['D']:.3g}, {best['D'] / best['N']:.1f} tokens per parameter, "
            f"{best['bpb']:.4f} bits per byte" if best else
            "no minimum between the sizes that were trained, left out"))
    for letter, law in fit["laws"].items():
        error = f" ± {law['error']:.3f} (standard error)" if law and law["error"] is not None else ""
        print(f"{letter} = {law['factor']:.3g} x C^{law['exponent']:.3f}{error}" if law else
              f"no law for {letter}: it takes two budgets with a minimum")


def draw_isoflop(fit: dict, figure) -> None:
    profiles, growth = figure.subplots(1, 2)
    for index, each in enumerate(fit["budgets"]):
        look, best = {"color": COLOURS[index % len(COLOURS)]}, each["best"]
        profiles.plot(each["N"], each["bpb"], "o", label=f"{each['C']:.3g} FLOPs", **look)
        if best:
            N = np.geomspace(each["N"][0], each["N"][-1])
            profiles.plot(N, np.polyval(best["parabola"], np.log(N)), **look)
            profiles.plot(best["N"], best["bpb"], "*", markersize=12, **look)
            growth.plot([each["C"]] * 2, [best["N"], best["D"]], "*", markersize=12, **look)
    C = np.array([each["C"] for each in fit["budgets"]])
    for letter, line in zip("ND", (":", "--"), strict=True):
        if law := fit["laws"][letter]:
            growth.plot(C, law["factor"] * C ** law["exponent"], line, color=GREY,
                        label=f"{letter} ~ C^{law['exponent']:.3f}")
            growth.legend()
    profiles.legend()
    profiles.set(xscale="log", xlabel="scaling parameters N", ylabel="validation bits per byte")
    profiles.set_xticks(N := fit["budgets"][0]["N"][::2], [f"{n:.2g}" for n in N])
    profiles.minorticks_off()
    growth.set(xscale="log", yscale="log", xlabel="training FLOPs C", ylabel="best N and tokens D")


def draw_series(rows: list[dict], figure) -> None:
    for line, key, label in zip(figure.subplots(2, 2, sharex="col", sharey="row"), ("core", "val_bpb"),
                                ("CORE", "validation bits per byte"), strict=True):
        for axes, against, unit in zip(line, ("flops", "hours"), ("training FLOPs", "hours"), strict=True):
            for row in (row for row in rows if math.isfinite(row[key])):
                error = 1.96 * np.nan_to_num(row[f"{key}_error"])
                axes.errorbar(row[against], row[key], error, marker="o", capsize=3, color=COLOURS[0])
                axes.annotate(f"d{row['depth']:.0f}", (row[against], row[key]), xytext=(6, 4),
                              textcoords="offset points")
            axes.set(xscale="log", xlabel=unit, ylabel=label)
            if key == "core":
                axes.axhline(GPT2_CORE, linestyle="--", color=COLOURS[1], label="GPT-2 1.6B")
                axes.legend()


def parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    parser.add_argument("csv", type=Path, help="from nanochat.report --csv")
    parser.add_argument("--budgets", type=float, nargs="+", metavar="C", help="fit the best size for each")
    return parser


def main(args: argparse.Namespace) -> None:
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    rows = read(args.csv)
    fit = isoflop(rows, args.budgets) if args.budgets else None
    with rc_context(STYLE):
        figure = Figure(figsize=(9, 3.8) if fit else (8, 6), layout="constrained")
        draw_isoflop(fit, figure) if fit else draw_series(rows, figure)
        figure.savefig(args.csv.with_suffix(".svg"))
    if fit:
        tell(fit)
        atomic_write(args.csv.with_suffix(".json"), json.dumps(fit, indent=1) + "\n")
    for row in () if fit else rows:
        print(f"{row['tag']:>12}  {row['flops']:.3g} FLOPs, {row['hours']:.3f} hours, "
              f"{row['val_bpb']:.4f} bits per byte, CORE {row['core']:.4f}")
    print(f"written beside {args.csv}")


if __name__ == "__main__":
    main(parser().parse_args())
