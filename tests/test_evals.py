"""Questions asked in batches against one at a time, and the statistics against textbooks and brute force."""

import itertools
import json
import math
import random
import statistics
import threading
from dataclasses import asdict
from pathlib import Path
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from nanochat import evals
from nanochat.chat import render_prompt
from nanochat.dataloader import validation
from nanochat.dist import World
from nanochat.engine import Engine, SamplingParams
from nanochat.evals import ask, centred, choose_letters, evaluate_bpb, pass_at_k, wilson
from nanochat.gpt import GPT
from nanochat.scaling import make_shape
from nanochat.tokenizer import Tokenizer

CONTEXT = 128
GREEDY = SamplingParams(temperature=0, max_tokens=5)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer([bytes([i]) for i in range(256)] + [b"th", b"the"])


def blank_model(tokenizer) -> GPT:
    shape = make_shape(2, tokenizer.vocab_size, head_dim=8, aspect_ratio=4, sequence_len=CONTEXT)
    return GPT(shape).init_weights()


def random_model(tokenizer, seed: int = 0) -> GPT:
    """As initialised, every block is the identity: here none is."""
    model = blank_model(tokenizer).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.normal_(0, 0.4, generator=generator)
    return model


def asking(text: str, **more) -> dict:
    return {"conversation": {"messages": [{"role": "user", "content": text}]}, "answer": "A", **more}


def choices(count: int, seed: int = 0) -> list[dict]:
    """Questions of 1 to 200 characters, the longest more than the context holds, with 2 to 5 letters."""
    dice = random.Random(seed)
    texts = ["".join(dice.choices("abc the?", k=dice.choice((1, 9, 30, 90, 200)))) for _ in range(count)]
    return [asking(text, letters=list("ABCDE")[:dice.randint(2, 5)]) for text in texts]


def free(count: int) -> list[dict]:
    """Equal questions among them."""
    return [asking("x" * (i * 7 % 23)) for i in range(count)]


def one_at_a_time(model: GPT, tokenizer: Tokenizer, question: dict) -> str:
    """The letter by the logits of all tokens after the last of all positions, without padding."""
    ids = render_prompt(tokenizer, question["conversation"], CONTEXT)
    logits = model(torch.tensor([ids]))[0, -1]
    return max(question["letters"], key=lambda letter: logits[tokenizer.encode(letter)[0]])


class Rank(World):
    """One of two, whose other rank is a thread of this process."""
    shared, meet = [None, None], threading.Barrier(2)

    def gather_objects(self, value):
        self.shared[self.rank] = value
        self.meet.wait()
        both = list(self.shared)
        self.meet.wait()
        return both


# ---- bits per byte

class Letters:
    """A foreign tokenizer: a token per character, and nothing but what is needed of one."""
    bos = 7

    def encode_batch(self, texts):
        return [[ord(letter) % 256 for letter in text] for text in texts]


class Unigram:
    """A model that spends sqrt(id) nats on a token, wherever it stands: what packing cannot change."""
    device = torch.device("cpu")

    def __call__(self, inputs, targets, reduction):
        assert reduction == "none"
        return targets.clamp(min=0).float().sqrt() + (targets < 0) * 99      # ignored ones do not count


def some_texts(count: int, seed: int = 0) -> list[str]:
    """Of 1 to some 400 characters, a few of two bytes: the longest do not fit into a row."""
    dice = random.Random(seed)
    return ["".join(dice.choices("abc the é", k=1 + int(dice.lognormvariate(3.5, 1)))) for _ in range(count)]


def write(folder: Path, texts: list[str]) -> list[Path]:
    pq.write_table(pa.table({"text": texts}), folder / "val_00000.parquet", row_group_size=50)
    return [folder / "val_00000.parquet"]


def test_bits_per_byte_are_those_of_every_document_alone(tokenizer, tmp_path):
    """No two of these fit into a row, so attention sees one document at a time; each third is cut in two."""
    dice, model = random.Random(0), random_model(tokenizer)
    texts = ["".join(dice.choices("abcdé", k=(70, 90, 80 + CONTEXT)[i % 3])) for i in range(9)]
    result = evaluate_bpb(model, validation(tokenizer, write(tmp_path, texts), 4, CONTEXT))
    bits = []
    for text in texts:
        ids = tokenizer.encode(text)
        assert len(ids) % CONTEXT > CONTEXT / 2
        pieces = [ids[at : at + CONTEXT] for at in range(0, len(ids), CONTEXT)]
        rows = [torch.tensor([[tokenizer.bos, *piece]]) for piece in pieces]
        nats = [F.cross_entropy(model(row[:, :-1])[0], row[0, 1:], reduction="sum").item() for row in rows]
        bits.append(sum(nats) / math.log(2))
    sizes = [len(text.encode()) for text in texts]
    assert result.value == pytest.approx(sum(bits) / sum(sizes), rel=1e-5)
    assert (result.documents, result.bytes) == (9, sum(sizes))
    assert result.buckets["bits"] == pytest.approx(bits + [0] * 55, rel=1e-5)
    assert result.buckets["bytes"] == sizes + [0] * 55


