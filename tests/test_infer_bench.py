"""The benchmark of inference, at toy size, beside a checkout that only looks like the reference's."""

import json
import os
import subprocess
import sys

THEIRS = {
    "gpt.py": """
        import torch
        class GPTConfig:
            def __init__(self, *sizes): self.sizes = sizes
        class GPT(torch.nn.Module):
            def __init__(self, config):
                super().__init__()
                self.lm_head = torch.nn.Linear(4, config.sizes[1], bias=False)
            def init_weights(self): pass
        """,
    "engine.py": """
        import time
        class Engine:
            def __init__(self, model, names):
                assert names.get_bos_token_id() == names.encode_special("<|assistant_end|>") - 4
            def generate(self, prompt, count, tokens, temperature):
                for _ in range(tokens):
                    time.sleep(0.05)
                    yield [0] * count, [1] * count
        """,
}


def test_both_sides_are_measured_in_turns_in_processes_of_their_own(tmp_path):
    package = tmp_path / "nanochat"
    package.mkdir()
    (package / "__init__.py").touch()
    for name, text in THEIRS.items():
        (package / name).write_text(text.replace("\n        ", "\n"))
    flags = ["--depth=2", "--vocab-size=300", "--sequence-len=64", "--prompt-tokens=24", "--decode-tokens=6",
             "--rounds=1", "--batch-sizes=1,3", f"--reference={tmp_path}"]
    command = [sys.executable, "-m", "scripts.infer_bench", *flags]
    env = os.environ | {"NANOCHAT_DTYPE": "float32"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300, env=env)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["case"] for line in lines] == ["batch 1", "batch 3", "16 different"]
    for line, rows in zip(lines, (1, 3, 16)):
        assert line["n_layer"] == 2 and line["dtype"] == "float32" and 0 < line["share_of_bandwidth"]
        tokens = rows * 6                                       # all of them were drawn
        seconds = tokens / line["all_tok_s"]
        assert line["first_token_ms"] / 1e3 < seconds and line["decode_tok_s"] > 0
    for line, rows in zip(lines[:2], (1, 3)):
        assert 50 <= line["reference_inter_token_ms"] < 500
        assert line["reference_decode_tok_s"] <= rows / 0.05
        assert abs(line["times_decode"] * line["reference_decode_tok_s"] / line["decode_tok_s"] - 1) < 0.02
    assert "times_decode" not in lines[2]                       # the reference cannot do that
