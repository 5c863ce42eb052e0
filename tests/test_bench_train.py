"""dev/bench_train.py at toy size: what it prints, and how it goes through its cases."""

import json
import pytest
from dev import bench_train

TOY = ("--depth=1", "--head-dim=16", "--sequence-len=64", "--vocab-size=300", "--rows=2", "--rounds=2",
       "--steps=1", "--device=cpu", "--dtype=bfloat16")


@pytest.mark.parametrize("seconds, rows", [(0, 0), (300, 1)])
def test_cases_run_in_processes_of_their_own_and_late_ones_are_left_out(seconds, rows, capsys, monkeypatch):
    monkeypatch.setattr(bench_train, "GPU_SIZE", TOY)
    monkeypatch.setattr(bench_train, "GPU_CASES", (("--variants=eager",),))
    monkeypatch.setattr(bench_train, "SECONDS", seconds)
    bench_train.main(bench_train.parser().parse_args(["--device=cuda"]))
    out, err = capsys.readouterr()
    assert ("not within" in err) == (seconds == 0)
    records = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert len(records) == rows and all(record["tok_s"] > 0 and record["mfu"] is None for record in records)
    assert out.count("step_ms") == 3 * rows             # the record, its process's table, and the table last
    assert not rows or out.splitlines()[-1].split()[:3] == ["1", "eager", "2"]
