"""The server as OpenAI's own client sees it. Oracles: the engine, the model's forward pass."""

import asyncio
import threading
import openai
import pytest
import torch
from chat_server import (
    CONTEXT,
    PARTS,
    TOKENIZER,
    TOOL,
    Gated,
    bigram,
    metric,
    random_model,
    served,
    serving,
    settled,
)
from nanochat.engine import Engine, SamplingParams

HI = [{"role": "user", "content": "Hi"}]
RANDOM = {"model": "tiny-mid", "temperature": 1.0, "extra_body": {"top_k": None}}
MODEL = random_model()


@pytest.fixture(scope="module")
def server():
    with serving(Gated(bigram(TOOL)), models=[served(Engine(MODEL, TOKENIZER, 4), "tiny-mid")]) as client:
        yield client


def connect(server, kind=openai.OpenAI, **options):
    return kind(base_url=f"{server.base_url}/v1", api_key="any", max_retries=0, **options)


@pytest.fixture(scope="module")
def client(server):
    with connect(server) as client:
        yield client


def engine_says(prompts: list[list[int]], **settings) -> list:
    params = SamplingParams(**{"temperature": 1.0, "max_tokens": 30, "top_logprobs": 20} | settings)
    return Engine(MODEL, TOKENIZER).generate(prompts, params)


def prompt_of(messages: list[dict], **settings) -> list[int]:
    return Engine(MODEL, TOKENIZER).prompt({"messages": messages}, SamplingParams(**settings))


def close_to_forward(ids: list[int], logprobs: list[float], entropies: list[float], tops: list[dict]) -> None:
    """What is said of the last tokens of `ids` is the log-softmax of the model's logits before them."""
    with torch.no_grad():
        expected = MODEL(torch.tensor([ids[:-1]]))[0].log_softmax(-1)[-len(logprobs):]
    for row, id, logprob, entropy, top in zip(expected, ids[-len(logprobs):], logprobs, entropies, tops):
        assert logprob == pytest.approx(row[id].item(), abs=2e-4)
        assert entropy == pytest.approx(-(row.exp() * row).sum().item(), abs=2e-4)
        best = row.topk(len(top))
        assert list(top.values()) == pytest.approx(best.values.tolist(), abs=2e-4)
        assert all(row[other].item() == pytest.approx(value, abs=2e-4) for other, value in top.items())


def test_the_client_gets_a_whole_answer_and_can_send_it_back(client):
    reply = client.chat.completions.create(model="tiny-sft", messages=HI, temperature=0)
    message = reply.choices[0].message
    assert message.content == "ok!" and message.parts == PARTS and message.refusal is None
    assert reply.choices[0].finish_reason == "stop" and reply.usage.total_tokens == 19
    more = [*HI, message, {"role": "user", "content": "And?"}]      # as its documentation shows
    again = client.chat.completions.create(model="", messages=more, temperature=0)
    assert again.choices[0].message.content == "ok!" and again.usage.prompt_tokens > 20


def test_the_client_streams_the_same_text_as_the_whole_answer(client):
    settings = dict(RANDOM, messages=HI, seed=4, max_completion_tokens=30)
    whole = client.chat.completions.create(**settings)
    counted = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(**settings, **counted))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert text == whole.choices[0].message.content and chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    with client.chat.completions.stream(model="", messages=HI, temperature=0) as stream:    # it adds up
        assert stream.get_final_completion().choices[0].message.content == "ok!"


def test_the_server_says_what_the_engine_generates_from_the_same_prompt_and_seed(client):
    for seed in range(3):
        for settings in ({}, {"top_p": 0.7}, {"frequency_penalty": 1.5, "presence_penalty": 0.5}):
            asked = RANDOM | settings | {"messages": HI, "seed": seed, "max_tokens": 30, "n": 3}
            reply = client.chat.completions.create(**asked)
            answers = engine_says([prompt_of(HI, max_tokens=30)] * 3, seed=seed, **settings)
            assert [choice.message.content for choice in reply.choices] == [answer.text for answer in answers]
            assert len({answer.text for answer in answers}) == 3
            assert all(a.finish_reason == b.finish_reason for a, b in zip(reply.choices, answers))
            assert reply.usage.completion_tokens == sum(len(answer.ids) for answer in answers)
    extra = RANDOM | {"extra_body": {"top_k": None, "min_p": 0.1, "repetition_penalty": 1.3}}
    reply = client.chat.completions.create(**extra, messages=HI, seed=1, max_tokens=30)
    answer, = engine_says([prompt_of(HI, max_tokens=30)], seed=1, min_p=0.1, repetition_penalty=1.3)
    assert reply.choices[0].message.content == answer.text


