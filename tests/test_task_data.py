"""How sets of the hub reach the tasks: `datasets` against a hub on 127.0.0.1, its cache, and a folder."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import serving

ROOT = Path(__file__).parent.parent
CARD = """---
configs:
- config_name: main
  data_files:
  - {split: train, path: main/train-*}
  - {split: test, path: main/test-*}
---
"""
# Asks for sets as tasks do. Prints for each its first question or what is missing. After "gone" nobody
# listens where the hub was. Nobody waits: an answer that would have had to is not given.
CHILD = """if True:
    import json, sys, time
    waits = []
    time.sleep = waits.append
    import datasets, tasks.common
    from tasks import REGISTRY
    for name in sys.argv[1:]:
        if name == "gone":
            datasets.config.HF_ENDPOINT = "http://127.0.0.1:9"          # the discard port
            tasks.common.hub_rows.cache_clear()
            continue
        try:
            found = REGISTRY[name].questions("test", None, 0, None)
            told = waits or found[0]["conversation"]["messages"][0]["content"]
        except tasks.common.Missing as missing:
            told = f"missing: {missing}"
        print(json.dumps(told))
        waits.clear()
    """


def parquet(rows: list[dict]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


def ask(home: Path, *names: str, **environment: str) -> subprocess.Popen:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return subprocess.Popen([sys.executable, "-c", CHILD, *names], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env=inherited | {"HF_HOME": str(home)} | environment)


def told(child: subprocess.Popen) -> list[str]:
    """What the child said."""
    out, err = child.communicate()
    assert child.returncode == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    assert not any("\n" in text for text in lines), lines
    return lines


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What is told with a hub, after it has gone, and offline in another process."""
    home, rows = tmp_path_factory.mktemp("home"), [{
        "question": f"How much is 1 + {i}?", "answer": f"<<1+{i}={1 + i}>>{1 + i}\n#### {1 + i}"}
        for i in range(9)]
    files = {"README.md": CARD.encode(), "main/train-00000-of-00001.parquet": parquet(rows[1:]),
             "main/test-00000-of-00001.parquet": parquet(rows[:1])}
    with pytest.MonkeyPatch.context() as monkeypatch, serving(monkeypatch) as server:
        server.sets = {"openai/gsm8k": files, "cais/mmlu": files}
        endpoint = f"http://127.0.0.1:{server.server_port}"
        found = told(ask(home, "gsm8k", "mmlu", "arc-easy", "gone", "gsm8k", "arc-easy",
                         HF_ENDPOINT=endpoint))
    offline = told(ask(home, "gsm8k", "arc-easy", HF_HUB_OFFLINE="1", HF_ENDPOINT=endpoint))
    return {"hub": found[:3], "gone": found[3:], "offline": offline}


def test_a_set_comes_from_the_hub_and_then_from_the_cache_with_or_without_a_network(answers):
    assert [answers[where][0] for where in answers] == ["How much is 1 + 0?"] * 3


def test_what_the_hub_has_not_is_missing_in_one_line(answers):
    assert "cais/mmlu (all, test): BuilderConfig 'all' not found" in answers["hub"][1]
    assert "allenai/ai2_arc (ARC-Easy, test): " in answers["hub"][2] and "doesn't exist" in answers["hub"][2]


@pytest.mark.parametrize("where", ["gone", "offline"])
def test_without_a_hub_what_is_not_in_the_cache_is_missing(answers, where):
    assert "missing: allenai/ai2_arc (ARC-Easy, test): Couldn't reach" in answers[where][-1]
