"""
The run logs of a model -> two tables: what every stage did and how long it took; how good the model is.

    python -m nanochat.report                           # of the model that was trained last
"""

import argparse
from pathlib import Path

from nanochat.checkpoint import find, read_state
from nanochat.common import RunLog, atomic_write, base_dir, new_parser
from nanochat.stage import model_dir

TRAINING = ("base", "mid", "sft", "rl")


def last_run(path: Path) -> list[dict]:
    """The records since the last "begin" of a run from scratch: a resumed run continues the one before."""
    records = RunLog(path).read()
    begins = [index for index, record in enumerate(records)
              if record.get("event") == "begin" and not record.get("resumed_at")]
    return records[begins[-1]:] if begins else records


def steps_of(records: list[dict]) -> list[dict]:
    return [record for record in records if "loss" in record]


def training_row(name: str, records: list[dict]) -> dict[str, str]:
    """One line of the stage table, of a run with at least one step."""
    steps = steps_of(records)
    ends = [record for record in records if record.get("event") == "end"]
    bpb = [record["val_bpb"] for record in records if "val_bpb" in record]
    speeds = sorted(record["tokens_per_second"] for record in steps)
    return {
        "stage": name,
        "steps": f"{steps[-1]['step']:,}",
        "loss": f"{steps[-1]['loss']:.3f}",
        "bits/byte": f"{bpb[-1]:.4f}" if bpb else "-",
        "tok/s": f"{speeds[len(speeds) // 2]:,.0f}",
        "minutes": f"{sum(end['seconds'] for end in ends) / 60:.1f}" if ends else "-",
        "peak GiB": f"{max(end['peak_memory'] for end in ends) / 2**30:.2f}" if ends else "-",
    }


def task_rows(records: list[dict]) -> list[dict[str, str]]:
    """A line per task, a column per stage of the model; the newest result of each counts."""
    results: dict[str, dict[str, dict]] = {}            # task -> stage of the model -> record
    for record in records:
        if "model_stage" in record:                     # a result
            results.setdefault(record["task"], {})[record["model_stage"]] = record
    stages = [stage for stage in TRAINING if any(stage in by_stage for by_stage in results.values())]
    rows = []
    for task, by_stage in results.items():
        newest = list(by_stage.values())[-1]
        row = {stage: accuracy_cell(by_stage.get(stage)) for stage in stages}
        rows.append({"task": task, **row, "guessing": f"{100 * newest['chance']:.0f}%"})
    return rows


def accuracy_cell(record: dict | None) -> str:
    if record is None:
        return "-"
    low, high = record.get("interval") or [record["accuracy"] + sign * 1.96 * record["standard_error"]
                                           for sign in (-1, 1)]     # older logs have the error alone
    return f"{100 * record['accuracy']:.1f}% [{100 * low:.1f}, {100 * high:.1f}]"


def table(rows: list[dict[str, str]]) -> str:
    """Markdown, aligned so that it reads well in a terminal too."""
    if not rows:
        return ""
    columns = list(rows[0])
    width = {column: max(len(column), *(len(row[column]) for row in rows)) for column in columns}

    def line(row: dict[str, str]) -> str:
        return "| " + " | ".join(row[column].ljust(width[column]) for column in columns) + " |"

    rule = line(dict.fromkeys(columns, "")).replace(" ", "-")
    return "\n".join([line(dict(zip(columns, columns, strict=True))), rule, *map(line, rows)])


def make_report(tag: str) -> str:
    """The report of a model as Markdown."""
    folder = model_dir(tag)
    runs = {name: last_run(folder / f"{name}.jsonl") for name in TRAINING}
    trained = [training_row(name, records) for name, records in runs.items() if steps_of(records)]
    judged = task_rows(RunLog(folder / "eval.jsonl").read())
    return "\n".join([f"# {tag}", "", *tokenizer_lines(), table(trained), "", table(judged), ""])


def tokenizer_lines() -> list[str]:
    records = RunLog(base_dir() / "tokenizer" / "tok_train.jsonl").read()
    if not records:
        return []
    newest = records[-1]
    return [f"Tokenizer: {newest['vocab_size']:,} tokens, trained at {newest['mb_per_second']} MB/s.", ""]


def parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    parser.add_argument("--model-tag", help="model (default: the one trained last)")
    return parser


def main(args: argparse.Namespace) -> None:
    tag = args.model_tag or read_state(find())["tag"]
    report = make_report(tag)
    path = model_dir(tag) / "report.md"
    atomic_write(path, report)
    print(report)
    print(f"written to {path}")


if __name__ == "__main__":
    main(parser().parse_args())
