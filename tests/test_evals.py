"""Bits per byte against a hand count; replies and their judge."""

import math

import pytest
import torch

from nanochat.engine import Engine
from nanochat.evals import accuracy, evaluate_bpb, reply_verdicts
from nanochat.gpt import GPT
from nanochat.scaling import make_shape
from nanochat.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer([bytes([i]) for i in range(256)] + [b"th", b"the"])


def blank_model(tokenizer) -> GPT:
    shape = make_shape(2, tokenizer.vocab_size, head_dim=8, aspect_ratio=4, sequence_len=128)
    return GPT(shape).init_weights()


def test_bits_per_byte_of_a_uniform_model_is_log2_vocab_per_token(tokenizer):
    """
    A blank model spends log2(V) bits on every token; specials and ignored targets add neither bits nor bytes.
    """
    model = blank_model(tokenizer)
    with torch.no_grad():
        model.unembedding.zero_()
    the, th, a = tokenizer.encode("the")[0], tokenizer.encode("th")[0], tokenizer.encode("a")[0]
    targets = torch.tensor([[the, th, a, tokenizer.bos], [-1, -1, a, -1]])
    bpb = evaluate_bpb(model, [(torch.zeros_like(targets), targets)], tokenizer.token_bytes())
    assert bpb == pytest.approx(4 * math.log2(tokenizer.vocab_size) / (3 + 2 + 1 + 1), rel=1e-5)


def test_bits_per_byte_do_not_depend_on_the_batches(tokenizer):
    model = blank_model(tokenizer)
    idx = torch.randint(0, 256, (6, 33), generator=torch.Generator().manual_seed(0))
    whole = evaluate_bpb(model, [(idx[:, :-1], idx[:, 1:])], tokenizer.token_bytes())
    split = evaluate_bpb(model, [(row[None, :-1], row[None, 1:]) for row in idx], tokenizer.token_bytes())
    assert whole == pytest.approx(split, rel=1e-6)


def test_nothing_to_evaluate_on_is_an_error(tokenizer):
    with pytest.raises(ValueError, match="no bytes"):
        evaluate_bpb(blank_model(tokenizer), [], tokenizer.token_bytes())


def test_a_model_without_numbers_is_an_error_not_an_answer(tokenizer):
    model = blank_model(tokenizer)
    with torch.no_grad():
        model.unembedding.fill_(float("nan"))
    questions = [{"conversation": {"messages": [{"role": "user", "content": "q"}]}}]
    with pytest.raises(FloatingPointError):
        reply_verdicts(Engine(model, tokenizer), questions, lambda question, reply: True)


def test_replies_reach_the_judge_beside_their_own_question(tokenizer):
    engine = Engine(blank_model(tokenizer), tokenizer, max_batch=4)
    questions = [{"conversation": {"messages": [{"role": "user", "content": "x" * i}]}, "number": i}
                 for i in range(9)]
    seen = []

    def is_even(question: dict, reply: str) -> bool:
        seen.append((question["number"], reply))
        return question["number"] % 2 == 0

    verdicts, replies = reply_verdicts(engine, questions, is_even, max_tokens=5)
    assert verdicts == [i % 2 == 0 for i in range(9)] and seen == list(enumerate(replies))


def test_accuracy_comes_with_its_binomial_error():
    assert accuracy([True] * 75 + [False] * 25) == (0.75, pytest.approx(math.sqrt(0.75 * 0.25 / 100)))
