"""The engine against uncached forward passes, textbook sampling and the rendering of training data."""

import functools
import math
from collections import Counter

import pytest
import torch

from nanochat import calculator
from nanochat.chat import render_conversation, render_prompt
from nanochat.engine import NEVER_SAMPLED, Engine, SamplingParams
from nanochat.gpt import GPT
from nanochat.scaling import Shape
from nanochat.tokenizer import SPECIAL_TOKENS, Tokenizer

CONTEXT = 150                                           # longer than the window of 128
GREEDY = SamplingParams(temperature=0)


@functools.cache
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["abc"], 256 + len(SPECIAL_TOKENS))          # bytes only: one way to spell a text


class Shared(list):
    """The same list in a model and in the copy that the engine makes of it."""

    def __deepcopy__(self, memo):
        return self


class Steered(GPT):
    """A real model that is pushed to write given tokens at given positions, so that it calls the tool."""
    script: dict[int, int] = {}

    def __init__(self, shape):
        super().__init__(shape)
        self.fed = Shared()

    def step(self, tokens, cache):
        self.fed.append(sum(map(len, tokens)))
        z = super().step(tokens, cache)
        for row, position in enumerate(cache.lengths[:len(tokens)]):
            if position in self.script:
                z[row] = -1e4
                z[row, self.script[position]] = 1e4
        return z

    def uncached(self, ids):
        """Logits after each of `ids`, in one forward pass."""
        with torch.no_grad():
            logits = self(torch.tensor([ids]))[0].clone()
        for position, token in self.script.items():
            if position <= len(ids):
                logits[position - 1, token] += 1000
        return logits


def model(script: dict[int, int] | None = None, heads: int = 2) -> Steered:
    shape = Shape(n_layer=3, n_head=heads, n_kv_head=heads // 2 or 1, n_embd=32, sequence_len=CONTEXT,
                  vocab_size=tokenizer().vocab_size, window_pattern="SL")
    net = Steered(shape)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in net.parameters():              # as initialised, every block is the identity
            parameter.normal_(0, 0.4, generator=generator)
    net.script = script or {}
    return net.eval()


def spell(start: int, *pieces: str) -> dict[int, int]:
    """A script that writes the pieces (texts or names of specials) from position `start` on."""
    ids = []
    for piece in pieces:
        ids += [tokenizer().special(piece)] if piece in SPECIAL_TOKENS else tokenizer().encode(piece)
    return dict(enumerate(ids, start))


def prompt(text: str) -> list[int]:
    return [tokenizer().bos] + tokenizer().encode(text)


def run(engine: Engine) -> None:
    while engine.busy:
        engine.step()


def legal(logits: torch.Tensor, in_tool: bool) -> torch.Tensor:
    wrong = [*NEVER_SAMPLED, "<|python_start|>" if in_tool else "<|python_end|>"]
    logits[[tokenizer().special(name) for name in wrong]] = -math.inf
    return logits


TOOL_SCRIPT = ("a", "<|python_start|>", "3*4", "<|python_end|>")


def test_every_token_is_the_likeliest_by_an_uncached_forward_pass():
    start, end = tokenizer().special("<|python_start|>"), tokenizer().special("<|python_end|>")
    net = model(spell(20, *TOOL_SCRIPT) | spell(60, "<|python_start|>", "1/0", "<|python_end|>"))
    prompts = [prompt("x" * n) for n in (0, 3, 3, 12, 18, 100, 140)]
    prompts += [prompt(text) for text in ("hello", "abc", "xyz")]
    completions = Engine(net, tokenizer(), max_batch=4).generate(prompts, GREEDY)
    for completion, ids in zip(completions, prompts):
        logits = net.uncached((ids + completion.ids)[:CONTEXT])
        in_tool = False
        for i, (token, sampled) in enumerate(zip(completion.ids, completion.sampled)):
            if sampled:
                assert token == int(legal(logits[len(ids) + i - 1], in_tool).argmax())
                in_tool = token == start or (in_tool and token != end)
    assert any(not all(completion.sampled) for completion in completions)


@pytest.mark.parametrize("expression, output", [
    ("3*4", "12"), ('"banana".count("a")', "3"), ("3*", calculator.INVALID), ("", calculator.INVALID)])
