"""The report card: what it reads, what it says of differences, and that its two files are sound."""

import csv
import json
import random
import re
import statistics
import sys
from collections import Counter
from html.parser import HTMLParser
from xml.etree import ElementTree
import pytest
from nanochat import report
from nanochat.evals import centred, wilson

PLAN = {"depth": 4, "n_embd": 256, "params_total": 6_000_000, "scaling_params": 4_000_000,
        "flops_per_token": 24_000_000, "batch_tokens": 4096, "num_iterations": 60}
MACHINE = {"args": {}, "git": "0123456789abcdef", "device": "some CPU", "world_size": 2, "dtype": "float32",
           "python": "3.12.1", "torch": "2.11.0"}


@pytest.fixture
def write(base_dir):
    """write(tag, stage, *records): append to a log, with seconds of its own where a record has none."""
    def append(tag, stage, *records):
        path = base_dir / (f"models/{tag}/{stage}.jsonl" if tag else f"tokenizer/{stage}.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a") as file:
            for index, record in enumerate(records):
                file.write(json.dumps({"stage": stage, "seconds": float(index), **record}) + "\n")
    return append


def begin(time=1000.0, **facts):
    return {"event": "begin", "time": time, **MACHINE, **facts}


def pretraining(steps=60, time=1000.0, dataset="some text"):
    records = [begin(time, plan=PLAN, resumed_at=0, dataset=dataset)]
    for step in range(1, steps + 1):
        records.append({"step": step, "loss": 8 / step, "lr": 1.0, "tokens_per_second": 500.0 + step})
        if step % 20 == 0:
            records.append({"step": step, "val_bpb": 2 - step / 100, "val_bpb_error": 0.01})
    return [*records, {"event": "end", "peak_memory": 3 * 2 ** 30}]


def judged(verdicts, chance=0.0):
    share, n = verdicts.count("1") / len(verdicts), len(verdicts)
    return {"accuracy": share, "standard_error": (share * (1 - share) / n) ** 0.5,
            "interval": wilson(share, n), "chance": chance, "questions": n, "verdicts": verdicts}


def core(verdicts, sha="aa", time=3000.0, chance=0.5):
    """A base_eval with a task for each of `verdicts`, and samples that would break a careless page."""
    tasks = [{"core_task": f"task_{index}", "type": "multiple_choice", "shots": 10, **judged(each, chance)}
             for index, each in enumerate(verdicts)]
    for task in tasks:
        task["centred"] = (task["accuracy"] - chance) / (1 - chance)
    mean, error = centred(tasks)
    return [begin(time, model="tiny base 60", bundle="bundle"), *tasks,
            {"core": mean, "standard_error": error, "interval": [mean - 0.1, mean + 0.1], "tasks": len(tasks),
             "questions": 1, "bundle": "bundle", "bundle_sha256": sha, "max_per_task": None}]


def coins(seed, n=200, share=0.5):
    dice = random.Random(seed)
    return "".join("1" if dice.random() < share else "0" for _ in range(n))


def column(text, header):
    """first cell -> cell under the header, of a table in Markdown"""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()
             if "|" in line]
    at = next(index for index, line in enumerate(lines) if header in line)
    table = []
    for line in lines[at + 2:]:
        if len(line) != len(lines[at]):
            break
        table.append(line)
    return {line[0]: line[lines[at].index(header)] for line in table}


def make_report(*tags):
    return report.markdown(report.blocks_of([report.Run(tag) for tag in tags]))


def run_main(*flags):
    report.main(report.parser().parse_args(list(flags)))


# Differences

@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_a_paired_interval_is_that_of_a_bootstrap_over_the_questions(share):
    dice = random.Random(1)
    a = coins(2, 1500, share)
    b = "".join(dice.choice("01") if dice.random() < 0.2 else verdict for verdict in a)
    gaps = [int(two) - int(one) for one, two in zip(a, b)]
    means = sorted(statistics.fmean(dice.choices(gaps, k=len(gaps))) for _ in range(2000))
    difference, half = report.paired(a, b)
    assert difference == pytest.approx(statistics.fmean(gaps))
    assert half == pytest.approx((means[1949] - means[49]) / 2, rel=0.06)