@pytest.mark.parametrize("kind", ["ours", "foreign"])
def test_every_token_of_every_document_counts_once_however_rows_are_packed(tokenizer, kind, tmp_path):
    texts, mine = some_texts(300), tokenizer if kind == "ours" else Letters()
    bits = [math.fsum(math.sqrt(id) for id in ids) / math.log(2) for ids in mine.encode_batch(texts)]
    sizes = [len(text.encode()) for text in texts]
    for rows, T in ((1, 33), (8, 64), (5, 500)):
        result = evaluate_bpb(Unigram(), validation(mine, write(tmp_path, texts), rows, T))
        assert result.value == pytest.approx(sum(bits) / sum(sizes))
        assert result.buckets["bits"] == pytest.approx([sum(bits[i::64]) for i in range(64)])
        assert result.buckets["bytes"] == [sum(sizes[i::64]) for i in range(64)]


def test_bits_per_byte_do_not_depend_on_the_batches(tokenizer, tmp_path):
    model, paths = random_model(tokenizer), write(tmp_path, some_texts(100))
    one, *others = (evaluate_bpb(model, validation(tokenizer, paths, rows, 64)) for rows in (1, 3, 16))
    for other in others:
        assert one.value == pytest.approx(other.value, rel=1e-6)
        assert one.error == pytest.approx(other.error, rel=1e-5)
        assert one.buckets["bits"] == pytest.approx(other.buckets["bits"], rel=1e-5)


def rank_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    mine = Tokenizer([bytes([i]) for i in range(256)])
    held_out = validation(mine, [Path(folder) / "val_00000.parquet"], 3, 64, math.inf, rank, 2)
    result = evaluate_bpb(random_model(mine), held_out, World(rank, 2))
    Path(folder, f"{rank}.json").write_text(json.dumps(asdict(result)))
    torch.distributed.destroy_process_group()


def test_two_ranks_find_what_one_finds(tmp_path):
    mine = Tokenizer([bytes([i]) for i in range(256)])
    alone = evaluate_bpb(random_model(mine), validation(mine, write(tmp_path, some_texts(100)), 3, 64))
    torch.multiprocessing.spawn(rank_of_two, (str(tmp_path),), nprocs=2)
    both = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert both[0] == both[1] and both[0]["documents"] == alone.documents == 100
    for key in ("value", "error", "bytes"):
        assert both[0][key] == pytest.approx(getattr(alone, key), rel=1e-6)
    assert both[0]["buckets"]["bits"] == pytest.approx(alone.buckets["bits"], rel=1e-5)


def test_the_standard_error_is_that_of_a_bootstrap_over_documents(tmp_path):
    texts = some_texts(500)
    result = evaluate_bpb(Unigram(), validation(Letters(), write(tmp_path, texts), 8, 64))
    bits = np.array([sum(math.sqrt(ord(letter) % 256) for letter in text) for text in texts]) / math.log(2)
    sizes = np.array([len(text.encode()) for text in texts])
    drawn = np.random.default_rng(0).integers(500, size=(4000, 500))
    assert result.error == pytest.approx((bits[drawn].sum(1) / sizes[drawn].sum(1)).std(), rel=0.05)
    assert math.isnan(evaluate_bpb(Unigram(), validation(Letters(), write(tmp_path, ["a"]), 8, 64)).error)