def test_a_tool_call_is_answered_in_the_format_of_the_training_data(expression, output):
    conversation = {"messages": [{"role": "user", "content": "Q"}]}
    ids = render_prompt(tokenizer(), conversation)
    answer = [{"type": "text", "text": "So: "}, {"type": "python", "text": expression},
              {"type": "python_output", "text": output}, {"type": "text", "text": "yes"}]
    written = spell(len(ids), "So: ", "<|python_start|>", expression, "<|python_end|>")
    after = len(ids) + len(written) + len(output) + 2
    net = model(written | spell(after, "yes", "<|assistant_end|>"))
    completion = Engine(net, tokenizer()).generate([ids], GREEDY)[0]
    conversation["messages"].append({"role": "assistant", "content": answer})
    expected, mask = render_conversation(tokenizer(), conversation)
    assert completion.parts == answer and completion.text == "So: yes" and completion.finish_reason == "stop"
    assert ids + completion.ids == expected
    assert completion.sampled == [bool(trained) for trained in mask[len(ids):]]
    conversation["messages"][1]["content"] = completion.parts           # the next turn shows the same tokens
    following = {"messages": conversation["messages"] + [{"role": "user", "content": "And?"}]}
    assert render_prompt(tokenizer(), following)[:len(expected)] == expected


def test_a_seeded_answer_does_not_depend_on_its_neighbours():
    net, texts = model(spell(30, *TOOL_SCRIPT)), ["", "a", "bb", "cc", "longer than the others"]
    settings = [SamplingParams(0.9, top_k=20, seed=1, max_tokens=50),
                SamplingParams(1.2, seed=2, max_tokens=30),
                GREEDY,
                SamplingParams(1.0, top_p=0.8, seed=3, max_tokens=60),
                SamplingParams(1.1, top_k=9, top_p=0.9, seed=4)]
    alone = [Engine(net, tokenizer()).generate([prompt(text)], params)[0].ids
             for text, params in zip(texts, settings)]
    together = Engine(net, tokenizer()).generate([prompt(text) for text in texts], settings)
    assert [completion.ids for completion in together] == alone
    engine, requests = Engine(net, tokenizer(), max_batch=3), []
    for delay, (text, params) in enumerate(zip(texts, settings)):       # joining while others are under way
        requests.append(engine.submit(prompt(text), params))
        requests.append(engine.submit(prompt("cancelled")))
        for _ in range(delay * 5):
            engine.step()
        engine.cancel(requests[-1])
    run(engine)
    assert [request.ids for request in requests[::2]] == alone


def test_equal_prompts_are_answered_independently_with_and_without_a_seed():
    engine = Engine(model(), tokenizer(), max_batch=16)
    for seed in (None, 5):
        answers = engine.generate([prompt("same")] * 12, SamplingParams(1.0, max_tokens=12, seed=seed))
        ids = [answer.ids for answer in answers]
        assert len(set(map(tuple, ids))) == 12 and len({first for first, *_ in ids}) > 1
    again = engine.generate([prompt("same")] * 12, SamplingParams(1.0, max_tokens=12, seed=5))
    assert [answer.ids for answer in again] == ids
    one, two = (engine.generate([prompt("same")], SamplingParams(1.0, max_tokens=12))[0] for _ in range(2))
    assert one.ids != two.ids


def test_the_sign_of_a_seed_matters():
    engine = Engine(model(), tokenizer())
    one, minus_one = (engine.generate([prompt("x")], SamplingParams(seed=seed, max_tokens=12))[0]
                      for seed in (1, -1))
    assert one.ids != minus_one.ids


def likely(logits: torch.Tensor, temperature: float, top_k: int | None,
           top_p: float | None) -> dict[int, float]:
    """Textbook probabilities, one token at a time."""
    weights = [math.exp(logit / temperature) for logit in logits.tolist()]
    ranked = sorted(range(len(weights)), key=lambda i: (weights[i], i), reverse=True)[:top_k]
    total, kept, so_far = sum(weights[i] for i in ranked), [], 0.0
    for i in ranked:
        if top_p is None or so_far < top_p:
            kept.append(i)
        so_far += weights[i] / total
    total = sum(weights[i] for i in kept)
    return {i: weights[i] / total for i in kept}


@pytest.mark.parametrize("temperature, top_k, top_p", [
    (1.0, None, None), (0.5, None, None), (2.0, 5, None), (1.0, None, 0.7), (1.5, 20, 0.8), (1.0, 1, None),
    (1.0, None, 1e-300), (1.0, 10**6, None)])
def test_tokens_are_drawn_with_the_textbook_probabilities(temperature, top_k, top_p):
    net, n = model(), 3000
    params = SamplingParams(temperature, top_k, top_p, max_tokens=1, seed=11)
    completions = Engine(net, tokenizer(), max_batch=n).generate([prompt("go")] * n, params)
    first = Counter(completion.ids[0] for completion in completions)
    expected = likely(legal(net.uncached(prompt("go"))[-1], False), temperature, top_k, top_p)
    assert set(first) <= set(expected)
    for token, p in expected.items():
        assert abs(first[token] - n * p) <= 5 * math.sqrt(n * p * (1 - p)) + 1


