"""The engine against uncached forward passes, textbook sampling and the rendering of training data."""

import functools
import gc
import math
import weakref
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


def stream(engine: Engine, request):
    """Pieces of a request as they come; who leaves early cancels it."""
    try:
        while not request.done:
            engine.step()
            yield from request.take()
    finally:
        engine.cancel(request)


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
        pieces = list(stream(engine, request))
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
    pieces = stream(engine, request)
    next(pieces)
    pieces.close()
    assert request.done and request.finish_reason == "cancelled" and len(request.ids) < CONTEXT
    expected = Engine(model(), tokenizer()).generate([prompt("b")], GREEDY)[0]
    run(engine)
    for field in ("ids", "sampled", "logprobs", "parts", "text", "finish_reason"):
        assert getattr(waiting, field) == getattr(expected, field)
    late = engine.submit(prompt("c"))
    engine.cancel(late)
    engine.cancel(late)
    assert late.finish_reason == "cancelled" and not engine.busy


def test_reset_gives_the_memory_back_at_once():
    engine = Engine(model(), tokenizer(), keep=1)
    gc.disable()
    try:
        engine.generate([prompt("a" * 30)] * 3, SamplingParams(max_tokens=3))
        alive = [weakref.ref(engine._cache), weakref.ref(engine._weights)]
        engine.reset()
        assert [ref() for ref in alive] == [None, None]
    finally:
        gc.enable()


def test_nan_is_an_error():
    net = model()
    with torch.no_grad():
        net.unembedding.fill_(math.nan)
    with pytest.raises(FloatingPointError):
        Engine(net, tokenizer()).generate([prompt("a")], GREEDY)
    with pytest.raises(FloatingPointError):
        Engine(net, tokenizer()).score(prompt("a"))


def test_the_model_can_be_trained_after_it_was_sampled_from():
    net = model()
    Engine(net, tokenizer()).generate([prompt("a")], SamplingParams(max_tokens=3))
    net(torch.tensor([[1, 2, 3]]), torch.tensor([[2, 3, 4]])).backward()
    assert net.unembedding.grad.isfinite().all()


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"temperature": 101}, {"temperature": math.nan},
                                   {"top_k": 0}, {"top_p": -0.1}, {"top_p": 1.1}, {"max_tokens": 0}])
def test_settings_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamplingParams(**wrong)


def fresh_ids(net, ids: list[int], params: SamplingParams) -> list[int]:
    return Engine(net, tokenizer()).generate([ids], params)[0].ids


def test_any_chunking_of_prompts_beside_running_answers_gives_the_same(monkeypatch):
    net, settings = model(spell(20, *TOOL_SCRIPT)), SamplingParams(0.9, seed=4, max_tokens=30)
    prompts = [prompt("x" * n) for n in (0, 7, 90, 119, 33, 60)]
    alone = [fresh_ids(net, ids, settings) for ids in prompts]
    for chunk in (1, 3, 50):
        monkeypatch.setattr("nanochat.engine.CHUNK_TOKENS", chunk)
        monkeypatch.setattr("nanochat.engine.PREFILL_TOKENS", 2 * chunk)
        engine, requests = Engine(net, tokenizer(), max_batch=4), []
        for ids in prompts:
            requests.append(engine.submit(ids, settings))
            engine.step()
        run(engine)
        assert [request.ids for request in requests] == alone


@pytest.mark.parametrize("more", ["next turn", "retry", "edited", "longer than the windows"])
def test_an_answer_from_a_kept_prefix_equals_a_fresh_one(more):
    net, params = model(), SamplingParams(0.8, seed=1, max_tokens=25)
    first = prompt("a" * (100 if more.startswith("longer") else 30))
    engine = Engine(net, tokenizer(), keep=2)
    answer = engine.generate([first], params)[0]
    seen = first + answer.ids[:-1]
    following = {"next turn": seen + prompt("and then?"), "retry": first, "edited": first[:20] + prompt("b"),
                 "longer than the windows": (seen + prompt("and then?"))[:CONTEXT - 5]}[more]
    net.fed.clear()
    again = engine.generate([following], params)[0]
    reused = {"next turn": len(seen), "retry": len(first) - 1, "edited": 20,
              "longer than the windows": len(seen)}[more]
    assert again.reused == reused and sum(net.fed) == len(following) - reused + len(again.ids) - 1
    assert again.ids == fresh_ids(net, following, params)
    assert len(engine._kept) <= 2


