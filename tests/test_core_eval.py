"""CORE against a slow implementation that asks one row at a time, written here from the rules alone."""

import csv
import json
import math
import random
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
import pytest
import torch
import torch.nn.functional as F
from nanochat import core_eval
from nanochat.core_eval import Reader, ask_task, evaluate_core, make_example, open_bundle
from nanochat.dist import World
from nanochat.gpt import GPT, rotary_tables
from nanochat.scaling import make_shape
from nanochat.tokenizer import Tokenizer

ROOT = Path(__file__).parent.parent
CONTEXT = 256                                           # windows of 128
WORDS = "the a cat cats dog sees likes it that blue red 7 42 and or not end ends ending".split()


@pytest.fixture(scope="module")
def tokenizer(words):
    return Tokenizer.train([" ".join(WORDS) * 3, "cat cats ends ending " * 9, *words(60)], 256 + 9 + 80)


@pytest.fixture(scope="module")
def model(tokenizer):
    """Every weight at random: as initialised, every block is the identity."""
    shape = make_shape(3, tokenizer.vocab_size, head_dim=8, aspect_ratio=8, sequence_len=CONTEXT,
                       window_pattern="SSL", key_offset=True)
    model = GPT(shape).init_weights().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.normal_(0, 0.3, generator=generator)
    return model


def write_bundle(folder: Path, tasks: dict[str, tuple]) -> Path:
    """tasks: label -> (kind, shots, delimiter or None, chance in percent, rows)."""
    (folder / "eval_data" / "some").mkdir(parents=True)
    listed, table = [], [("Eval Task", "Category", "Random baseline")]
    for label, (kind, shots, delimiter, chance, rows) in tasks.items():
        listed.append({"label": label, "dataset_uri": f"some/{label}.jsonl", "num_fewshot": [shots],
                       "icl_task_type": kind, "has_categories": False}
                      | ({} if delimiter is None else {"continuation_delimiter": delimiter}))
        table.append((label, "any", str(chance)))
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "eval_data" / "some" / f"{label}.jsonl").write_text(text)
    (folder / "core.yaml").write_text(json.dumps({"icl_tasks": listed}))
    with open(folder / "eval_meta_data.csv", "w", newline="") as file:
        csv.writer(file).writerows(table)
    return folder


def random_tasks(seed: int, count: int) -> dict[str, tuple]:
    """Rows with equal choices, choices that begin like others, words cut in two, and long texts."""
    dice = random.Random(seed)

    def text(most: int) -> str:
        return " ".join(dice.choices(WORDS, k=dice.randint(1, most)))

    def choices() -> list[str]:
        made = [text(4) for _ in range(dice.randint(2, 5))]
        made[1] = dice.choice([made[1], made[0], made[0] + " " + text(2), made[0][:-1] or "a"])
        return made

    def long() -> str:
        return text(dice.choice([3, 12, 120]))

    def choice() -> dict:
        options = choices()
        return {"query": long(), "choices": options, "gold": dice.randrange(len(options))}

    def schema() -> dict:
        start = dice.choice(["", long() + " "])
        options = [start + (f"{option} {text(5)}" if dice.random() < 0.5 else option) for option in choices()]
        return {"context_options": options, "continuation": text(4), "gold": dice.randrange(len(options))}

    def completion() -> dict:
        return {"context": dice.choice(["", " "]) + long() + dice.choice(["", " ", "\n"]),
                "continuation": dice.choice([text(3), "s", "ing", "s " + text(2)])}

    return {"mc": ("multiple_choice", 3, None, 25, [choice() for _ in range(count)]),
            "mc_zero": ("multiple_choice", 0, "\nAnswer: ", 25, [choice() for _ in range(count)]),
            "schema": ("schema", 2, None, 50, [schema() for _ in range(count)]),
            "lm": ("language_modeling", 4, None, 0, [completion() for _ in range(count)]),
            "lm_inside": ("language_modeling", 0, "", 0, [completion() for _ in range(count)])}


# ---- the slow implementation: nothing of nanochat.core_eval in it ------------------------------------

