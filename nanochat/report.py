"""Run logs (JSONL) -> the report card of a model, as Markdown with plots beside it, and as one HTML page.

    python -m nanochat.report                                       # the model that was trained last
    python -m nanochat.report --model-tag=d12 --dollars-per-hour=24
    python -m nanochat.report --model-tag d12 d12-wide --csv=runs.csv       # compared; a row of a table each
"""
import argparse
import csv
import io
import math
import re
import time
from collections.abc import Callable, Iterable, Sequence
from html import escape
from importlib.util import find_spec
from pathlib import Path
from textwrap import indent
import numpy as np
from nanochat.checkpoint import find, read_state
from nanochat.common import RunLog, atomic_write, base_dir, die, new_parser
from nanochat.evals import Z, percent, ratio
from nanochat.stage import model_dir

TRAINING = ("base", "mid", "sft", "rl")
STAGES = ("base", "base_eval", "mid", "sft", "rl", "eval")

GPT2_CORE = 0.256525                                    # by which the GPT-2 grade is measured
TO_BEAT = (f"Published, on the 22 tasks of DCLM alone: GPT-2 1.6B {GPT2_CORE}, GPT-2 124M 0.113891, "
           "the reference's d20 of October 2025 0.2219.")

CURVES = ("base_loss", "base_val_bpb", "base_core", "base_lr", "base_tokens_per_second", "mid_loss",
          "sft_loss", "rl_reward", "rl_pass@1")         # stage and field
# Colours that read on white and on black, and apart to colour-blind eyes; with dashes, 20 looks.
LOOKS = ("cycler(linestyle=['-', '--', '-.', ':']) * "
         "cycler(color=['#2a7fc9', '#d55e00', '#0b9a72', '#b8609c', '#8f7a00'])")
STYLE = {"svg.fonttype": "none", "savefig.transparent": True, "axes.prop_cycle": LOOKS, "font.size": 9,
         "axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left",
         "axes.grid": True, "grid.color": "black", "grid.alpha": 0.15, "legend.frameon": False}
BLACK_OR_WHITE = ("<style>svg{color:#1f2328;fill:currentColor}"                 # in place of black
                  "@media(prefers-color-scheme:dark){svg{color:#e6edf3}}</style>")
HEAD = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><style>
:root { color-scheme: light dark }
body { max-width: 66rem; margin: auto; padding: 1rem; font: 15px/1.5 system-ui, sans-serif }
table { display: block; overflow-x: auto; border-collapse: collapse; margin: .8rem 0;
        font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #8885 }
th:first-child, td:first-child { text-align: left }
h1 + table * + * { min-width: 11rem; text-align: left; white-space: normal; overflow-wrap: anywhere }
p:has(svg) { display: grid; gap: 1.2rem;
             grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)) }
