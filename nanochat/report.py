"""
The run logs of a model -> one table: what every stage did, how long it took, how good the model is. Reads JSONL only.

    python -m nanochat.report                           # of the model that was trained last
"""

import argparse
from pathlib import Path

from nanochat.checkpoint import find
from nanochat.common import RunLog, atomic_write, base_dir
from nanochat.stage import model_dir

TRAINING = ("base", "mid", "sft", "rl")


def last_run(path: Path) -> list[dict]:
    """The records of a log since its last "begin" of a run from scratch: a resumed run continues the one before."""
    records = RunLog(path).read()
    begins = [i for i, record in enumerate(records) if record.get("event") == "begin" and not record.get("resumed_at")]
    return records[begins[-1]:] if begins else records


def training_row(name: str, records: list[dict]) -> dict[str, str]:
    """One line of the stage table."""
    steps = [record for record in records if "loss" in record]
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
    """A line a task, a column a stage; the newest result of each counts."""
    results = {(record["task"], record["source"]): record for record in records if "task" in record}
    stages = [stage for stage in TRAINING if any(source == stage for _, source in results)]
    rows = []
    for task in dict.fromkeys(task for task, _ in results):
        row = {"task": task}
        for stage in stages:
            record = results.get((task, stage))
            row[stage] = f"{100 * record['accuracy']:.1f}% +- {100 * record['standard_error']:.1f}" if record else "-"
            row["guessing"] = f"{100 * record['chance']:.0f}%" if record else row.get("guessing", "-")
        rows.append({**row, "guessing": row.pop("guessing")})
    return rows


def table(rows: list[dict[str, str]]) -> str:
    """Markdown, aligned so that it reads well in a terminal too."""
    if not rows:
        return ""
    columns = list(rows[0])
    width = {column: max(len(column), *(len(row[column]) for row in rows)) for column in columns}
    line = lambda cells: "| " + " | ".join(cell.ljust(width[column]) for column, cell in zip(columns, cells)) + " |"
    rule = "|" + "|".join("-" * (width[column] + 2) for column in columns) + "|"
    return "\n".join([line(columns), rule, *(line(row.values()) for row in rows)])


def make_report(tag: str) -> str:
    """The report of a model as Markdown."""
    folder = model_dir(tag)
    trainings = {name: last_run(folder / f"{name}.jsonl") for name in TRAINING if (folder / f"{name}.jsonl").exists()}
    rows = [training_row(name, records) for name, records in trainings.items() if any("loss" in r for r in records)]
    tokenizer = RunLog(base_dir() / "tokenizer" / "tok_train.jsonl").read()
    lines = [f"# {tag}", ""]
    if tokenizer:
        lines += [f"Tokenizer: {tokenizer[-1]['vocab_size']:,} tokens, trained at {tokenizer[-1]['mb_per_second']} MB/s.", ""]
    tasks = task_rows(RunLog(folder / "eval.jsonl").read())
    return "\n".join([*lines, table(rows), "", table(tasks), ""])


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-tag", help="model (default: the one trained last)")
    return parser


def main(args: argparse.Namespace) -> None:
    tag = args.model_tag or find().parent.parent.name
    report = make_report(tag)
    path = model_dir(tag) / "report.md"
    atomic_write(path, report)
    print(report)
    print(f"written to {path}")


if __name__ == "__main__":
    main(parser().parse_args())