def slow_prompts(kind: str, rows: list[dict], index: int, shots: int, delimiter: str) -> tuple[list, list]:
    """(texts with the answer, texts without it where that is language modelling)."""
    rest = list(range(len(rows)))
    rest.remove(index)
    before = ""
    for other in random.Random(1234 + index).sample(rest, shots):
        row = rows[other]
        if kind == "multiple_choice":
            before += row["query"] + delimiter + row["choices"][row["gold"]] + "\n\n"
        elif kind == "schema":
            before += row["context_options"][row["gold"]] + delimiter + row["continuation"] + "\n\n"
        else:
            before += row["context"].strip() + delimiter + row["continuation"] + "\n\n"
    row = rows[index]
    if kind == "multiple_choice":
        return [before + row["query"] + delimiter + choice for choice in row["choices"]], []
    if kind == "schema":
        return [before + context + delimiter + row["continuation"] for context in row["context_options"]], []
    context = before + row["context"].strip() + delimiter
    return [context + row["continuation"]], [context.strip()]


def slow_spans(kind: str, rows: list[list[int]], without: list[list[int]]) -> list[int]:
    """Where the answer begins in each row."""
    if kind == "schema":
        alike = 0
        while all(len(row) > alike for row in rows) and len({row[-1 - alike] for row in rows}) == 1:
            alike += 1
        return [max(1, len(row) - alike) for row in rows]
    compared, alike = [*rows, *without], 0
    while all(len(row) > alike for row in compared) and len({row[alike] for row in compared}) == 1:
        alike += 1
    return [alike] * len(rows)


def slow_verdict(logits_of, kind: str, rows: list[dict], index: int, shots: int, delimiter: str, encode,
                 limit: int | None = None) -> bool:
    texts, without = slow_prompts(kind, rows, index, shots, delimiter)
    ids = [encode(text) for text in texts]
    starts = slow_spans(kind, ids, [encode(text) for text in without])
    means, greedy = [], []
    for row, start in zip(ids, starts):
        if limit and len(row) > limit:
            start, row = max(1, start - (len(row) - limit)), row[-limit:]
        logits = logits_of(row)                                             # (T, V)
        losses = [-F.log_softmax(logits[t - 1], -1)[row[t]].item() for t in range(start, len(row))]
        means.append(sum(losses) / len(losses) if losses else math.inf)
        greedy.append(all(int(logits[t - 1].argmax()) == row[t] for t in range(start, len(row))))
    if kind == "language_modeling":
        return greedy[0]
    return means.index(min(means)) == rows[index]["gold"]


def long_model(model: GPT) -> GPT:
    """The same weights and windows, for rows beyond the context."""
    longer = GPT(model.shape)
    longer.load_state_dict(model.state_dict())
    longer.cos, longer.sin = rotary_tables(8 * CONTEXT, model.shape.head_dim, torch.float32)
    return longer.requires_grad_(False)


def shuffled(rows: list[dict]) -> list[dict]:
    rows = list(rows)
    random.Random(1337).shuffle(rows)
    return rows


# ---- equality -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("label", ["mc", "mc_zero", "schema", "lm", "lm_inside"])
def test_predictions_are_those_of_asking_one_row_at_a_time(label, model, tokenizer, tmp_path):
    tasks = random_tasks(7, 90)
    bundle = open_bundle(write_bundle(tmp_path / "b", tasks), None)
    (task,) = [task for task in bundle.tasks if task.label == label]
    right = ask_task(Reader(model, tokenizer), task)
    kind, shots, delimiter, _, rows = tasks[label]
    rows, plain, delimiter = shuffled(rows), long_model(model), " " if delimiter is None else delimiter
    encode = lambda text: [tokenizer.bos, *tokenizer.encode(text)]
    logits_of = lambda row: plain(torch.tensor([row]))[0]
    slow = [slow_verdict(logits_of, kind, rows, i, shots, delimiter, encode) for i in range(len(rows))]
    assert right == slow
    beyond = [max(len(encode(text)) for text in slow_prompts(kind, rows, i, shots, delimiter)[0]) > CONTEXT
              for i in range(len(rows))]
    assert shots == 0 or 0 < sum(beyond) < len(rows)
    assert 0 < sum(right) or kind == "language_modeling"