def test_what_a_window_has_lost_is_not_reused():
    net, params = model(), SamplingParams(0.8, seed=1, max_tokens=20)
    engine = Engine(net, tokenizer(), keep=1)
    engine.generate([prompt("a" * 128)], params)                        # the ring has gone round
    edited = prompt("a" * 50 + "b")
    again = engine.generate([edited], params)[0]
    assert again.reused == 0 and again.ids == fresh_ids(net, edited, params)


def test_a_kept_prefix_ends_with_the_weights_that_made_it():
    net, params = model(), SamplingParams(0, max_tokens=10)
    engine = Engine(net, tokenizer(), keep=1)
    engine.generate([prompt("a" * 40)], params)
    with torch.no_grad():
        net.blocks[0].mlp.up.weight.mul_(-1.5)
    again = engine.generate([prompt("a" * 40)], params)[0]
    assert again.reused == 0 and again.ids == fresh_ids(net, prompt("a" * 40), params)


def test_a_text_is_cut_before_a_stop_even_when_it_is_spread_over_tokens():
    net = model(spell(3, "one, two, three<|assistant_end|>", "<|assistant_end|>"))
    for stop, text in ((("two",), "one, "), (("wo, t", "never"), "one, t"), (("three!",), None),
                       (("one, two", "e, t"), "on"), ((",",), "one")):
        engine = Engine(net, tokenizer())
        request = engine.submit(prompt("ab"), SamplingParams(0, stop=stop))
        streamed = "".join(piece for _, piece in stream(engine, request))
        expected = "one, two, three<|assistant_end|>" if text is None else text
        assert streamed == request.text == expected and request.finish_reason == "stop"


@pytest.mark.parametrize("min_p, top_k", [(0.05, None), (0.3, 5), (1.0, None), (0.0, None)])
def test_min_p_keeps_what_has_that_share_of_the_likeliest(min_p, top_k):
    net, n = model(), 2000
    params = SamplingParams(1.3, top_k, min_p=min_p, max_tokens=1, seed=5)
    first = Counter(each.ids[0] for each in Engine(net, tokenizer(), n).generate([prompt("go")] * n, params))
    plain = likely(legal(net.uncached(prompt("go"))[-1], False), 1.3, top_k, None)
    kept = {token: p for token, p in plain.items() if p >= min_p * max(plain.values())}
    total = sum(kept.values())
    assert set(first) <= set(kept)
    for token, p in kept.items():
        assert abs(first[token] - n * p / total) <= 5 * math.sqrt(n * p / total) + 1


@pytest.mark.parametrize("penalties", [
    {"repetition_penalty": 1.5}, {"frequency_penalty": 1.2}, {"presence_penalty": 2.0},
    {"repetition_penalty": 0.8, "frequency_penalty": -0.5, "presence_penalty": -1.0}])
def test_penalties_change_logits_by_their_formulas(penalties):
    net, ids = model(), prompt("abcabc")
    params = SamplingParams(0, max_tokens=20, **penalties)
    answer = Engine(net, tokenizer()).generate([ids], params)[0]
    assert answer.ids != fresh_ids(net, ids, SamplingParams(0, max_tokens=20))
    logits = net.uncached(ids + answer.ids)
    for i, token in enumerate(answer.ids):
        if not answer.sampled[i]:
            continue
        row, before = logits[len(ids) + i - 1].clone(), answer.ids[:i]
        for seen in {*ids, *before}:
            row[seen] *= params.repetition_penalty if row[seen] < 0 else 1 / params.repetition_penalty
        for seen, times in Counter(before).items():
            row[seen] -= params.frequency_penalty * times + params.presence_penalty
        assert token == int(legal(row, answer.in_call[i]).argmax())


def test_details_are_the_models_own_distribution():
    net, ids = model(spell(30, *TOOL_SCRIPT)), prompt("details")
    params = SamplingParams(0.7, top_k=3, seed=2, max_tokens=60, top_logprobs=4)
    answer, other = Engine(net, tokenizer()).generate([ids, prompt("other")], [params, GREEDY])
    assert not other.details and len(answer.details) == len(answer.ids) - (answer.finish_reason == "stop")
    with torch.no_grad():
        logits = GPT.forward(net, torch.tensor([(ids + answer.ids)[:-1]]))[0, len(ids) - 1:]
    logprobs = logits.log_softmax(-1)
    for i, detail in enumerate(answer.details):
        assert detail.id == answer.ids[i]
        if not answer.sampled[i]:
            assert (detail.logprob, detail.entropy, detail.top) == (0.0, 0.0, [])
        elif len(ids) + i not in net.script:            # the steered ones are certain
            assert detail.logprob == pytest.approx(logprobs[i, detail.id].item(), abs=1e-4)
            entropy = -(logprobs[i] * logprobs[i].exp()).sum().item()
            assert detail.entropy == pytest.approx(entropy, abs=1e-3) and len(detail.top) == 4
            best = logprobs[i].topk(4)
            assert [logprob for _, logprob in detail.top] == pytest.approx(best.values.tolist(), abs=1e-4)
    assert not all(answer.sampled)