svg { width: 100%; height: auto }
pre { white-space: pre-wrap; overflow-wrap: anywhere }
</style>
"""

def read_log(path: Path, since: float = 0.0) -> list[dict]:
    """The last run of a stage as one session: `seconds` go on where it was resumed, steps lost then are left
    out. Of evaluations, all. Only what began at `since` or later, with when: `began`."""
    kept, began, before, total = [], since, 0.0, 0.0
    for record in RunLog(path).read():
        if record.get("event") == "begin":
            began, start = record["time"], record.get("resumed_at", math.inf)
            kept = [each for each in kept if each.get("step", 0) <= start] if start else []
            before = total if start else 0.0
        if began >= since:
            total = before + record["seconds"]
            kept.append(record | {"seconds": total, "began": began})
    return kept

def having(records: list[dict], key: str) -> list[dict]:
    """Those of a step with a finite number of that name."""
    return [record for record in records if "step" in record and math.isfinite(record.get(key, math.nan))]

def newest(records: list[dict], key: str) -> dict:
    return next((record for record in reversed(records) if key in record), {})

class Run:
    """The logs of a model by stage, but for what is older than its pretraining. Dies where there are none."""
    def __init__(self, tag: str):
        self.tag, folder = tag, model_dir(tag)
        base = read_log(folder / "base.jsonl")
        since = base[0]["began"] if base else 0.0
        logs = {name: read_log(folder / f"{name}.jsonl", since) for name in STAGES}
        if not any(logs.values()):
            die(f"{folder} has no run logs", hint="--model-tag names a folder beside it that has some")
        tokenizer = RunLog(base_dir() / "tokenizer" / "tok_train.jsonl").read()[-1:] if base else []
        self.logs = {"tokenizer": tokenizer, **logs}
        self.plan = newest(base, "plan").get("plan", {})
        evaluated = [record for record in logs["base_eval"] if record.get("model_stage") not in TRAINING[1:]]
        for record in evaluated:                                                # those of -i sft left out
            if record.get("split") == "val":                                    # named as in training
                record.update(val_bpb=record["bpb"], val_bpb_error=record.get("bpb_error"))
        began = newest(evaluated, "core_task").get("began")
        measured = [record for record in evaluated if record["began"] == began]
        self.core = newest(measured, "core")
        self.core_tasks = {record["core_task"]: record for record in measured if "core_task" in record}
        self.chat_tasks = {}                                                    # task -> stage -> record
        for record in logs["eval"]:
            if "model_stage" in record:
                self.chat_tasks.setdefault(record["task"], {})[record["model_stage"]] = record

    def work(self, stage: str) -> dict[str, float | None]:
        """What a stage did and took, all sessions of a resumed one together; None is not known."""
        records, bpb = self.logs[stage], newest(self.logs[stage], "val_bpb")
        last, begin = (having(records, "loss") or [{}])[-1], newest(records, "args")
        plan, steps = begin.get("plan") or begin, last.get("step", 0)
        tokens = 0 if stage == "rl" else steps * plan.get("batch_tokens", 0)    # rl draws as many as it needs
        speeds = [record["tokens_per_second"] for record in having(records, "tokens_per_second")]
        return {"steps": steps or None, "tokens": tokens or None,
                "flops": tokens * plan.get("flops_per_token", 0) or None,
                "hours": records[-1]["seconds"] / 3600 if records else None,
                "tokens_per_second": np.median(speeds) if speeds else None, "loss": last.get("loss"),
                "val_bpb": bpb.get("val_bpb"), "val_bpb_error": bpb.get("val_bpb_error")}

    def csv_row(self) -> dict:
        bpb = newest(self.logs["base_eval"] + self.logs["base"], "val_bpb")
        core = self.core or newest(self.logs["base"], "core")
        shape = ("depth", "n_embd", "params_total", "scaling_params", "flops_per_token", "batch_tokens")
        return {"tag": self.tag, **{key: self.plan.get(key) for key in shape}, **self.work("base"),
                **{key: bpb.get(key) for key in ("val_bpb", "val_bpb_error")},
                "core": core.get("core"), "core_error": core.get("standard_error")}

def paired(a: str, b: str) -> tuple[float, float]:
    """Share of right answers ("1") of b minus that of a to the same questions, and the half width of its 95%
    interval: of the differences, and one more each of +1 and -1 (Bonett and Price, 2012)."""
    pairs, n = list(zip(a, b, strict=True)), len(a) + 2
    better, worse = pairs.count(("0", "1")), pairs.count(("1", "0"))
    variance = (better + worse + 2) / n - ((better - worse) / n) ** 2
    return (better - worse) / len(a), Z * math.sqrt(variance / n)

def paired_bpb(a: dict, b: dict) -> tuple[float, float]:
    """Bits per byte of b minus those of a on the same text, and its half width; over buckets of documents."""
    sizes = np.array(a["bytes"])
    value, error = ratio(np.subtract(b["bits"], a["bits"])[sizes > 0], sizes[sizes > 0])
    return value, Z * error

def differences(a: Run, b: Run) -> list[tuple[str, float, float, float, float]]:
    """(what, of a, of b, difference, half width) of all that both did on the same text or questions."""
    found, one, two = [], *(newest(run.logs["base_eval"], "val_bpb") for run in (a, b))
    if one and two and one["buckets"]["bytes"] == two["buckets"]["bytes"]:
        found.append(("bits per byte", one["bpb"], two["bpb"], *paired_bpb(one["buckets"], two["buckets"])))
    same = a.core and a.core["bundle_sha256"] == b.core.get("bundle_sha256")
    ours, theirs = ((run.core_tasks if same else {}) | {
        f"{task} {stage}": record for task, stages in run.chat_tasks.items()
        for stage, record in stages.items()} for run in (a, b))
    gaps = {name: paired(each["verdicts"], theirs[name]["verdicts"]) for name, each in ours.items()
            if 0 < len(each.get("verdicts", "")) == len(theirs.get(name, {}).get("verdicts", ""))}
    if same and a.core_tasks.keys() <= gaps.keys():
        chances = np.array([task["chance"] for task in a.core_tasks.values()])
        gap, half = np.transpose([gaps[name] for name in a.core_tasks]) / (1 - chances) / len(chances)
        found.append(("CORE", a.core["core"], b.core["core"], gap.sum(), np.linalg.norm(half)))
    return found + [(name, ours[name]["accuracy"], theirs[name]["accuracy"], *gaps[name]) for name in gaps]

def difference_table(a: Run, b: Run) -> str:
    rows = []
    for name, one, two, gap, half in differences(a, b):
        better = b.tag if (gap > 0) != (name == "bits per byte") else a.tag
        rows.append({"": name, a.tag: f"{one:.4f}", b.tag: f"{two:.4f}",
                     "difference": f"{gap:+.4f} ± {half:.4f}",
                     "verdict": f"{better} is better" if abs(gap) > half else "no difference beyond noise"})
    return table(rows)

def section(title: str, content: str, *more: str) -> list[str]:
    """Content below a heading, and more; nothing where there is none."""
    return [f"## {plain(title)}", content, *filter(None, more)] if content else []

def plain(text: str) -> str:
    """One line of Markdown, and of HTML, in which nothing is markup."""
    return escape(" ".join(text.split()), quote=False).replace("|", "&#124;")

def table(rows: list[dict[str, str]]) -> str:
    """Rows of column -> cell as Markdown, aligned so that it reads well in a terminal, too. "-" is what is
    not known; a column of nothing else is left out."""
    columns = [name for name in rows[0] if any(row[name] != "-" for row in rows)] if rows else []
    text = [list(map(plain, line)) for line in (columns, *([row[name] for name in columns] for row in rows))]
    width = [max(map(len, column)) for column in zip(*text, strict=True)]
    text.insert(1, ["-" * each for each in width])
    return "\n".join(f"| {' | '.join(map(str.ljust, row, width))} |" for row in text if rows)

def show(value: float | None, form: str, error: float | None = None) -> str:
    """A number, and the half width of its 95% interval where the standard error is known."""
    return "-" if value is None else format(value, form) + (f" ± {format(Z * error, form)}" if error else "")

def summary(run: Run, dollars: float | None) -> dict[str, str]:
    plan, core, base, logs = run.plan, run.core, run.work("base"), [log for log in run.logs.values() if log]
    records = [record for log in logs for record in log]
    facts = {key: ", ".join(dict.fromkeys(str(record[key]) for record in records if record.get(key))) or "-"
             for key in ("dataset", "world_size", "device", "dtype", "torch", "python", "git")}
    shape = "depth {depth}, width {n_embd}, {params_total:,} parameters, {scaling_params:,} that scale"
    began = min(record["began"] for record in records if "began" in record)
    minutes = sum(log[-1]["seconds"] for log in logs) / 60
    return {
        "model": shape.format(**plan) if plan else "-", **facts,
        "began": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(began)),
        "pretraining": "{tokens:,} tokens, {flops:.3g} FLOPs".format(**base) if base["flops"] else "-",
        "CORE": "{core:.4f} ± {:.4f} of {bundle}, {tasks} tasks".format(
            Z * core["standard_error"], **core) if core else "-",
        "wall time": f"{minutes:,.1f} minutes" + (f", ${dollars * minutes / 60:,.2f}" if dollars else ""),
    }

def stage_row(run: Run, name: str, dollars: float | None) -> dict[str, str]:
    work = run.work(name)
    peak = max(record.get("peak_memory", 0) for record in run.logs[name]) / 2 ** 30
    return {
        "stage": name, "steps": show(work["steps"], ",d"), "tokens": show(work["tokens"], ",d"),
        "loss": show(work["loss"], ".3f"), "bits/byte": show(work["val_bpb"], ".4f", work["val_bpb_error"]),
        "tok/s": show(work["tokens_per_second"], ",.0f"), "minutes": f"{60 * work['hours']:.1f}",
        "peak GiB": show(peak or None, ".2f"), "dollars": show(dollars and dollars * work["hours"], ",.2f"),
    }

def task_table(tasks: dict[str, dict[str, dict]], labels: Sequence[str]) -> str:
    """A line per task, with its record of each label that has one."""
    rows = []
    for task, found in tasks.items():
        *_, one = found.values()
        row = {"task": task} | {label: percent(found[label]) if label in found else "-" for label in labels}
        row |= {f"{label}, centred": show(found.get(label, {}).get("centred"), ".3f") for label in labels}
        rows.append(row | {"guessing": f"{100 * one['chance']:.0f}%", "shots": show(one.get("shots"), "d"),
                           "questions": f"{one['questions']:,}"})
    return table(rows)

def tokenizer_table() -> str:
    log = RunLog(base_dir() / "tokenizer" / "tok_eval.jsonl").read()
    found = {record["tokenizer"]: record for record in log if "bytes_per_token" in record}
    sizes = {f"{name}, {one['vocab_size']:,} tokens": one["bytes_per_token"] for name, one in found.items()}
    return table([{"bytes per token": kind} | {name: f"{each[kind]:.2f}" for name, each in sizes.items()}
                  for kind in next(iter(sizes.values()), ())])

def plot(name: str, draw: Callable, width: float = 5.2, height: float = 2.7) -> str:
    """SVG of what draw(figure) draws, to be read on light and on dark, alone and in a page, where its `name`
    keeps its ids apart from others'. Sizes are in inches. Nothing without matplotlib."""
    if not find_spec("matplotlib"):
        return ""
    import matplotlib
    from matplotlib.figure import Figure
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}):
        figure = Figure((width, height), layout="constrained")
        draw(figure)
        figure.savefig(buffer := io.StringIO(), format="svg",
                       metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = buffer.getvalue().replace("#000000", "currentColor")
    svg = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\1{name}-", svg[svg.index("<svg"):])
    return svg.replace(">", f">{BLACK_OR_WHITE}", 1)

def curve(runs: Sequence[Run], stage: str, key: str) -> str:
    """A plot of what was logged at several steps: a line per run with its 95% band, through the means of 50
    groups of steps where there are more."""
    found = {run.tag: records for run in runs if (records := having(run.logs[stage], key))}
    def draw(figure):
        axes = figure.subplots(subplot_kw={"title": f"{stage} {key}", "xlabel": "step"})
        for tag, records in found.items():
            shown = records[len(records) // 20:] if key == "loss" else records      # the first are far above
            points = [(each["step"], each[key], Z * (each.get(f"{key}_error") or 0)) for each in shown]
            groups = np.array_split(points, min(len(points), 50))
            x, y, half = np.transpose([group.mean(axis=0) for group in groups])
            (line,) = axes.plot(x, y, marker="o" if len(x) <= 30 else "", label=tag)
            axes.fill_between(x, y - half, y + half, color=line.get_color(), alpha=0.18, linewidth=0)
        if len(axes.lines) > 1:
            figure.legend(loc="outside right upper")
    return plot(f"{stage}_{key}", draw) if max(map(len, found.values()), default=0) > 1 else ""

def blocks_of(runs: Sequence[Run], dollars: float | None = None, plots: Iterable[str] = ()) -> list[str]:
    """The report, with the plots of these names; of several runs the others against the first, too."""
    facts = {run.tag: summary(run, dollars) for run in runs}
    about = [{"": key, **{tag: each[key] for tag, each in facts.items()}} for key in facts[runs[0].tag]]
    stages = [stage_row(run, name, dollars) | ({"stage": f"{run.tag} {name}"} if len(runs) > 1 else {})
              for run in runs for name, log in run.logs.items() if log]
    missing = "" if find_spec("matplotlib") else " No plots: matplotlib is not installed."
    note = f"What follows ±, or stands in brackets, is a 95% interval.{missing}"
    shown = "\n".join(f"![{name}](./{name}.svg)" for name in plots)
    blocks = [f"# {plain(', '.join(facts))}", table(about), *section("Stages", table(stages), note, shown)]
    tasks = {name: {run.tag: run.core_tasks[name] for run in runs if name in run.core_tasks}
             for run in runs for name in run.core_tasks}
    blocks += section("CORE", task_table(tasks, list(facts)), TO_BEAT)
    for run in runs:
        blocks += section(f"Chat tasks, {run.tag}", task_table(run.chat_tasks, TRAINING))
        samples = newest(run.logs["base_eval"], "samples") or newest(run.logs["base"], "samples")
        text = "\n".join(f"> {each.strip()}".replace("\n", "\n  ") for each in samples.get("samples", []))
        blocks += section(f"What {run.tag} writes", indent(text, "    ", lambda line: True))    # as code
    note = "With paired 95% intervals; of twenty that are equal, one seems not to be."
    for run in runs[1:]:
        title = f"{run.tag} minus {runs[0].tag}, on the same text and questions"
        blocks += section(title, difference_table(runs[0], run), note)
    return blocks + section("Tokenizer", tokenizer_table())

def markdown(blocks: list[str]) -> str:
    return "\n\n".join(blocks) + "\n"

def page(text: str, plots: dict[str, str]) -> str:
    """The report as HTML with its plots in it; it asks for nothing from elsewhere."""
    from markdown_it import MarkdownIt
    html = MarkdownIt("zero").enable(["heading", "table", "code", "entity"]).render(text)
    html = re.sub(r"!\[(\w+)\]\(\./\1\.svg\)", lambda found: plots.get(found[1], found[0]), html)
    return f"{HEAD}<title>{text.splitlines()[0].strip('# ')}</title>\n{html}"

def parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("--model-tag", nargs="+", help="models, compared with the first (default: the one trained last)")
    add("--dollars-per-hour", type=float, help="price of the machine, for the cost of each stage")
    add("--out", type=Path, help="folder for report.md, plots, report.html (default: the first model's)")
    add("--csv", type=Path, help="file for a table with a row per model, too")
    return parser

def main(args: argparse.Namespace) -> None:
    runs = [Run(tag) for tag in dict.fromkeys(args.model_tag or [read_state(find())["tag"]])]
    plots = {name.replace("@", ""): svg for name in CURVES if (svg := curve(runs, *name.split("_", 1)))}
    folder, text = args.out or model_dir(runs[0].tag), markdown(blocks_of(runs, args.dollars_per_hour, plots))
    files = {folder / "report.md": text, folder / "report.html": page(text, plots)}
    files |= {folder / f"{name}.svg": svg for name, svg in plots.items()}
    if args.csv:
        rows, buffer = [run.csv_row() for run in runs], io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows([rows[0], *(row.values() for row in rows)])
        files[args.csv] = buffer.getvalue()
    for path, content in files.items():
        atomic_write(path, content)
    print(re.sub(r"(?m)^!.*\n", "", text))
    print(f"written to {folder}" + (f" and {args.csv}" if args.csv else ""))

if __name__ == "__main__":
    main(parser().parse_args())