def test_losses_of_branches_are_those_of_whole_rows(model, tokenizer):
    """Beginnings of many lengths in one batch, endings of none to many tokens, windows shorter than rows."""
    dice = random.Random(1)
    examples = []
    for length in (1, 2, 7, 130, 200, 255):
        beginning = dice.choices(range(tokenizer.vocab_size), k=length)
        rows = [beginning + dice.choices(range(tokenizer.vocab_size), k=size) for size in (0, 1, 5, 40)]
        examples.append(core_eval.Example(rows, [length] * 4, 0))
    plain = long_model(model)
    for example, verdicts in zip(examples, Reader(model, tokenizer).verdicts(examples)):
        assert verdicts[0] == (math.inf, False)
        for row, start, (mean, _) in list(zip(example.rows, example.starts, verdicts))[1:]:
            losses = F.cross_entropy(plain(torch.tensor([row]))[0, start - 1:-1], torch.tensor(row[start:]))
            assert mean == pytest.approx(losses.item(), abs=1e-4)


def test_equal_choices_tie_and_the_first_of_them_counts(model, tokenizer):
    rows = [[5, 6, 7, 8], [5, 6, 9], [5, 6, 9]]
    example = make_example("multiple_choice", rows, gold=1)
    verdicts = [(3.0, False), (2.0, False), (1.9999999, False)]             # rounding told equals apart
    assert core_eval.is_right("multiple_choice", example, verdicts)


def test_what_is_asked_first_does_not_depend_on_how_many_are_asked(model, tokenizer, tmp_path):
    bundle = open_bundle(write_bundle(tmp_path / "b", random_tasks(3, 40)), None)
    reader = Reader(model, tokenizer)
    for task in bundle.tasks:
        assert ask_task(reader, task, 13) == ask_task(reader, task)[:13]


def test_ranks_share_the_examples_and_all_find_what_one_does(model, tokenizer, tmp_path):
    task = open_bundle(write_bundle(tmp_path / "b", random_tasks(4, 37)), None).tasks[0]
    alone, shares = ask_task(Reader(model, tokenizer), task), []

    class Rank(World):
        def gather_objects(self, value):
            shares.append(value)
            return [value]

    for rank in range(3):
        ask_task(Reader(model, tokenizer), task, world=Rank(rank, 3))
    assert [len(share) for share in shares] == [13, 12, 12]
    assert [right for _, right in sorted(sum(shares, []))] == alone


def test_a_model_that_is_nan_is_an_error_and_no_result(model, tokenizer, tmp_path):
    task = open_bundle(write_bundle(tmp_path / "b", random_tasks(4, 20)), None).tasks[0]
    broken = long_model(model)
    broken.unembedding.data[3] = math.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        ask_task(Reader(broken, tokenizer), task)


def test_core_is_the_mean_of_centred_accuracies_and_every_verdict_is_logged(model, tokenizer, tmp_path):
    bundle = open_bundle(write_bundle(tmp_path / "b", random_tasks(5, 30)), None)
    logged = []

    class Log:
        world = World()
        log = staticmethod(lambda line, **fields: logged.append(fields))

    evaluate_core(Reader(model, tokenizer), bundle, Log(), step=9)
    *tasks, total = logged
    chances = [0.25, 0.25, 0.5, 0, 0]
    shares = [task["verdicts"].count("1") / 30 for task in tasks]
    assert total["core"] == pytest.approx(
        sum((share - chance) / (1 - chance) for share, chance in zip(shares, chances)) / 5)
    z2 = 1.96 ** 2                                      # Wilson's half width in standard errors, squared
    variances = [(share * (1 - share) / 30 + z2 / 3600) / (1 + z2 / 30) ** 2 for share in shares]
    variance = sum(each / (1 - chance) ** 2 for each, chance in zip(variances, chances))
    assert total["standard_error"] == pytest.approx(math.sqrt(variance) / 5, rel=1e-4)
    assert total["questions"] == 150 and {task["step"] for task in tasks} == {9}