def test_a_text_is_scored_as_by_one_forward_pass():
    net, ids = model(), prompt("how likely is this?")
    found = Engine(net, tokenizer()).score(ids, top=2)
    with torch.no_grad():
        logprobs = net(torch.tensor([ids]))[0].log_softmax(-1)
    assert [detail.id for detail in found] == ids[1:]
    for i, detail in enumerate(found):
        assert detail.logprob == pytest.approx(logprobs[i, ids[i + 1]].item(), abs=1e-4)
        assert len(detail.top) == 2 and detail.top[0][1] == pytest.approx(logprobs[i].max().item(), abs=1e-4)
    assert Engine(net, tokenizer()).score(ids[:1]) == []
    with pytest.raises(ValueError, match="length"):
        Engine(net, tokenizer()).score([65] * (CONTEXT + 1))


def test_an_answer_goes_on_from_what_it_begins_with():
    net, ids = model(spell(20, *TOOL_SCRIPT)), prompt("go on")
    whole = Engine(net, tokenizer()).generate([ids], SamplingParams(0, max_tokens=40))[0]
    calls = [i for i, token in enumerate(whole.ids) if token == tokenizer().special("<|python_end|>")]
    for cut in (1, 5, calls[0] - 1, calls[0] + 1, calls[0] + 3):
        engine = Engine(net, tokenizer())
        request = engine.submit(ids, SamplingParams(0, max_tokens=40 - cut), begun=whole.ids[:cut])
        pieces = list(stream(engine, request))
        assert request.ids == whole.ids and request.parts == whole.parts
        assert request.sampled[:cut] == [False] * cut
        assert "".join(text for _, text in pieces) == "".join(part["text"] for part in whole.parts)
    for wrong in ([tokenizer().special("<|assistant_end|>")], [-1], [10 ** 6]):
        with pytest.raises(ValueError, match="an id of the answer"):
            Engine(net, tokenizer()).submit(ids, begun=wrong)


def test_requests_that_share_a_prompt_survive_each_others_cancellation(monkeypatch):
    monkeypatch.setattr("nanochat.engine.PREFILL_TOKENS", 4)            # several passes for a prompt
    net, params = model(), SamplingParams(0.9, seed=6, max_tokens=12)
    expected = Engine(net, tokenizer()).generate([prompt("shared prompt")] * 3, params)
    engine = Engine(net, tokenizer(), max_batch=4)
    requests = [engine.submit(prompt("shared prompt"), params, sample=i) for i in (0, 1, 2)]
    engine.step()
    engine.cancel(requests[0])
    engine.step()
    engine.cancel(requests[2])
    run(engine)
    assert [each.finish_reason for each in requests][::2] == ["cancelled"] * 2
    assert requests[1].ids == expected[1].ids


def test_old_turns_are_dropped_whole_and_counted():
    engine = Engine(model(), tokenizer())
    turn = [{"role": "user", "content": "q" * 10}, {"role": "assistant", "content": "a" * 10}]
    messages = [{"role": "system", "content": "be brief"}, *turn * 5, {"role": "user", "content": "last"}]
    ids, dropped = engine.fit({"messages": messages}, SamplingParams(max_tokens=40))
    rest = [messages[0], *turn * (5 - dropped), messages[-1]]
    assert 0 < dropped < 5 and ids == engine.prompt({"messages": rest}, SamplingParams(max_tokens=1))
    assert len(ids) <= CONTEXT - 40 + 1 < len(ids) + 24                 # one more would not have fitted


@pytest.mark.parametrize("wrong", [{"min_p": 1.5}, {"repetition_penalty": 0}, {"frequency_penalty": 3},
                                   {"presence_penalty": -2.5}, {"stop": ("",)}, {"stop": tuple("abcde")},
                                   {"top_logprobs": 21}])
def test_more_settings_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamplingParams(**wrong)