def test_logprobs_are_the_log_softmax_of_the_models_logits(client):
    settings = dict(RANDOM, messages=HI, seed=2, max_tokens=20, logprobs=True, top_logprobs=5)
    content = client.chat.completions.create(**settings).choices[0].logprobs.content
    ids = [entry.id for entry in content]
    assert len(ids) == 20 and all(len(entry.top_logprobs) == 5 for entry in content)
    assert [bytes(entry.bytes) for entry in content] == [TOKENIZER.decode_bytes([id]) for id in ids]
    close_to_forward([*prompt_of(HI, max_tokens=20), *ids], [entry.logprob for entry in content],
                     [entry.entropy for entry in content],
                     [{other.id: other.logprob for other in entry.top_logprobs} for entry in content])
    streamed = [entry for chunk in client.chat.completions.create(**settings, stream=True)
                if chunk.choices[0].logprobs for entry in chunk.choices[0].logprobs.content]
    assert streamed == content
    settings |= {"top_logprobs": None}
    bare = client.chat.completions.create(**settings).choices[0].logprobs.content
    assert [entry.id for entry in bare] == ids and not any(entry.top_logprobs for entry in bare)


def test_an_answer_goes_on_from_a_token_that_the_client_chose(client):
    settings = dict(RANDOM, messages=HI, max_tokens=20, logprobs=True, top_logprobs=3, temperature=0)
    content = client.chat.completions.create(**settings).choices[0].logprobs.content
    begun = [*(entry.id for entry in content[:4]), content[4].top_logprobs[1].id]
    settings["extra_body"] = {"top_k": None, "answer_ids": begun}
    choice = client.chat.completions.create(**settings).choices[0]
    ids, prompt = [entry.id for entry in choice.logprobs.content], prompt_of(HI, max_tokens=20)
    answer, = engine_says([prompt + begun], temperature=0, max_tokens=20)
    assert ids == answer.ids and choice.message.content == TOKENIZER.decode(begun + ids)


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings_end_the_text_before_them(client, stream):
    settings = dict(RANDOM, messages=HI, seed=4, max_tokens=60)
    text = client.chat.completions.create(**settings).choices[0].message.content
    stop = next(text[i:i + 2] for i in range(5, 50) if text.isascii() or text[i:i + 2].isascii())
    reply = client.chat.completions.create(**settings, stop=[stop, "never said"], stream=stream)
    if stream:
        chunks = list(reply)
        said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        reason = chunks[-1].choices[0].finish_reason
    else:
        said, reason = reply.choices[0].message.content, reply.choices[0].finish_reason
    assert said == text[:text.index(stop)] and reason == "stop"