def test_of_few_questions_too_a_paired_interval_misses_in_one_case_of_twenty_at_most():
    dice, missed = random.Random(3), 0
    for _ in range(2000):                               # b is right 10% more often; they disagree on 30%
        pairs = dice.choices(["00", "11", "01", "10"], weights=[40, 30, 20, 10], k=25)
        difference, half = report.paired(*map("".join, zip(*pairs)))
        missed += abs(difference - 0.1) > half
    assert missed / 2000 < 0.055


def test_two_that_agree_on_everything_differ_by_zero_but_not_for_certain():
    difference, half = report.paired(coins(4, 100), coins(4, 100))
    assert difference == 0 and 0.005 < half < 0.05
    assert report.paired("0", "1")[1] > 1               # one question shows nothing


def test_a_difference_in_bits_per_byte_is_that_of_a_bootstrap_over_the_buckets():
    dice = random.Random(5)
    size = [dice.randint(50, 3000) for _ in range(63)] + [0]
    bits = [n * dice.gauss(1.0, 0.1) for n in size]
    more = [each + n * dice.gauss(0.02, 0.03) for each, n in zip(bits, size)]
    a, b = ({"bits": each, "bytes": size} for each in (bits, more))
    difference, half = report.paired_bpb(a, b)
    assert difference == pytest.approx((sum(more) - sum(bits)) / sum(size))
    draws = [dice.choices(range(63), k=63) for _ in range(4000)]
    means = sorted(sum(more[i] - bits[i] for i in draw) / sum(size[i] for i in draw) for draw in draws)
    assert half == pytest.approx((means[3899] - means[99]) / 2, rel=0.08)


def test_several_runs_are_compared_on_equal_questions_and_text_alone(write):
    size = list(range(100, 164))
    for tag, gain, sha, order in (("one", 0.0, "aa", 1), ("two", 0.1, "aa", 1), ("three", 0.1, "bb", -1)):
        verdicts = [coins(index, share=0.5 + gain) for index in range(3)]       # the same draws, shifted
        buckets = {"bits": [n * (1 - gain) for n in size], "bytes": size[::order]}
        write(tag, "base_eval", *core(verdicts, sha), {
            "split": "val", "bpb": 1 - gain, "bpb_error": 0.01, "buckets": buckets})
        write(tag, "eval", begin(4000.0), {"task": "sums", "model_stage": "sft", **judged(coins(9, 50))},
              {"task": "words", "model_stage": "sft", **judged(coins(9, 50 if tag == "one" else 60))})
    text = make_report("one", "two", "three")
    second, third = text.split("## two minus one")[1].split("## three minus one")
    verdicts = column(second, "verdict")
    assert verdicts == {"bits per byte": "two is better", "CORE": "two is better", "task_0": "two is better",
                        "task_1": "two is better", "task_2": "two is better",
                        "sums sft": "no difference beyond noise"}
    one, two = (report.Run(tag) for tag in ("one", "two"))
    gap, half = report.differences(one, two)[1][3:]
    assert gap == pytest.approx(two.core["core"] - one.core["core"])
    halves = [report.paired(one.core_tasks[name]["verdicts"], two.core_tasks[name]["verdicts"])[1]
              for name in one.core_tasks]
    assert half == pytest.approx(sum((2 * each) ** 2 for each in halves) ** 0.5 / 3)
    assert column(third, "verdict") == {"sums sft": "no difference beyond noise"}


# What is read

