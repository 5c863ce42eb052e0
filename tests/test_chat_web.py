"""The server over plain HTTP: what it answers, what it refuses, what it survives."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from argparse import Namespace
from pathlib import Path
import httpx
import pytest
import torch
from chat_server import (
    CALL,
    CONTEXT,
    ENDLESS,
    PARTS,
    SAID,
    TOKENIZER,
    TOOL,
    Gated,
    ask,
    bigram,
    complete,
    events,
    metric,
    one,
    random_model,
    served,
    serving,
    settled,
)
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params
from pydantic import ValidationError
from nanochat import checkpoint
from nanochat.dist import World
from nanochat.engine import Engine, SamplingParams
from nanochat.stage import Stage
from scripts import chat_web

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def client():
    with serving(Gated(bigram(TOOL)), models=[served(Gated(random_model()), "tiny-base")]) as client:
        yield client


def test_a_whole_answer_has_the_form_of_the_openai_api(client):
    reply = ask(client).json()
    assert reply["object"] == "chat.completion" and reply["model"] == "tiny-sft"
    assert reply["id"].startswith("chatcmpl-")
    message = {"role": "assistant", "content": "ok!", "refusal": None, "parts": PARTS}
    assert reply["choices"] == [{"index": 0, "finish_reason": "stop", "message": message, "logprobs": None}]
    assert reply["usage"] == {"prompt_tokens": 6, "completion_tokens": 13, "total_tokens": 19,
                              "prompt_tokens_details": {"cached_tokens": 0}}
    assert reply["nanochat"] == {"prompt_tokens": 6, "dropped_turns": 0, "context": CONTEXT}


def test_a_streamed_answer_adds_up_to_the_whole_one(client):
    response = ask(client, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    chunks = events(response.text)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""} and deltas[-1] == {}
    assert "".join(delta.get("content", "") for delta in deltas) == "ok!"
    for kind, text in (("python", "6*7"), ("python_output", "42")):
        assert "".join(d["part"]["text"] for d in deltas if d.get("part", {}).get("type") == kind) == text
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert len({chunk["id"] for chunk in chunks}) == 1 and not any("usage" in chunk for chunk in chunks)
    assert [chunk.get("nanochat") for chunk in chunks] == [
        {"prompt_tokens": 6, "dropped_turns": 0, "context": CONTEXT}] + [None] * (len(chunks) - 1)
    counted = events(ask(client, stream=True, stream_options={"include_usage": True}).text)
    assert counted[-1]["choices"] == [] and counted[-1]["usage"]["completion_tokens"] == 13


def test_the_ids_of_an_answer_with_its_tool_call_are_told_and_can_begin_the_next_one(client):
    reply = ask(client, logprobs=True, top_logprobs=1).json()
    entries = reply["choices"][0]["logprobs"]["content"]
    ids = [entry["id"] for entry in entries]
    names = "ok<|python_start|>6*7<|python_end|><|output_start|>42<|output_end|>!"
    assert TOKENIZER.decode(ids) == names == "".join(entry["token"] for entry in entries)
    for count in range(len(ids) + 1):
        begun = ask(client, answer_ids=ids[:count], logprobs=True).json()
        choice = begun["choices"][0]
        assert choice["message"]["parts"] == PARTS and choice["finish_reason"] == "stop"
        made = [entry["id"] for entry in choice["logprobs"]["content"]]
        assert made == ids[count:] and begun["usage"]["prompt_tokens"] == 6 + count
        assert begun["usage"]["total_tokens"] == reply["usage"]["total_tokens"]
    streamed = events(ask(client, answer_ids=ids[:4], stream=True, logprobs=True).text)
    parts = [d["part"] for chunk in streamed if "part" in (d := chunk["choices"][0]["delta"])]
    assert "".join(part["text"] for part in parts if part["type"] == "python") == "6*7"
    changed = [*map(one, "ok"), CALL, *map(one, "6*")]
    assert ask(client, answer_ids=[*changed, one("7")]).json()["choices"][0]["message"]["parts"] == PARTS


def test_a_stored_answer_can_be_sent_back_in_parts_or_as_the_message_that_came(client):
    message, question = ask(client).json()["choices"][0]["message"], {"role": "user", "content": "And?"}
    sizes = []
    for answer in ({"role": "assistant", "content": PARTS}, message, message | {"tool_calls": None},
                   {"role": "assistant", "content": "ok!"}):
        reply = ask(client, messages=[*SAID["messages"], answer, question])
        sizes.append(reply.json()["usage"]["prompt_tokens"])
    assert sizes[0] == sizes[1] == sizes[2] == sizes[3] + len("6*7" + "42") + 4


def test_settings_reach_the_model(client):
    choice = ask(client, max_tokens=1).json()["choices"][0]
    assert choice["finish_reason"] == "length" and choice["message"]["content"] == "o"
    extreme = {"top_k": 2**70, "top_p": 1e-300, "temperature": 100, "seed": -2**80, "max_tokens": 2**70}
    assert ask(client, **extreme).status_code == 200
    assert ask(client, **extreme | {"top_k": None, "top_p": None}).status_code == 200
    few = ask(client, max_completion_tokens=2, max_tokens=9, top_p=0.5, top_k=3, seed=1, temperature=1).json()
    assert few["usage"]["completion_tokens"] == 2


def test_every_field_of_the_official_client_is_understood_or_harmless_or_refused_by_name(client):
    for path, form, params, body in (
            ("/v1/chat/completions", chat_web.ChatRequest, chat_create_params, SAID),
            ("/v1/completions", chat_web.TextRequest, completion_create_params, {"prompt": "a"})):
        names = set(params.CompletionCreateParamsBase.__annotations__) | {"stream"}
        assert set(body) <= names and {"logit_bias", "seed"} <= names
        for name in names - set(form.model_fields):
            response = client.post(path, json=body | {name: {"x": 1}})
            if name in chat_web.HARMLESS:
                assert response.status_code == 200
            else:
                error = response.json()["error"]
                assert response.status_code == 400 and error["param"] == name and name in error["message"]
                assert error["code"] == "unsupported_parameter" and error["type"] == "invalid_request_error"
            assert client.post(path, json=body | {name: None}).status_code == 200       # as if not there
    neutral = {"store": False, "tools": [], "tool_choice": "none", "logit_bias": {}, "user": "me",
               "response_format": {"type": "text"}, "modalities": ["text"], "metadata": {"a": "b"}}
    assert ask(client, **neutral).status_code == 200
    assert ask(client, response_format={"type": "json_object"}).status_code == 400
    assert ask(client, zeal=1, eagerness=2).json()["error"]["param"] == "zeal"


@pytest.mark.parametrize("fields, param, says", [
    ({"messages": []}, None, "at least one"), ({"messages": "Hi"}, "messages", "array"),
    ({"messages": [{"role": "user", "content": 1}]}, None, "a string or a list"),
    ({"messages": [{"role": "tool", "content": ""}]}, None, "'user'"),
    ({"messages": [{"role": "user", "content": "", "audio": 1}]}, None, "audio is not supported"),
    ({"messages": SAID["messages"] * 2}, None, "take turns"),
    ({"messages": SAID["messages"] * 2000}, "messages", "at most 1000"),
    ({"messages": [*SAID["messages"], {"role": "assistant", "content": "x"}]}, None, "must be from 'user'"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, None, "a part must"),
    ({"messages": [{"role": "user", "content": PARTS}]}, None, "cannot call the tool"),
    ({"temperature": -1}, "temperature", "is -1"), ({"temperature": "hot"}, "temperature", "number"),
    ({"temperature": True}, "temperature", "number"), ({"top_p": 2}, "top_p", "is 2"),
    ({"max_tokens": -5}, "max_tokens", "is -5"), ({"max_tokens": 0}, "max_tokens", "is 0"),
    ({"max_tokens": 2.5}, "max_tokens", "integer"), ({"max_tokens": "5"}, "max_tokens", "integer"),
    ({"top_k": 0}, "top_k", "is 0"), ({"min_p": 7}, "min_p", "is 7"), ({"seed": "x"}, "seed", "integer"),
    ({"n": 0}, "n", "greater"), ({"n": 33}, "n", "32"), ({"stream": "yes"}, "stream", "boolean"),
    ({"frequency_penalty": 3}, "frequency_penalty", "is 3"),
    ({"presence_penalty": -9}, "presence_penalty", "is -9"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "4"), ({"stop": [""]}, "stop", "empty"),
    ({"stop": [1]}, "stop.0", "string"), ({"stream_options": {"x": 1}}, "stream_options.x", "boolean"),
    ({"logprobs": 3}, "logprobs", "boolean"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "20"),
    ({"answer_ids": [265]}, None, "an id of the answer is 265"),
    ({"answer_ids": [-1]}, None, "an id of the answer is -1"),
    ({"answer_ids": [1] * 200}, None, "1 to 200 tokens"),
    ({"answer_ids": [TOKENIZER.bos]}, None, "can go on"),
])
def test_bad_requests_are_refused_with_a_reason(client, fields, param, says):
    for stream in (False, True):
        response = ask(client, **{"stream": stream} | fields)
        error = response.json()["error"]
        assert response.status_code == 400 and says in error["message"]
        assert error["param"] == param
        assert error["type"] == "invalid_request_error" and set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("fields, says", [
    ({}, "prompt"), ({"prompt": ["a", "b"]}, "prompt"), ({"prompt": 3}, "prompt"),
    ({"prompt": [1, "a"]}, "prompt"), ({"prompt": [[1], 2]}, "prompt"), ({"prompt": [1.5]}, "prompt"),
    ({"prompt": [265]}, "0 to 264"), ({"prompt": [-1]}, "0 to 264"), ({"prompt": "a" * 200}, "1 to 200"),
    ({"prompt": "a", "max_tokens": 0}, "only echo allows"), ({"prompt": "a", "logprobs": 21}, "20"),
    ({"prompt": "a", "logprobs": True}, "logprobs"), ({"prompt": "a", "suffix": "b"}, "suffix"),
    ({"prompt": "a", "best_of": 2}, "best_of"), ({"prompt": "a", "n": 33}, "32"),
    ({"prompt": "a", "messages": []}, "messages"),
])
def test_bad_texts_to_complete_are_refused_with_a_reason(client, fields, says):
    response = complete(client, **fields)
    assert response.status_code == 400 and says in response.json()["error"]["message"]


JSON = {"Content-Type": "application/json"}
HOSTILE = [
    b"", b"{", b"null", b"[]", b"3", b'"x"', b"\xff\xfe", b'{"messages": "\xc3"}', b"NaN", b"{}" * 1000,
    b"[" * 100_000, b'{"a":' * 100_000, b'{"messages":' + b"[" * 500_000, b"1" * 100_000,
    b'{"messages": [{"role": "user", "content": "a"}], "temperature": NaN}',
    b'{"messages": [{"role": "user", "content": "a"}], "temperature": 1e999}',
    b'{"messages": [{"role": "user", "content": "a"}], "seed": ' + b"9" * 10_000 + b"}",
    b'{"messages": [{"role": "user", "content": "a"}], "max_tokens": -Infinity}',
    b'{"messages": [' + b"1.5," * 200_000 + b"1]}",
    b'{"messages": [{"role": "user", "content": [' + b"1," * 200_000,
    b'{"messages": [{"role": "user", "content": [' + b"1," * 200_000 + b"1]}]}",
    b'{"messages": [], ' + b",".join(b'"x%d": 1' % i for i in range(50_000)) + b"}",
    b'{"messages": [{"role": "user", "content": "a"}], "\\ud800": 1}',
    b'{"messages": [{"role": "\\ud800", "content": "a"}]}', b'{"messages": [], "model": "\\ud800"}',
    b'{"messages": [{"role": "user", "content": "a"}], "answer_ids": [' + b"1," * 400_000 + b"1]}",
    b'{"messages": [{"role": "user", "content": "a"}], "answer_ids": [' + b"1e9," * 200_000 + b"1]}",
    b'{"messages": [{"role": "user", "content": "a"}], "stop": [' + b'"a",' * 200_000 + b'"a"]}',
    b'{"prompt": [' + b"1.5," * 200_000 + b"1]}", b'{"prompt": [' + b"[]," * 200_000 + b"1]}",
    b'{"prompt": [' + b"1," * 200_000 + b"1]}", b'{"prompt": [' + b'"",' * 200_000 + b'""]}',
    b'{"prompt": "a", "logprobs": 1e5}', b'{"prompt": {"a": [[[[]]]]}}', b'{"prompt": "\\u0000", "echo": 2}',
]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_hostile_bodies_get_a_refusal_in_the_usual_form(client, path, capsys):
    for body in HOSTILE:
        response = client.post(path, content=body, headers=JSON)
        assert response.status_code in (400, 404), body[:80]
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert ask(client).json()["choices"][0]["message"]["content"] == "ok!"
    assert capsys.readouterr().out == ""                # no crash was caught


@pytest.mark.parametrize("form", [chat_web.ChatRequest, chat_web.TextRequest])
def test_a_body_with_a_million_mistakes_makes_few_errors(form):
    """To list them all would take seconds, in which nobody else is answered."""
    for body in HOSTILE:
        with contextlib.suppress(ValueError, RecursionError):
            fields = json.loads(body)
            try:
                form.model_validate(fields)
            except ValidationError as error:
                assert error.error_count() < 20, body[:80]


@pytest.mark.parametrize("text", ["\0", "\u202e\ufeff", "é" * 50, "<|bos|>", "",
                                  "\r\n", "😀" * 20], ids=ascii)
def test_strange_text_is_answered(client, text):
    def post(path: str, fields: dict) -> dict:
        return client.post(path, content=json.dumps(fields), headers=JSON).json()["choices"][0]
    said = {"messages": [{"role": "user", "content": text}]}
    assert post("/v1/chat/completions", SAID | said)["message"]["content"] == "ok!"
    echoed = post("/v1/completions", {"prompt": text, "echo": True, "logprobs": 1, "max_tokens": 1})["text"]
    assert echoed.startswith(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


@pytest.mark.parametrize("character", [" ", "\t", "y", "9", "!", "\n"])
def test_the_longest_message_of_one_character_is_answered(client, character):
    """Tokenizers have run out of stack, or of time, on these."""
    text = character * (chat_web.MAX_BODY // len(json.dumps(character)[1:-1]) - 200)
    reply = ask(client, messages=[{"role": "user", "content": text}]).json()
    assert reply["choices"][0]["message"]["content"] == "ok!"
    assert reply["usage"]["prompt_tokens"] == CONTEXT // 2 + 1


def test_broken_bodies_foreign_types_and_foreign_hosts_are_refused(client):
    def post(body: bytes, **headers):
        return client.post("/v1/chat/completions", content=body, headers=JSON | headers)
    good = json.dumps(SAID).encode()
    assert post(good, **{"Content-Type": "text/plain"}).status_code == 415
    assert post(good, **{"Content-Type": ""}).status_code == 415
    assert client.post("/v1/chat/completions", data={"a": "b"}).status_code == 415
    too_long = post(b" " * (chat_web.MAX_BODY + 1))
    assert too_long.status_code == 413 and "900,000 bytes" in too_long.json()["error"]["message"]
    assert post(good, Host="evil.example").status_code == 400
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
    answer = post(good, Origin="http://evil.example")
    assert not any(name.startswith("access-control") for name in answer.headers)
    assert client.get("/v1/chat/completions").status_code == 405
    assert client.get("/v1/nothing").json()["error"]["type"] == "invalid_request_error"


def raw(client: httpx.Client, text: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", client.base_url.port))
    connection.sendall(text)
    return connection


def posted(body: bytes, length: int | None = None) -> bytes:
    return (b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body) if length is None else length, body))


def test_a_body_that_never_arrives_is_given_up(client, monkeypatch):
    monkeypatch.setattr(chat_web, "PATIENCE", 0.1)
    with raw(client, posted(b'{"messages"', 1000)) as slow:
        assert b"408" in slow.recv(4096)


def test_a_client_that_stops_reading_is_given_up(monkeypatch, capsys):
    monkeypatch.setattr(chat_web, "PATIENCE", 0.1)
    with serving(Gated(bigram(ENDLESS)), flags="--max-batch=32 --max-waiting=0") as client:
        body = json.dumps(SAID | {"stream": True, "logprobs": True, "top_logprobs": 20, "n": 32}).encode()
        with raw(client, posted(body)):                 # megabytes that nobody takes
            while metric(client, "running") == 0:
                pass
            assert settled(client)["requests"] == 0
    assert capsys.readouterr().out == ""                # that is no crash


def test_user_text_with_marker_names_stays_text(client):
    text = "<|assistant_end|><|bos|>"
    usage = ask(client, messages=[{"role": "user", "content": text}]).json()["usage"]
    assert usage["prompt_tokens"] == len(text) + 4


def test_a_long_conversation_loses_its_oldest_turns_whole_and_the_client_is_told(client):
    long = [{"role": ("user", "assistant")[i % 2], "content": "x" * (30 + i)} for i in range(11)]
    reply = ask(client, messages=long, max_tokens=20).json()
    room, used, turns = CONTEXT - 20 + 1, 1 + 40 + 3, 0    # what the last question takes: bos, text, markers
    for i in range(8, -1, -2):                          # and each turn before it: question, answer, 4 markers
        if used + 61 + 2 * i + 4 > room:
            break
        used, turns = used + 61 + 2 * i + 4, turns + 1
    assert turns == 1 and reply["nanochat"] == {"prompt_tokens": used, "dropped_turns": 5 - turns,
                                                "context": CONTEXT}
    assert reply["choices"][0]["message"]["content"] == "ok!"
    system = [{"role": "system", "content": "Be."}, *long]
    usage = ask(client, messages=system, max_tokens=20).json()["usage"]
    assert usage["prompt_tokens"] == used + len("Be.\n\n")
    first = events(ask(client, messages=long, max_tokens=20, stream=True).text)[0]
    assert first["nanochat"]["dropped_turns"] == 4
    huge = ask(client, messages=[{"role": "user", "content": "y" * 100_000}]).json()
    assert huge["usage"]["prompt_tokens"] == CONTEXT // 2 + 1 and huge["nanochat"]["dropped_turns"] == 0


def test_a_base_model_continues_the_text_of_the_last_message(client):
    said = {"model": "tiny-base", "seed": 3, "temperature": 1, "max_tokens": 30, "top_k": 9}
    text = ask(client, **said, messages=[*SAID["messages"], {"role": "assistant", "content": "no"},
                                         {"role": "user", "content": "abc"}]).json()
    raw_text = complete(client, prompt="abc", **said).json()
    assert text["choices"][0]["message"]["content"] == raw_text["choices"][0]["text"]
    assert text["nanochat"]["dropped_turns"] == 1 and text["usage"]["prompt_tokens"] == 4
    long = ask(client, model="tiny-base", messages=[{"role": "user", "content": "a" * 500}]).json()
    assert long["usage"]["prompt_tokens"] == CONTEXT // 2 + 1 and long["usage"]["completion_tokens"] <= 100


def test_models_and_health_are_told(client):
    cards = client.get("/v1/models").json()["data"]
    assert [card["id"] for card in cards] == ["tiny-sft", "tiny-base"] and cards[1]["stage"] == "base"
    assert client.get("/v1/models/tiny-base").json() == cards[1]
    assert client.get("/v1/models/huge").json()["error"]["code"] == "model_not_found"
    assert settled(client) == {"status": "ok", "model": "tiny-sft", "models": ["tiny-sft", "tiny-base"],
                               "context": CONTEXT, "requests": 0, "limit": 8}
    assert client.get("/docs").status_code == client.get("/openapi.json").status_code == 404


def test_documentation_is_served_when_asked_for():
    with serving(Gated(bigram(TOOL)), flags="--docs") as client:
        assert client.get("/docs").status_code == 200
        told = client.get("/openapi.json").json()
    for path, name in (("/v1/chat/completions", "ChatRequest"), ("/v1/completions", "TextRequest")):
        schema = told["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert schema["title"] == name and schema["additionalProperties"] is False
        assert {"temperature", "stop", "seed", "logprobs"} <= set(schema["properties"])
        assert "$ref" not in json.dumps(schema)


def test_metrics_count_what_was_done():
    with serving(Gated(bigram(TOOL))) as client:
        for stream in (False, True):
            assert ask(client, stream=stream, n=2).status_code == 200
        assert ask(client, tools=[1]).status_code == 400
        settled(client)
        text = client.get("/metrics").text
        for line in text.splitlines():                  # the format: https://prometheus.io/docs/instrumenting
            assert re.fullmatch(r'nanochat_\w+(\{status="\d+"\})? [\d.e-]+', line), line
        assert 'nanochat_requests_total{status="400"} 1' in text
        counts = {"prompt_tokens_total": 12, "cached_tokens_total": 0, "completion_tokens_total": 52,
                  "running": 0, "waiting": 0}
        assert {name: metric(client, name) for name in counts} == counts
        assert metric(client, "first_token_seconds_total") > 0 < metric(client, "decode_seconds_total")


def test_concurrent_requests_share_the_batch():
    engine = Gated(bigram(TOOL), gate=threading.Semaphore(0))

    async def all_at_once(url):
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            asked = [asyncio.create_task(client.post("/v1/chat/completions", json=SAID)) for _ in range(8)]
            while (await client.get("/health")).json()["requests"] < 8:    # answered while the model works
                pass
            engine.gate.release(10_000)
            return [response.json() for response in await asyncio.gather(*asked)]

    with serving(engine) as client:
        replies = asyncio.run(all_at_once(str(client.base_url)))
    assert [reply["choices"][0]["message"]["content"] for reply in replies] == ["ok!"] * 8
    assert engine.steps < 8 * 13 / 2


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_place_and_stops_the_computation(stream):
    engine = Gated(bigram(ENDLESS), max_batch=1, gate=threading.Semaphore(0))
    with serving(engine) as client:
        leaver = raw(client, posted(json.dumps(SAID | {"stream": stream, "n": 2}).encode()))
        while metric(client, "waiting") < 2:            # one runs, one waits behind it
            pass
        engine.gate.release(3)
        while metric(client, "running") == 0:
            pass
        leaver.close()
        settled(client)                                 # at once, while the model still waits
        engine.gate.release(1000)
        assert ask(client, max_tokens=5).json()["choices"][0]["message"]["content"] == "ababa"
        assert engine.steps <= 3 + 2 + 6 and not engine.busy


def test_more_than_batch_and_queue_hold_are_turned_away():
    engine = Gated(bigram(TOOL), max_batch=1, gate=threading.Semaphore(0))

    async def crowd(url):
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            asked = [asyncio.create_task(client.post("/v1/chat/completions", json=SAID)) for _ in range(2)]
            while (await client.get("/health")).json()["requests"] < 2:
                pass
            refused = await client.post("/v1/chat/completions", json=SAID)
            engine.gate.release(1000)
            return refused, await asyncio.gather(*asked)

    with serving(engine, flags="--max-batch=1 --max-waiting=1") as client:
        refused, accepted = asyncio.run(crowd(str(client.base_url)))
        error = refused.json()["error"]
        assert refused.status_code == 429 and "too many" in error["message"]
        assert refused.headers["retry-after"] and error["type"] == "rate_limit_error"
        assert [response.status_code for response in accepted] == [200, 200]
        assert settled(client) and ask(client, n=2).status_code == 200 and ask(client, n=3).status_code == 429


def test_an_answer_that_takes_too_long_ends_with_what_there_is():
    with serving(Gated(bigram(ENDLESS)), flags="--max-seconds=1e-9") as client:
        choice = ask(client).json()["choices"][0]       # its first token is always in time
        assert choice["message"]["content"] == "ab" and choice["finish_reason"] == "length"
        chunks = events(ask(client, stream=True, n=2).text)
        assert [chunk["choices"][0]["finish_reason"] for chunk in chunks].count("length") == 2
    with serving(Gated(bigram(ENDLESS)), flags="--max-tokens=7") as client:
        assert ask(client).json()["usage"]["completion_tokens"] == 7
        assert ask(client, max_tokens=9).json()["usage"]["completion_tokens"] == 7
        assert complete(client, prompt="a", max_tokens=9).json()["usage"]["completion_tokens"] == 7


def test_a_step_that_fails_loses_its_answers_but_not_the_server(capsys):
    engine, other = Gated(bigram(TOOL)), Gated(random_model())
    sick = random_model()
    with torch.no_grad():
        sick.embedding.fill_(float("nan"))
    models = [served(other, "tiny-mid"), served(Engine(sick, TOKENIZER, 4), "tiny-base")]
    with serving(engine, models=models) as client:
        engine.broken = True
        response = ask(client)
        assert response.status_code == 500 and response.json()["error"]["type"] == "server_error"
        error = events(ask(client, stream=True).text)[-1]["error"]
        assert error["message"] == "the model failed on this request"
        assert ask(client, model="tiny-mid").status_code == 200
        engine.broken = False
        assert ask(client, model="tiny-base").status_code == 500
        scored = complete(client, model="tiny-base", prompt="Hi", echo=True, max_tokens=0, logprobs=2)
        assert scored.status_code == 500 and "the server failed" in scored.text
        assert ask(client).json()["choices"][0]["message"]["content"] == "ok!" and settled(client)
    assert "Hi" not in "".join(capsys.readouterr())     # nothing of a chat is printed
    assert not any(each.busy for each in (engine, other))


def test_a_failing_stage_leaves_the_answers_of_another_one_alone():
    engine, other = Gated(bigram(ENDLESS), gate=threading.Semaphore(0)), Gated(bigram(TOOL))
    with serving(engine, models=[served(other, "tiny-mid")]) as client:
        said = SAID | {"stream": True, "max_tokens": 5}
        with client.stream("POST", "/v1/chat/completions", json=said) as first:
            while metric(client, "waiting") == 0:
                pass
            other.broken = True
            body = json.dumps(SAID | {"model": "tiny-mid"}).encode()
            with raw(client, posted(body)) as second:
                engine.gate.release(1000)
                assert b" 500 " in second.recv(4096).split(b"\r\n")[0]
            deltas = [chunk["choices"][0]["delta"] for chunk in events(first.read().decode())]
    assert "".join(delta.get("content", "") for delta in deltas) == "ababa"


def test_a_stage_is_loaded_when_it_is_first_asked_for_and_one_that_cannot_be_is_told(capsys):
    loaded = []

    def load(device: str) -> Engine:
        loaded.append(device)
        if len(loaded) == 1:
            raise SystemExit(2)                         # as die() does, when the files are gone
        return Gated(bigram(TOOL))

    later = "tiny-rl", load
    with serving(Gated(bigram(TOOL)), models=[later]) as client:
        assert ask(client).status_code == 200 and loaded == []
        assert ask(client, model="tiny-rl").status_code == 500
        assert ask(client, model="tiny-rl").status_code == ask(client, model="tiny-rl").status_code == 200
        assert loaded == ["cpu", "cpu"] and settled(client)
        missing = ask(client, model="gpt-4")
        assert missing.status_code == 404 and missing.json()["error"]["code"] == "model_not_found"


def test_other_stages_answer_while_one_is_being_loaded():
    begun, go = threading.Event(), threading.Event()

    def load(device: str) -> Engine:
        begun.set()
        go.wait()
        return Gated(bigram(TOOL))

    with serving(Gated(bigram(TOOL)), models=[("tiny-rl", load)]) as client:
        with raw(client, posted(json.dumps(SAID | {"model": "tiny-rl"}).encode())) as slow:
            begun.wait()
            assert ask(client).status_code == 200
            go.set()
            assert b" 200 " in slow.recv(4096)


def test_requests_go_to_the_least_busy_of_several_devices():
    engines = {device: Gated(bigram(ENDLESS), gate=threading.Semaphore(0)) for device in ("cpu", "cpu:0")}
    model = "tiny-sft", engines.__getitem__
    with serving(models=[model], devices=list(engines)) as client, contextlib.ExitStack() as stack:
        for count in range(1, 5):
            stack.enter_context(raw(client, posted(json.dumps(SAID).encode())))
            while metric(client, "waiting") < count:
                pass
        while metric(client, "running") < 4:            # the second one joins a step or two later
            for engine in engines.values():
                engine.gate.release()
        assert [len(engine._running) for engine in engines.values()] == [2, 2]
        for engine in engines.values():
            engine.gate.release(1000)


def test_the_next_turn_of_a_conversation_reuses_the_cache():
    with serving(Engine(bigram(TOOL), TOKENIZER, 4, keep=2)) as client:
        messages = [{"role": "user", "content": "What is six times seven, then?"}]
        first = ask(client, messages=messages).json()
        messages += [first["choices"][0]["message"], {"role": "user", "content": "And?"}]
        second = ask(client, messages=messages).json()
        reused = second["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert first["usage"]["prompt_tokens"] < reused < second["usage"]["prompt_tokens"]
        assert settled(client) and metric(client, "cached_tokens_total") == reused
        assert second["choices"][0]["message"]["content"] == "ok!"


def test_with_a_key_only_those_who_know_it_are_answered():
    with serving(Gated(bigram(TOOL)), flags="--api-key=sesame") as client:
        for given in ("", "Bearer open", "Bearer sesame2", "Bearer sesam\u00e9".encode()):
            headers = {"Authorization": given}
            for response in (client.get("/v1/models", headers=headers),
                             client.post("/v1/chat/completions", json=SAID, headers=headers)):
                assert response.status_code == 401
                assert response.json()["error"]["type"] == "authentication_error"
        client.headers["Authorization"] = "Bearer sesame"
        assert ask(client).status_code == client.get("/v1/models").status_code == 200
        del client.headers["Authorization"]
        assert client.get("/").status_code == client.get("/health").status_code == 200


def test_a_crash_of_the_server_itself_is_told_without_what_was_said(monkeypatch, capsys, caplog):
    def crash(self, job, *news):
        raise KeyError(job.requests[0].text)
    monkeypatch.setattr(chat_web.ChatRequest, "choice", crash)
    with serving(Gated(bigram(TOOL))) as client:
        response = ask(client)
        assert response.status_code == 500 and "the server failed" in response.json()["error"]["message"]
        assert settled(client)
    logged = "".join(capsys.readouterr()) + caplog.text
    assert "KeyError" in logged and "ok!" not in logged and "Hi" not in logged


def test_the_page_needs_nothing_from_elsewhere_and_never_parses_model_text(client):
    response = client.get("/")
    page = response.text
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", page)
    links = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s'\"]*", page)
    assert set(links) <= {"http://www.w3.org/2000/svg"}


def test_the_server_is_local_by_default_and_a_taken_port_is_one_clear_line(capsys):
    args = chat_web.parser().parse_args([])
    assert args.host == "127.0.0.1" and args.api_key is None
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as stop:
        args.port = taken.getsockname()[1]
        chat_web.main(args)
    assert stop.value.code == 2 and "cannot listen on 127.0.0.1" in capsys.readouterr().err


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_cleanly_in_the_middle_of_answers(end, base_dir):
    for stage, following in (("base", TOOL), ("mid", TOOL), ("sft", ENDLESS)):
        stored = Stage(stage, "tiny", World(), Namespace(dtype="float32", run="dummy"))
        checkpoint.save(stored, bigram(following), TOKENIZER, 7)
    command = [sys.executable, "-m", "scripts.chat_web", "--port=0", "--stage=mid"]
    server = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              env=os.environ | {"NANOCHAT_BASE_DIR": str(base_dir)})
    url = re.search(r"http://\S+", server.stdout.readline())[0]
    with httpx.Client(base_url=url, timeout=60) as client:
        cards = client.get("/v1/models").json()["data"]
        assert [(card["id"], card["context"]) for card in cards] == [
            ("tiny-mid", CONTEXT), ("tiny-sft", CONTEXT), ("tiny-base", CONTEXT)]
        assert ask(client).json()["choices"][0]["message"]["content"] == "ok!"
        said = SAID | {"stream": True, "model": "tiny-sft", "max_tokens": 50}
        with client.stream("POST", "/v1/chat/completions", json=said) as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith("data: ")
            server.send_signal(end)
            assert list(lines)[-2] == "data: [DONE]"    # what has begun is finished, if that takes no 5 s
    output = server.communicate(timeout=60)[0]
    assert server.returncode in (0, -end) and "Traceback" not in output and output == "", output


def test_what_the_server_says_is_what_the_engine_generates(client):
    prompt = TOKENIZER.encode("abc")
    params = SamplingParams(temperature=1.0, top_k=20, seed=5, max_tokens=40, top_logprobs=2)
    answer, = Engine(random_model(), TOKENIZER).generate([[TOKENIZER.bos, *prompt]], params)
    fields = {"model": "tiny-base", "temperature": 1.0, "top_k": 20, "seed": 5, "max_tokens": 40}
    choice = complete(client, prompt="abc", logprobs=2, **fields).json()["choices"][0]
    assert choice["logprobs"]["ids"] == [each.id for each in answer.details] and len(answer.details) > 5
    assert choice["text"] == answer.text and choice["finish_reason"] == answer.finish_reason
    for given in (prompt, [TOKENIZER.bos, *prompt]):
        assert complete(client, prompt=given, **fields).json()["choices"][0]["text"] == answer.text


def test_of_a_model_in_one_file_that_model_is_served_and_no_other(tmp_path):
    for stage in ("base", "sft"):
        stored = Stage(stage, "tiny", World(), Namespace(dtype="float32", run="dummy"))
        checkpoint.save(stored, bigram(TOOL), TOKENIZER, 7)
    checkpoint.pack(checkpoint.find("base"), tmp_path / "model")
    args = chat_web.parser().parse_args(["--model", str(tmp_path / "model")])
    (card, path), = chat_web.find_models(args)
    assert (card["id"], card["step"], card["context"]) == ("tiny-base", 7, CONTEXT)
    assert path == checkpoint.unpack(tmp_path / "model")
