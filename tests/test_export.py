"""What is exported to transformers is the same model, or nothing is published."""

import json
import re
import subprocess
import sys
from argparse import Namespace
from functools import partial
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_core_eval import random_tasks, write_bundle
from nanochat import checkpoint, export
from nanochat.chat import check_conversation, render_conversation, render_prompt
from nanochat.dist import World
from nanochat.gpt import GPT
from nanochat.scaling import Shape
from nanochat.stage import Stage
from nanochat.tokenizer import SPECIAL_TOKENS, Tokenizer

transformers = pytest.importorskip("transformers", reason="uv sync brings it: the export")

VOCAB = 420
PLAIN = {"n_layer": 3, "n_head": 4, "n_kv_head": 4, "n_embd": 64, "sequence_len": 512, "vocab_size": VOCAB}
SHAPES = {"all": PLAIN | {"n_kv_head": 2, "window_pattern": "SL", "key_offset": True},
          "windows": PLAIN | {"window_pattern": "SSL"}, "one layer": PLAIN | {"n_layer": 1}}


def make(shape: dict, seed: int = 0) -> GPT:
    """A model whose every weight matters."""
    model, generator = GPT(Shape(**shape)).init_weights(seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(0.1 * torch.randn(weights.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    text = "The capital of France is Paris; 12 and 345 are numbers.\n\nWhat's more, I'll say: über 你好 👍 "
    return Tokenizer.train([f"{text}{number}" for number in range(60)], VOCAB)


@pytest.fixture(scope="module")
def fast(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    export.fast_tokenizer(tokenizer, 512).save_pretrained(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module", params=SHAPES)
def pair(request, tokenizer, tmp_path_factory):
    """Ours, and what transformers loads of the exported folder."""
    model, folder = make(SHAPES[request.param]), tmp_path_factory.mktemp("export")
    export.write(folder, model, tokenizer)
    load = transformers.AutoModelForCausalLM.from_pretrained
    return model.eval(), lambda **how: load(folder, trust_remote_code=True, **how).eval()


def draw(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@torch.no_grad()
def test_logits_are_those_of_gpt_in_a_batch_over_a_cache_and_with_padding_on_either_side(pair, kernel):
    ours, load = pair
    theirs, idx, length = load(attn_implementation=kernel), draw(3, 300), 300           # a window is of 128
    close, expected = partial(torch.testing.assert_close, atol=2e-4, rtol=0), ours(idx)
    close(theirs(idx).logits, expected)
    first, pieces = theirs(idx[:, :140], use_cache=True), [(140, 141), (141, 280), (280, 299), (299, 300)]
    rest = [theirs(idx[:, a:b], past_key_values=first.past_key_values).logits for a, b in pieces]
    close(torch.cat([first.logits, *rest], dim=1), expected)
    for left in (True, False):
        padded, mask = torch.full((3, length + 40), 7), torch.zeros(3, length + 40, dtype=torch.int64)
        places = [range(start, start + length) for start in ((40, 13, 0) if left else (0, 0, 0))]
        sizes = [300, 300, 300] if left else [300, 200, 1]
        for row, place in enumerate(places):
            padded[row, place[:sizes[row]]], mask[row, place[:sizes[row]]] = idx[row, :sizes[row]], 1
        found = theirs(padded, attention_mask=mask).logits
        for row, place in enumerate(places):
            close(found[row, place[:sizes[row]]], expected[row, :sizes[row]])


@torch.no_grad()
def test_generation_by_beams_over_a_cache_finds_what_it_finds_without_one(pair):
    _, load = pair
    theirs, mask = load(), torch.ones(2, 150, dtype=torch.int64)
    theirs.generation_config.eos_token_id = None
    mask[0, :9] = 0
    settings = {"attention_mask": mask, "num_beams": 3, "max_new_tokens": 8, "do_sample": False}
    cached, fresh = (theirs.generate(draw(2, 150), use_cache=use, **settings) for use in (True, False))
    assert cached.tolist() == fresh.tolist()


def test_the_loss_and_its_gradients_are_those_of_gpt(pair):
    ours, load = pair
    theirs, idx = load().train(), draw(2, 200)
    theirs(idx, labels=idx).loss.backward()
    loss = ours.train()(idx[:, :-1], idx[:, 1:])
    ours.zero_grad()
    loss.backward()
    torch.testing.assert_close(theirs(idx, labels=idx).loss, loss, atol=1e-5, rtol=0)
    for name, gradient in (("blocks.0.attention.k.weight", ours.blocks[0].attention.k.weight.grad),
                           ("smear", ours.smear.grad), ("residual", ours.residual.grad),
                           ("value_embedding.weight", ours.value_embedding.grad[:VOCAB])):
        torch.testing.assert_close(theirs.model.get_parameter(name).grad, gradient, atol=1e-5, rtol=1e-3)


@torch.no_grad()
def test_bfloat16_weights_are_the_ones_that_the_model_computes_with(tokenizer, tmp_path):
    model = GPT(Shape(**SHAPES["windows"]), torch.bfloat16)
    model.load_state_dict(make(SHAPES["windows"]).state_dict())
    export.write(tmp_path, model, tokenizer)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True).eval()
    assert theirs.dtype == torch.bfloat16
    gap = (theirs(draw(2, 200)).logits - model(draw(2, 200))).abs()
    assert gap.mean() < 0.02 and gap.max() < 0.5


# ---- tokenizer and template --------------------------------------------------------------------------

MARKS = [*SPECIAL_TOKENS, *map(export.marker, SPECIAL_TOKENS), "<|", export.UNTYPABLE, "|>"]
PIECES = st.one_of(st.text(max_size=8), st.text("aé 1\n\r\t'.", max_size=8), st.sampled_from(MARKS))
TEXTS = st.lists(PIECES, max_size=8).map("".join)


@given(text=TEXTS.filter(lambda text: export.UNTYPABLE not in text))
def test_texts_become_the_same_tokens_whatever_they_say_and_come_back(fast, tokenizer, text):
    ids = fast(text)["input_ids"]
    assert ids == tokenizer.encode(text) == fast(text, add_special_tokens=False)["input_ids"]
    assert fast.decode(ids) == text


def test_every_code_point_is_split_alike_between_letters_digits_and_spaces(fast, tokenizer):
    points = [chr(point) for point in range(0x20000) if not 0xd800 <= point < 0xe000]
    text = "".join(f"a{point}12{point} {point}s\n" for point in points)
    assert fast(text)["input_ids"] == tokenizer.encode(text)


def test_special_tokens_are_attributes_and_nothing_that_can_be_typed(fast, tokenizer):
    for name in SPECIAL_TOKENS:
        assert fast.convert_tokens_to_ids(export.marker(name)) == tokenizer.special(name)
        assert tokenizer.special(name) not in fast(f"a{name} {name}")["input_ids"]
    assert fast.bos_token_id == tokenizer.bos and fast.eos_token_id == tokenizer.special("<|assistant_end|>")
    assert fast.python_end_token_id == tokenizer.special("<|python_end|>")
    assert fast.decode([tokenizer.bos, *tokenizer.encode("Hi")], skip_special_tokens=True) == "Hi"


CALLS = st.tuples(TEXTS, TEXTS).map(lambda both: [{"type": "python", "text": both[0]},
                                                  {"type": "python_output", "text": both[1]}])
SAID = st.lists(TEXTS.map(lambda text: {"type": "text", "text": text}), max_size=3)
PARTS = st.lists(st.one_of(CALLS, SAID), max_size=4).map(lambda groups: sum(groups, []))
TURN = st.tuples(st.one_of(TEXTS, SAID), st.one_of(TEXTS, PARTS)).map(
    lambda both: [{"role": "user", "content": both[0]}, {"role": "assistant", "content": both[1]}])
SYSTEM = st.lists(st.one_of(TEXTS, SAID).map(lambda text: {"role": "system", "content": text}), max_size=1)
CONVERSATIONS = st.tuples(SYSTEM, st.lists(TURN, min_size=1, max_size=3)).map(
    lambda both: both[0] + sum(both[1], []))
ORDINARY = CONVERSATIONS.filter(lambda talk: export.UNTYPABLE not in json.dumps(talk, ensure_ascii=False))


@given(messages=CONVERSATIONS)
def test_the_template_renders_conversations_and_prompts_as_chat_does(fast, tokenizer, messages):
    found = fast.apply_chat_template(messages, return_dict=True)
    assert found["input_ids"] == render_conversation(tokenizer, {"messages": messages})[0]
    prompt = fast.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=True)
    assert prompt["input_ids"] == render_prompt(tokenizer, {"messages": messages[:-1]})


@given(messages=ORDINARY)
def test_the_templates_assistant_mask_is_what_is_trained_on(fast, tokenizer, messages):
    found = fast.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    assert found["assistant_masks"] == render_conversation(tokenizer, {"messages": messages})[1]


@given(roles=st.lists(st.sampled_from(["system", "user", "assistant", "tool"]), min_size=1, max_size=5),
       asked=st.booleans())
def test_the_template_refuses_what_is_no_conversation(fast, roles, asked):
    messages = [{"role": role, "content": "x"} for role in roles]
    try:
        check_conversation({"messages": messages}, answered=False if asked else None)
        legal = True
    except ValueError:
        legal = False
    try:
        fast.apply_chat_template(messages, add_generation_prompt=asked)
        assert legal
    except Exception as error:
        assert not legal, error


# ---- the script --------------------------------------------------------------------------------------

def save(tokenizer, name: str = "sft", dtype: torch.dtype = torch.float32):
    shape = SHAPES["all"]
    model = GPT(Shape(**shape), dtype)
    model.load_state_dict(make(shape).state_dict())
    stage = Stage(name, "tiny", World(), Namespace(dtype=str(dtype)[6:], run="dummy"))
    checkpoint.save(stage, model, tokenizer, 1, text=None, rows=2)
    return model


def run(*args: str) -> None:
    from scripts import export_hf
    export_hf.main(export_hf.parser().parse_args(args))


def test_a_folder_is_published_when_it_is_proved_and_what_its_card_shows_runs(tokenizer, tmp_path, capsys):
    save(tokenizer, "sft", torch.bfloat16)
    folder = tmp_path / "out" / "tiny"
    run(f"--out={folder}")
    assert "proved equal" in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
        "modeling_nanochat.py", "tokenizer.json", "tokenizer_config.json"]
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]
    code, = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    told = subprocess.run([sys.executable, "-P", "-c", code], cwd=folder, capture_output=True, text=True)
    assert told.returncode == 0 and told.stdout.strip(), told.stderr
    (folder / "own.txt").touch()
    with pytest.raises(SystemExit, match="2"):
        run(f"--out={folder}")
    assert f"{folder} is there already" in capsys.readouterr().err and (folder / "own.txt").exists()


@pytest.mark.parametrize("what", ["weights", "template"])
def test_a_folder_that_is_another_model_is_not_published(tokenizer, tmp_path, monkeypatch, capsys, what):
    save(tokenizer)
    weights, fast_tokenizer = export.weights, export.fast_tokenizer

    def other_weights(*args) -> dict:
        made = weights(*args)
        return made | {"model.smear": made["model.smear"] + 0.1}

    def other_template(*args):
        made = fast_tokenizer(*args)
        made.chat_template = made.chat_template.replace(r"'\n\n'", r"'\n'")
        return made
    if what == "weights":
        monkeypatch.setattr(export, "weights", other_weights)
    else:
        monkeypatch.setattr(export, "fast_tokenizer", other_template)
    with pytest.raises(SystemExit, match="2"):
        run(f"--out={tmp_path / 'out'}")
    told = capsys.readouterr().err
    assert {"weights": "logits of a prompt in a batch", "template": "prompts of"}[what] in told
    assert not list(tmp_path.glob("*out*"))


def test_base_eval_finds_the_same_numbers_in_the_exported_model(tokenizer, tmp_path, base_dir, words):
    from scripts import base_eval
    save(tokenizer, "base")
    folder, text = tmp_path / "tiny-hf", tmp_path / "text.jsonl"
    folder.mkdir()
    model, _, _ = checkpoint.load(checkpoint.find(), torch.device("cpu"), torch.float32)
    export.write(folder, model, tokenizer)
    text.write_text("".join(json.dumps({"text": each}) + "\n" for each in words(400)))
    bundle = write_bundle(tmp_path / "bundle", random_tasks(2, 12))
    common = [f"--data={text}", f"--core-bundle={bundle}", "--eval=bpb,core", "--device=cpu",
              "--dtype=float32", "--device-batch-size=3", "--eval-tokens=1500"]
    for whom in ([], [f"--hf={folder}", "--trust-remote-code"]):
        base_eval.main(base_eval.parser().parse_args(common + whom))
    ours, theirs = ([json.loads(line) for line in (base_dir / f"models/{tag}/base_eval.jsonl").open()]
                    for tag in ("tiny", "tiny-hf"))
    for key in ("bpb", "accuracy", "verdicts", "core"):
        found, wanted = ([record[key] for record in log if key in record] for log in (theirs, ours))
        assert wanted and found == (pytest.approx(wanted, abs=1e-5) if key != "verdicts" else wanted)


def test_lm_evaluation_harness_finds_the_likelihoods_of_our_own_model(tokenizer, tmp_path, monkeypatch):
    lm_eval = pytest.importorskip("lm_eval", reason="uv pip install 'lm-eval[hf]': the harness itself")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    folder, tasks = tmp_path / "tiny-hf", tmp_path / "tasks"
    for path in (folder, tasks):
        path.mkdir()
    model = make(SHAPES["all"])
    export.write(folder, model, tokenizer)
    rows = [{"q": f"Question {number}: the capital?", "c": ["Paris", "Rome", "the sea"], "a": number % 3}
            for number in range(9)]
    (tasks / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tasks / "tiny.yaml").write_text(f"""
task: tiny
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tasks / "rows.jsonl"}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: "{{{{c}}}}"
doc_to_target: a
metric_list: [{{metric: acc}}]
""")
    found = lm_eval.simple_evaluate(
        "hf", {"pretrained": str(folder), "trust_remote_code": True, "dtype": "float32",
               "add_bos_token": True},
        tasks=["tiny"], task_manager=lm_eval.tasks.TaskManager(include_path=str(tasks)), device="cpu",
        bootstrap_iters=0, log_samples=True)
    for sample, row in zip(found["samples"]["tiny"], rows, strict=True):
        for (nats, _), choice in zip(sample["filtered_resps"], row["c"], strict=True):
            prompt, answer = (tokenizer.encode(text) for text in (row["q"], f" {choice}"))
            logits = model(torch.tensor([[tokenizer.bos, *prompt, *answer]]))[0].log_softmax(-1)
            wanted = sum(logits[len(prompt) + i, token].item() for i, token in enumerate(answer))
            assert nats == pytest.approx(wanted, abs=1e-4)