def test_the_sessions_of_a_resumed_run_count_as_one(write):
    """Killed after 40 steps, resumed at 20: steps 21 to 40 of the first session are lost, not its time."""
    write("tiny", "base", *pretraining(60, 500.0))                          # another run, before
    write("tiny", "base", *pretraining(40)[:-1])
    lost = report.Run("tiny").logs["base"][-1]["seconds"]
    write("tiny", "base", begin(2000.0, plan=PLAN, resumed_at=20),
          *({"step": step, "loss": 1.0, "tokens_per_second": 9.0} for step in range(21, 31)))
    run = report.Run("tiny")
    steps = report.having(run.logs["base"], "loss")
    assert [record["step"] for record in steps] == list(range(1, 31))
    assert [record["loss"] for record in steps[19:21]] == [8 / 20, 1.0]
    assert run.logs["base"][-1]["seconds"] == lost + 10
    row = report.stage_row(run, "base", dollars=36.0)
    assert row["steps"] == "30" and row["minutes"] == f"{(lost + 10) / 60:.1f}"
    assert row["dollars"] == f"{(lost + 10) / 100:.2f}" and row["tokens"] == "122,880"


def test_the_time_of_all_stages_is_summed_and_results_of_an_older_model_do_not_count(write):
    write("tiny", "eval", begin(500.0), {"task": "sums", "model_stage": "base", **judged(coins(1))})
    write("tiny", "base", *pretraining())
    for time, seconds in ((2000.0, 60.0), (3000.0, 30.0)):
        write("tiny", "eval", begin(time), {"task": "words", "model_stage": "base", **judged(coins(2)),
                                            "seconds": seconds})
    write("", "tok_train", {"vocab_size": 512, "mb_per_second": 9.0, "seconds": 120.0})
    text = make_report("tiny")
    minutes = column(text, "minutes")
    assert minutes == {"tokenizer": "2.0", "base": "1.1", "eval": "1.5"}
    assert column(text, "guessing").keys() == {"words"} and "4.6 minutes" in text


def test_a_run_in_progress_has_a_report_at_every_moment(write, base_dir):
    for records in ([begin(plan=PLAN, resumed_at=0)], pretraining(1)[1:2], pretraining(30)[2:32]):
        write("tiny", "base", *records)
        run_main("--model-tag=tiny", "--csv", str(base_dir / "runs.csv"))
    assert column((base_dir / "models/tiny/report.md").read_text(), "steps") == {"base": "30"}
    write("tiny", "base_eval", *core([coins(0)])[:2])                       # CORE is on its way
    assert "task_0" in make_report("tiny")


def test_a_folder_without_logs_dies_with_one_line(write, capsys):
    write("there", "base", *pretraining(1))
    with pytest.raises(SystemExit) as stopped:
        run_main("--model-tag=absent")
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and "absent has no run logs" in error and "--model-tag" in error


def test_a_foreign_model_that_was_only_evaluated_has_a_report(write):
    write("org--foreign", "base_eval", *core([coins(index) for index in range(22)]))
    text = make_report("org--foreign")
    assert re.search(r"\| CORE +\| -?0\.\d{4} ± 0\.\d{4} of bundle, 22 tasks", text)
    assert "GPT-2 1.6B 0.256525" in text
    write("org--foreign", "base_eval", *core([coins(0)], time=4000.0))      # the newest counts
    assert re.search(r"\| CORE +\| .* of bundle, 1 tasks", make_report("org--foreign"))


def test_an_accuracy_stands_with_its_interval_below_the_stage_that_it_is_of(write):
    write("tiny", "eval", {"task": "sums", "model_stage": "sft", **judged("1111100000")})
    assert column(make_report("tiny"), "sft") == {"sums": "50.0% [23.7, 76.3]"}
    assert "| base" not in make_report("tiny")          # a column of nothing is left out


def test_the_tokenizers_are_compared_sample_by_sample(write):
    write("tiny", "base", *pretraining(1))
    write("", "tok_eval", {"tokenizer": "ours", "vocab_size": 512, "bytes_per_token": {"prose": 2.5}},
          {"tokenizer": "gpt2", "vocab_size": 50257, "bytes_per_token": {"prose": 4.25}},
          {"tokenizer": "ours", "hash": "x", "encode_mb_per_second": 9})
    text = make_report("tiny")
    headers = ("ours, 512 tokens", "gpt2, 50,257 tokens")
    assert [column(text, name)["prose"] for name in headers] == ["2.50", "4.25"]