def test_raw_text_is_continued_n_times(client):
    settings = dict(RANDOM, seed=9, max_tokens=10, prompt="abc", n=3)
    reply = client.completions.create(**settings, logprobs=1)
    answers = engine_says([[TOKENIZER.bos, *TOKENIZER.encode("abc")]] * 3, seed=9, max_tokens=10)
    assert [choice.text for choice in reply.choices] == [answer.text for answer in answers]
    assert [choice.index for choice in reply.choices] == [0, 1, 2] and reply.object == "text_completion"
    assert reply.usage.prompt_tokens == 4
    assert reply.usage.completion_tokens == sum(len(answer.ids) for answer in answers)
    texts = ["", "", ""]
    for chunk in client.completions.create(**settings, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [answer.text for answer in answers]


@pytest.mark.parametrize("stream", [False, True])
def test_the_likelihood_of_ones_own_text_is_told_by_echo(client, stream):
    text = "Straße, né?"
    fields = {"model": "tiny-mid", "prompt": text, "echo": True, "max_tokens": 0, "logprobs": 4}
    reply = client.completions.create(**fields, stream=stream)
    if stream:
        chunks = [chunk for chunk in reply if chunk.choices[0].text]
        assert len(chunks) == 1
        choice = chunks[0].choices[0]
    else:
        choice = reply.choices[0]
        assert choice.finish_reason == "length" and reply.usage.completion_tokens == 0
    told, ids = choice.logprobs, TOKENIZER.encode(text)
    assert choice.text == text and told.ids == ids
    raw = text.encode()
    # bytes are tokens here
    assert told.text_offset == [len(raw[:i].decode(errors="ignore")) for i in range(len(raw))]
    assert told.tokens[:5] == ["S", "t", "r", "a", "\\xc3"]
    with torch.no_grad():
        rows = MODEL(torch.tensor([[TOKENIZER.bos, *ids]]))[0].log_softmax(-1)[:-1]
    own = [row[id].item() for row, id in zip(rows, ids)]
    assert told.token_logprobs == pytest.approx(own, abs=2e-4)
    assert told.entropies == pytest.approx((-(rows.exp() * rows).sum(-1)).tolist(), abs=2e-4)
    for row, top, mine in zip(rows, told.top_logprobs, own):
        best = sorted({*row.topk(4).values.tolist(), mine})
        assert sorted(top.values()) == pytest.approx(best, abs=2e-4)


def test_echo_puts_the_prompt_before_what_is_made(client):
    settings = dict(RANDOM, prompt="abc", seed=1, max_tokens=8, logprobs=2)
    made, both = (client.completions.create(**settings, echo=echo).choices[0] for echo in (False, True))
    assert both.text == "abc" + made.text
    assert both.logprobs.ids == [*TOKENIZER.encode("abc"), *made.logprobs.ids]
    assert both.logprobs.token_logprobs[3:] == pytest.approx(made.logprobs.token_logprobs, abs=1e-5)
    assert both.logprobs.text_offset[:4] == [0, 1, 2, 3]


def test_the_client_raises_the_right_exception_for_each_refusal(client, server):
    create = client.chat.completions.create
    with pytest.raises(openai.BadRequestError, match="temperature is 900") as refused:
        create(model="tiny-sft", messages=HI, temperature=900)
    assert refused.value.param == "temperature" and refused.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError, match="tools: this field is not supported") as refused:
        create(model="tiny-sft", messages=HI, tools=[{"type": "function", "function": {"name": "f"}}])
    assert refused.value.param == "tools" and refused.value.code == "unsupported_parameter"
    with pytest.raises(openai.NotFoundError, match="tiny-sft, tiny-mid"):
        create(model="gpt-4", messages=HI)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")
    with pytest.raises(openai.BadRequestError, match="1 to 200 tokens"):
        client.completions.create(model="tiny-sft", prompt="a" * 999)
    with pytest.raises(openai.APIStatusError, match="larger than"):
        client.completions.create(model="tiny-sft", prompt="a" * 900_000)


def test_the_client_raises_the_right_exception_for_each_failure():
    engine = Gated(bigram(TOOL), max_batch=1)
    with serving(engine, flags="--max-batch=1 --max-waiting=0 --api-key=sesame") as server:
        with pytest.raises(openai.AuthenticationError):
            connect(server).models.list()
        with connect(server).with_options(api_key="sesame") as client:
            create = client.chat.completions.create
            engine.broken = True
            with pytest.raises(openai.InternalServerError, match="the model failed"):
                create(model="", messages=HI)
            with pytest.raises(openai.APIError, match="the model failed"):
                list(create(model="", messages=HI, stream=True))
            engine.broken, engine.gate = False, threading.Semaphore(0)
            stream = create(model="", messages=HI, stream=True)
            with pytest.raises(openai.RateLimitError) as refused:
                create(model="", messages=HI)
            assert refused.value.response.headers["retry-after"] and refused.value.type == "rate_limit_error"
            engine.gate.release(1000)
            assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "ok!"


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()] == ["tiny-sft", "tiny-mid"]
    assert client.models.retrieve("tiny-mid").context == CONTEXT


def test_many_at_once_get_the_answers_that_they_would_get_alone(server):
    """16 different conversations, streamed and not, by the asynchronous client; a queue of 4 makes some try
    again."""
    chats = [[{"role": "user", "content": "x" * i}] for i in range(1, 17)]

    async def say(client, number: int, messages: list[dict]) -> str:
        settings = dict(RANDOM, messages=messages, seed=number, max_tokens=20)
        if number % 2:
            return (await client.chat.completions.create(**settings)).choices[0].message.content
        stream = await client.chat.completions.create(**settings, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def all_at_once() -> list[str]:
        async with connect(server, openai.AsyncOpenAI) as client:
            client.max_retries = 50
            client._calculate_retry_timeout = lambda *_: 0.05           # not Retry-After's seconds
            return await asyncio.gather(*(say(client, i, chat) for i, chat in enumerate(chats)))

    said = asyncio.run(all_at_once())
    for number, (text, messages) in enumerate(zip(said, chats)):
        answer, = engine_says([prompt_of(messages, max_tokens=20)], seed=number, max_tokens=20)
        assert text == answer.text
    assert settled(server) and metric(server, "running") == metric(server, "waiting") == 0


def test_a_stream_that_the_client_closes_frees_its_place(server):
    with connect(server) as client:
        stream = client.chat.completions.create(**RANDOM, messages=HI, stream=True)
        assert next(iter(stream)).choices
        stream.close()
        assert settled(server)