# ---- bundles ------------------------------------------------------------------------------------------

def test_the_almanacs_bundle_has_all_kinds_is_always_the_same_and_asks_what_is_held_out(base_dir):
    first, again = open_bundle(None, "almanac"), open_bundle("almanac", "climbmix")
    assert first == again and {task.kind for task in first.tasks} == set(core_eval.FORMS)
    for task in first.tasks:
        assert len(task.rows) >= 100 and task.chance < 1
    spelling = next(task for task in first.tasks if task.label == "almanac_spelling")
    words = {row["context"][2:-1] for row in spelling.rows}
    assert words <= set(core_eval.almanac().unseen_words)


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*"):
            if file.is_file():
                archive.write(file, f"eval_bundle/{file.relative_to(folder)}")
    return path


def test_a_zip_is_the_folder_in_it_and_is_not_unpacked(tmp_path, base_dir):
    folder = write_bundle(tmp_path / "b", random_tasks(1, 5))
    from_zip, from_folder = open_bundle(zipped(folder, tmp_path / "b.zip"), None), open_bundle(folder, None)
    assert from_zip == from_folder and len(from_zip.tasks) == 5
    assert not list(base_dir.glob("*"))


def test_a_zip_that_is_damaged_is_refused(tmp_path, capsys):
    whole = zipped(write_bundle(tmp_path / "b", random_tasks(1, 5)), tmp_path / "whole.zip").read_bytes()
    flipped = bytearray(whole)
    flipped[200] ^= 255
    for name, damaged in (("cut", whole[:-300]), ("flipped", flipped)):
        (tmp_path / f"{name}.zip").write_bytes(damaged)
        with pytest.raises(SystemExit) as stop:
            open_bundle(tmp_path / f"{name}.zip", None)
        assert stop.value.code == 2 and "BadZipFile" in capsys.readouterr().err


@pytest.mark.parametrize("file, text, said", [
    ("core.yaml", None, "core.yaml: FileNotFoundError"),
    ("core.yaml", "icl_tasks: [}", "core.yaml: ParserError"),
    ("eval_data/some/mc.jsonl", None, "some/mc.jsonl: FileNotFoundError"),
    ("eval_meta_data.csv", "Eval Task,Random baseline\nmc,25\n", "KeyError: 'mc_zero'"),
    ("eval_data/some/lm.jsonl", '{"context": null, "continuation": "a"}\n', "some/lm.jsonl: AttributeError"),
    ("eval_data/some/mc.jsonl", '{"query": "a", "choices": ["b"], "gold": 1}\n', "some/mc.jsonl: IndexError"),
    ("eval_data/some/mc.jsonl", "", "some/mc.jsonl: JSONDecodeError")])
def test_what_is_wrong_with_a_bundle_is_said_before_anything_runs(file, text, said, tmp_path, capsys):
    folder = write_bundle(tmp_path / "b", random_tasks(1, 5))
    (folder / file).unlink() if text is None else (folder / file).write_text(text)
    with pytest.raises(SystemExit) as stop:
        open_bundle(folder, None)
    assert stop.value.code == 2 and said in capsys.readouterr().err


def test_the_published_bundle_is_fetched_once_and_no_token_goes_there(tmp_path, monkeypatch, base_dir):
    site = tmp_path / "site"
    site.mkdir()
    zipped(write_bundle(tmp_path / "b", random_tasks(1, 5)), site / core_eval.ARCHIVE)
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def end_headers(self):
            asked.append((self.command, self.headers.get("Authorization")))
            self.send_header("ETag", '"0123456789abcdef0123456789abcdef-7"')         # of a store like S3
            super().end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(core_eval, "SITE", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "secret")
    try:
        first = open_bundle(None, "climbmix")
        requests = len(asked)
        assert open_bundle(None, None) == first and len(asked) == requests > 0
        assert {token for _, token in asked} == {None}
    finally:
        server.shutdown()


# ---- models of Hugging Face's -------------------------------------------------------------------------