def test_prompts_of_length_0_1_context_and_one_more():
    engine = Engine(model(), tokenizer())
    one, full = engine.generate([[65], [65] * CONTEXT], GREEDY)
    assert len(full.ids) == 1 and full.finish_reason == "length" and len(full.prompt) == CONTEXT
    assert one.finish_reason == "length" and len(one.ids) == CONTEXT or one.finish_reason == "stop"
    for wrong in ([], [65] * (CONTEXT + 1)):
        with pytest.raises(ValueError, match="prompt length"):
            engine.submit(wrong)
    assert not engine.busy and engine.generate([], GREEDY) == []


def test_a_full_context_ends_an_answer_even_inside_a_tool_output():
    ids = [65] * (CONTEXT - 7)
    net = model(spell(len(ids), "<|python_start|>", "9**9", "<|python_end|>"))
    completion = Engine(net, tokenizer()).generate([ids], GREEDY)[0]
    assert completion.finish_reason == "length" and len(ids) + len(completion.ids) == CONTEXT + 1
    assert completion.parts == [{"type": "python", "text": "9**9"}, {"type": "python_output", "text": "3"}]


def test_streamed_pieces_add_up_to_the_decoded_answer():
    net = model(spell(4, "Né€", "<|python_start|>", "2**5", "<|python_end|>"))
    for seed in range(3):
        engine = Engine(net, tokenizer())
        request = engine.submit(prompt("abc"), SamplingParams(0.8, seed=seed, max_tokens=100))
        pieces = list(engine.stream(request))
        assert request.ids == engine.generate([prompt("abc")], request.params)[0].ids
        for kind in ("text", "python", "python_output"):
            decoded = "".join(part["text"] for part in request.parts if part["type"] == kind)
            assert "".join(text for piece_kind, text in pieces if piece_kind == kind) == decoded
        body = request.ids[:-1] if request.finish_reason == "stop" else request.ids
        everything = "".join(text for _, text in pieces)
        assert everything.startswith("Né€2**532")
        plain = tokenizer().decode([i for i in body if tokenizer().token_bytes()[i]])
        # A marker may stand inside a character, which then shows as U+FFFD in one of the two alone.
        assert everything.replace("\ufffd", "") == plain.replace("\ufffd", "")


def test_markers_that_make_no_sense_are_never_sampled():
    wild = SamplingParams(50.0, max_tokens=100, seed=1)
    answers = Engine(model(), tokenizer()).generate([prompt("x")] * 20, wild)
    specials = {tokenizer().special(name): name for name in SPECIAL_TOKENS}
    for answer in answers:
        in_tool = False
        drawn = [token for token, sampled in zip(answer.ids, answer.sampled) if sampled]
        for name in (specials[token] for token in drawn if token in specials):
            assert name not in NEVER_SAMPLED and name != ("<|python_start|>" if in_tool else "<|python_end|>")
            in_tool = name == "<|python_start|>"


def test_finished_rows_cost_nothing_and_equal_prompts_are_read_once():
    net = model()
    prompts = [prompt("abc")] * 3 + [prompt("defg")] * 2
    settings = [SamplingParams(seed=1, max_tokens=most) for most in (2, 40, 9, 1, 25)]
    answers = Engine(net, tokenizer()).generate(prompts, settings)
    assert sum(net.fed) == 4 + 5 + sum(len(answer.ids) - 1 for answer in answers)


def test_leaving_a_stream_frees_its_slot():
    engine = Engine(model(), tokenizer(), max_batch=1)
    request = engine.submit(prompt("a"), SamplingParams(seed=3))
    waiting = engine.submit(prompt("b"), GREEDY)
    stream = engine.stream(request)
    next(stream)
    stream.close()
    assert request.done and request.finish_reason == "cancelled" and len(request.ids) < CONTEXT
    expected = Engine(model(), tokenizer()).generate([prompt("b")], GREEDY)[0]
    run(engine)
    for field in ("ids", "sampled", "logprobs", "parts", "text", "finish_reason"):
        assert getattr(waiting, field) == getattr(expected, field)
    late = engine.submit(prompt("c"))
    engine.cancel(late)
    engine.cancel(late)
    assert late.finish_reason == "cancelled" and not engine.busy


def test_nan_is_an_error():
    net = model()
    with torch.no_grad():
        net.unembedding.fill_(math.nan)
    with pytest.raises(FloatingPointError):
        Engine(net, tokenizer()).generate([prompt("a")], GREEDY)


def test_the_model_can_be_trained_after_it_was_sampled_from():
    net = model()
    Engine(net, tokenizer()).generate([prompt("a")], SamplingParams(max_tokens=3))
    net(torch.tensor([[1, 2, 3]]), torch.tensor([[2, 3, 4]])).backward()
    assert net.unembedding.grad.isfinite().all()


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"temperature": 101}, {"temperature": math.nan},
                                   {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1}, {"max_tokens": 0}])
def test_settings_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamplingParams(**wrong)