def test_a_csv_has_a_row_per_model_and_empty_cells_for_what_is_unknown(write, tmp_path):
    write("tiny", "base", *pretraining())
    write("other", "base_eval", *core([coins(0)]))
    run_main("--model-tag", "tiny", "other", f"--csv={tmp_path / 'runs.csv'}", f"--out={tmp_path / 'out'}")
    tiny, other = csv.DictReader((tmp_path / "runs.csv").open())
    assert tiny == {
        "tag": "tiny", "depth": "4", "n_embd": "256", "params_total": "6000000", "scaling_params": "4000000",
        "flops_per_token": "24000000", "batch_tokens": "4096", "steps": "60", "tokens": str(60 * 4096),
        "flops": str(60 * 4096 * 24_000_000), "hours": str(64 / 3600), "tokens_per_second": "530.5",
        "loss": str(8 / 60), "val_bpb": "1.4", "val_bpb_error": "0.01", "core": "", "core_error": ""}
    known = {key for key, value in other.items() if value}
    assert known == {"tag", "core", "core_error"} and (tmp_path / "out/report.html").exists()


# The two files

class Reader(HTMLParser):
    """Tags, ids, what is referred to."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.asked = Counter(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "xlink:href", "src"):
                self.asked.append(value)
            self.asked += re.findall(r"url\((.*?)\)", value or "")


HOSTILE = '<script src="https://x.org/y.js">alert(1)</script> a|b\n\n```\n# title\n<img src=x>\r\n| --- |$x$'


@pytest.fixture
def hostile(write, base_dir):
    """A model and its pages, with markup wherever logs have text."""
    write("tiny", "base", *pretraining(dataset=HOSTILE), {"samples": [HOSTILE, ""]})
    started, *tasks, _ = core([coins(0), coins(1)])
    tasks = [{**task, "core_task": HOSTILE + task["core_task"]} for task in tasks]
    write("tiny", "base_eval", started, *tasks)
    write("tiny", "eval", begin(2000.0), {"task": HOSTILE, "model_stage": "base", **judged(coins(1))})
    run_main("--model-tag=tiny", "--out", str(base_dir / "report"))
    return base_dir / "report"


def test_the_page_is_whole_in_itself_and_nothing_from_the_logs_is_markup(hostile):
    text = (hostile / "report.html").read_text()
    page = Reader(text)
    assert not {"script", "img", "link", "iframe"} & page.tags.keys() and page.tags["svg"] >= 4
    assert all(each.startswith("#") for each in page.asked) and "@import" not in text
    assert len(page.ids) == len(set(page.ids)) and {each[1:] for each in page.asked} <= set(page.ids)
    assert "<img" not in report.page("# a\n\n![b](https://x.org/c.png)", {})
    assert "alert(1)" in text and "#000000" not in text and "currentColor" in text


def test_markdown_tables_keep_their_columns_and_samples_are_code(hostile):
    text = (hostile / "report.md").read_text()
    assert "alert(1)" in text
    for block in text.split("\n\n"):
        lines = block.splitlines()
        if lines[0].startswith("|"):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1, block
        elif "alert" in block:
            assert all(line.startswith("    ") for line in lines)
    assert "<script" not in re.sub(r"(?m)^    .*$", "", text)


def test_plots_are_files_that_stand_alone_and_follow_light_and_dark(hostile):
    plots = sorted(hostile.glob("*.svg"))
    assert {path.stem for path in plots} >= {"base_loss", "base_val_bpb", "base_lr"}
    shown = re.findall(r"!\[.*?\]\((.*?)\)", (hostile / "report.md").read_text())
    assert {(hostile / each).resolve() for each in shown} == set(plots)
    for path in plots:
        svg = ElementTree.parse(path).getroot()
        assert "prefers-color-scheme:dark" in svg[0].text and path.stat().st_size < 60_000
        assert any(each.text for each in svg.iter("{http://www.w3.org/2000/svg}text"))


def test_without_matplotlib_the_report_says_so_and_has_its_tables(write, monkeypatch, base_dir):
    write("tiny", "base", *pretraining())
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    run_main("--model-tag=tiny")
    page = (base_dir / "models/tiny/report.html").read_text()
    assert "matplotlib is not installed" in page and "<svg" not in page and "<table" in page