@pytest.fixture(scope="module")
def gpt2(tmp_path_factory, tokenizer):
    """A tiny GPT-2 of 64 positions with a byte-level tokenizer of its own."""
    transformers = pytest.importorskip("transformers", reason="uv sync brings it: models of --hf")
    from tokenizers import Tokenizer as Fast
    from tokenizers import decoders, models, pre_tokenizers, trainers
    fast = Fast(models.BPE())
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast.train_from_iterator([" ".join(WORDS)] * 9, trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<|endoftext|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    folder = tmp_path_factory.mktemp("hf") / "tiny-gpt2"
    whole = transformers.PreTrainedTokenizerFast(tokenizer_object=fast, eos_token="<|endoftext|>")
    whole.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=320, n_positions=64, n_embd=16, n_layer=2, n_head=2,
                                     initializer_range=0.3, bos_token_id=0, eos_token_id=0)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("label", ["mc", "schema", "lm"])
def test_a_model_with_64_positions_is_asked_with_the_last_64_tokens(label, gpt2, tmp_path):
    from nanochat.foreign import Foreign
    tasks, model = random_tasks(8, 60), Foreign(str(gpt2), torch.device("cpu"), torch.float32)
    bundle = open_bundle(write_bundle(tmp_path / "b", tasks), None)
    (task,) = [task for task in bundle.tasks if task.label == label]
    kind, shots, _, _, rows = tasks[label]
    encode = lambda text: [model.bos, *model.encode_batch([text])[0]]
    logits_of = lambda row: model._model(torch.tensor([row])).logits[0]
    assert model.limit == 64
    assert any(len(encode(text)) > 64 for i in range(len(rows))
               for text in slow_prompts(kind, shuffled(rows), i, shots, " ")[0])
    slow = [slow_verdict(logits_of, kind, shuffled(rows), i, shots, " ", encode, limit=64)
            for i in range(len(rows))]
    assert ask_task(model, task) == slow


def test_base_eval_takes_a_model_of_hugging_faces(gpt2, tmp_path, base_dir, words):
    import transformers
    from scripts import base_eval
    text, bundle = tmp_path / "text.jsonl", write_bundle(tmp_path / "b", random_tasks(2, 12))
    text.write_text("".join(json.dumps({"text": each}) + "\n" for each in words(400)))
    base_eval.main(base_eval.parser().parse_args([
        f"--hf={gpt2}", f"--data={text}", f"--core-bundle={bundle}", "--device=cpu", "--dtype=float32",
        "--device-batch-size=3", "--eval-tokens=1500"]))
    log = (base_dir / "models/tiny-gpt2/base_eval.jsonl").read_text()
    records = [json.loads(line) for line in log.splitlines()]
    assert [record["tasks"] for record in records if "core" in record] == [5]
    (found,) = [record for record in records if record.get("split") == "val"]
    # bits per byte by transformers' own loss: the rows that the validation set is packed in, each alone
    from nanochat import dataset
    from nanochat.dataloader import validation
    from nanochat.foreign import Foreign
    model = transformers.AutoModelForCausalLM.from_pretrained(gpt2)
    ours = Foreign(str(gpt2), torch.device("cpu"), torch.float32)
    rows = validation(ours, dataset.prepare(path=text).val, 1, 64, 1500)
    nats = 0.0
    for inputs, targets, _ in rows.batches:
        kept = int((targets[0] >= 0).sum())
        logits = model(inputs.long()).logits[0]
        nats += F.cross_entropy(logits[targets[0] >= 0], targets[0][targets[0] >= 0], reduction="sum").item()
        assert kept
    assert found["bpb"] == pytest.approx(nats / math.log(2) / sum(rows.sizes), rel=1e-5)


def test_a_model_that_is_not_there_is_named_in_one_line(tmp_path, capsys, monkeypatch):
    pytest.importorskip("transformers", reason="uv sync brings it: models of --hf")
    from nanochat.foreign import Foreign
    with pytest.raises(SystemExit) as stop:
        Foreign(str(tmp_path), torch.device("cpu"), torch.float32)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and f"--hf {tmp_path} cannot be loaded" in said and said.count("\n") == 2