def test_bits_per_byte_of_a_uniform_model_are_log2_vocab_per_token(tokenizer, tmp_path):
    model = blank_model(tokenizer)
    with torch.no_grad():
        model.unembedding.zero_()
    held_out = validation(tokenizer, write(tmp_path, ["the", "th", "a" * 200]), 2, 64)
    expected = 202 * math.log2(tokenizer.vocab_size) / 205
    assert evaluate_bpb(model, held_out).value == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("nats", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_an_error(nats, tokenizer, tmp_path):
    class Poisoned(Unigram):
        def __call__(self, inputs, targets, reduction):
            return torch.where(targets == ord("b"), nats, 1.0)

    good, bad = (validation(tokenizer, write(tmp_path, [text]), 2, 64) for text in ("ac", "abc"))
    assert evaluate_bpb(Poisoned(), good).bytes == 2
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        evaluate_bpb(Poisoned(), bad)


# ---- questions

def said(question: dict, reply: str) -> str:
    """Stands in for a judge, to see what it is shown."""
    return reply


@pytest.mark.parametrize("tokens", [evals.TOKENS_CPU, 1, 300])
def test_letters_chosen_in_batches_are_those_of_full_logits_one_prompt_at_a_time(tokenizer, tokens,
                                                                                 monkeypatch):
    for seed in range(3):
        model, questions = random_model(tokenizer, seed), choices(40, seed)
        engine = Engine(model, tokenizer)
        prompts = [engine.prompt(question["conversation"], SamplingParams(max_tokens=1))
                   for question in questions]
        assert max(map(len, prompts)) == CONTEXT
        monkeypatch.setattr(evals, "TOKENS_CPU", tokens)
        chosen = dict(choose_letters(model, tokenizer, {
            i: (prompts[i], question["letters"]) for i, question in enumerate(questions)}))
        expected = [one_at_a_time(model, tokenizer, question) for question in questions]
        assert [chosen[i] for i in range(40)] == expected and len(set(expected)) > 2
        assert ask(engine, questions, said, GREEDY, samples=3) == [[letter] for letter in expected]


def test_of_equally_likely_letters_the_first_is_chosen(tokenizer):
    model = random_model(tokenizer)
    model.unembedding.zero_()
    for letters in (["B", "A"], ["A", "B"]):
        assert list(choose_letters(model, tokenizer, {7: ([65], letters)})) == [(7, letters[0])]


def test_a_model_without_numbers_is_an_error_not_an_answer(tokenizer):
    model = random_model(tokenizer)
    model.unembedding.fill_(float("nan"))
    for question in (asking("q"), asking("q", letters=["A", "B"])):
        with pytest.raises(FloatingPointError):
            ask(Engine(model, tokenizer), [question], lambda question, reply: True, GREEDY)


@pytest.mark.parametrize("temperature, samples", [(0.0, 1), (1.0, 3)])
def test_answers_do_not_depend_on_the_ranks_or_on_the_size_of_the_batch(tokenizer, temperature, samples):
    model, questions = random_model(tokenizer), [*choices(7), *free(16)]
    params = SamplingParams(temperature, max_tokens=5, seed=3)
    alone = [ask(Engine(model, tokenizer, max_batch), questions, said, params, samples)
             for max_batch in (1, 4, 64)]
    assert alone[0] == alone[1] == alone[2]
    assert [len(replies) for replies in alone[0]] == [1] * 7 + [samples] * 16
    shared = [None, None]

    def rank(number: int) -> None:
        shared[number] = ask(Engine(model, tokenizer, 4), questions, said, params, samples, Rank(number, 2))
    other = threading.Thread(target=rank, args=(1,))
    other.start()
    rank(0)
    other.join()
    assert shared == [alone[0], alone[0]]


def test_samples_differ_and_a_seed_draws_the_same_again(tokenizer):
    engine, questions = Engine(random_model(tokenizer), tokenizer), free(6)
    draw = lambda seed: ask(engine, questions, said, SamplingParams(1.0, max_tokens=9, seed=seed), samples=4)
    first = draw(0)
    assert first == draw(0) != draw(1) and all(len(set(replies)) > 1 for replies in first)


def test_replies_reach_the_judge_beside_their_own_question_and_its_errors_reach_us(tokenizer):
    engine = Engine(blank_model(tokenizer), tokenizer, max_batch=4)
    questions = [asking("x" * i, number=i) for i in range(9)]
    alone = [ask(engine, [question], said, GREEDY)[0][0] for question in questions]
    both = lambda question, reply: (question["number"], reply)
    assert ask(engine, questions, both, GREEDY) == [[(number, reply)] for number, reply in enumerate(alone)]
    with pytest.raises(ZeroDivisionError):
        ask(engine, questions, lambda question, reply: 1 / 0, GREEDY)


# ---- statistics

def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample():
    for n in range(1, 7):
        for k in range(1, n + 1):
            each = []
            for right in range(n + 1):
                subsets = list(itertools.combinations([True] * right + [False] * (n - right), k))
                each.append(sum(map(any, subsets)) / len(subsets))
                assert pass_at_k([right], n, k) == (pytest.approx(each[-1]), 0)
            mean, error = pass_at_k(range(n + 1), n, k)
            assert mean == pytest.approx(statistics.mean(each))
            assert error == pytest.approx(statistics.pstdev(each) / math.sqrt(n + 1))


def test_with_one_sample_pass_at_1_is_the_accuracy_with_its_binomial_error():
    assert pass_at_k([1] * 75 + [0] * 25, 1, 1) == (0.75, pytest.approx(math.sqrt(0.75 * 0.25 / 100)))


@pytest.mark.parametrize("right, of, low, high", [     # Newcombe 1998 (Statistics in Medicine 17), table I
    (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)])
def test_intervals_are_the_published_ones_and_mirror_images(right, of, low, high):
    assert wilson(right / of, of) == pytest.approx([low, high], abs=5e-5)
    assert wilson(1 - right / of, of) == pytest.approx([1 - high, 1 - low], abs=5e-5)


def test_centred_accuracy_is_0_for_guessing_and_1_for_knowing():
    sure = [0, 0]
    mean = lambda *tasks: centred([dict(zip(("accuracy", "interval", "chance"), each)) for each in tasks])
    assert mean((0.25, sure, 0.25), (0, sure, 0)) == (0, 0)
    assert mean((1, sure, 0.25), (1, sure, 0)) == (1, 0)
    two, three = (2 * 1.959964 * error for error in (0.02, 0.03))       # widths of 95% intervals
    score, error = mean((0.40, [0.35, 0.35 + three], 0.25), (0.10, [0.05, 0.05 + two], 0.0))
    assert score == pytest.approx((0.15 / 0.75 + 0.10) / 2)
    assert error == pytest.approx(math.sqrt(0.04 ** 2 + 0.02 ** 2) / 2)
