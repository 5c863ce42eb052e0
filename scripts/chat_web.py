"""Serve a trained model: the chat page at /, and under /v1 an API that OpenAI's clients understand.

    python -m scripts.chat_web                          (then open http://127.0.0.1:8000)

One thread per GPU (one on a CPU) drives the engines; handlers hand it jobs and get news back through asyncio
queues, so that the event loop never waits for a model. A client that leaves frees its places. All is bounded:
what is sent and asked for, how many ask at once, how long an answer takes. Nothing of a chat is logged or
kept. Only this machine can connect unless --host says otherwise, and other web sites cannot."""

import argparse
import asyncio
import contextlib
import json
import math
import os
import queue
import secrets
import socket
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

import nanochat
from nanochat import checkpoint
from nanochat.chat import AnswerDecoder, check_conversation, visible_text
from nanochat.common import die, new_parser, require_positive
from nanochat.dist import find_device
from nanochat.engine import STOPS, Detail, Engine, SamplingParams

PAGE = Path(nanochat.__file__).with_name("ui.html")
PAGE_HEADERS = {
    "Content-Security-Policy":
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_BODY = 900_000                                      # bytes; tiktoken panics at a million spaces
MAX_MESSAGES, MAX_CHOICES, MAX_CONNECTIONS = 1000, 32, 1000
PATIENCE = 30                                           # seconds that a client may take to send, or to read
HARMLESS = {"user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_options", "name",
            "prompt_cache_retention", "service_tier", "parallel_tool_calls", "include_obfuscation"}
NOTHING = {"store": False, "tools": [], "tool_choice": "none", "logit_bias": {}, "modalities": ["text"],
           "response_format": {"type": "text"}, "best_of": 1, "suffix": ""}
COUNTED = ("prompt_tokens", "cached_tokens", "completion_tokens", "first_tokens", "first_token_seconds",
           "next_tokens", "next_token_seconds")         # seconds that each kind of token took, for averages


def failure(status: int, message: str, param: str | None = None, code: str | None = None,
            headers: dict | None = None) -> HTTPException:
    """In OpenAI's form; `param` is the field that it is about. Half a surrogate pair, which JSON can hold, is
    not sent back."""
    kinds = {401: "authentication_error", 429: "rate_limit_error"}
    kind = "server_error" if status >= 500 else kinds.get(status, "invalid_request_error")
    error = {"message": message, "type": kind, "param": param, "code": code}
    error = {key: value and value.encode(errors="replace").decode() for key, value in error.items()}
    return HTTPException(status, {"error": error}, headers)


async def refuse(_, error: Exception) -> JSONResponse:
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        param, unknown = ".".join(map(str, first["loc"][1:])) or "body", first["type"] == "extra_forbidden"
        says = "this field is not supported" if unknown else first["msg"]
        error = failure(400, f"{param}: {says}", param, "unsupported_parameter" if unknown else None)
    elif not isinstance(error, HTTPException):
        error = failure(500, "the server failed on this request")
    elif isinstance(error.detail, str):                 # no such page
        error = failure(error.status_code, error.detail, headers=error.headers)
    return JSONResponse(error.detail, error.status_code, error.headers)


class Gate:
    """ASGI around the app: asks for the key; refuses what is not JSON (which a foreign page cannot send), too
    large or too slow; gives up on clients that stop reading; logs a crash without what was said; counts
    responses by status. However a request ends, what is in its scope's "closing" is closed."""

    def __init__(self, app, counts: Counter, api_key: str | None):
        self.app, self.counts, self.api_key = app, counts, api_key

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        status = body = None

        async def replayed() -> dict:
            nonlocal body
            if body is None:                            # given out: what may come is that the client leaves
                return await receive()
            message, body = {"type": "http.request", "body": body}, None
            return message

        async def counted(message: dict) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self.counts[f'requests_total{{status="{status}"}}'] += 1
            async with asyncio.timeout(PATIENCE):
                await send(message)

        with contextlib.ExitStack() as scope["closing"]:
            try:
                body = await self._body(scope, receive)
                await self.app(scope, replayed, counted)
            except Exception as error:
                if not isinstance(error, (HTTPException, TimeoutError)):
                    at = traceback.extract_tb(error.__traceback__)[-1]
                    print(f"error: {type(error).__name__} at {at.filename}:{at.lineno}", flush=True)
                if status is None:
                    await (await refuse(None, error))(scope, receive, counted)

    async def _body(self, scope, receive) -> bytes:
        headers, body, more = Headers(scope=scope), bytearray(), True
        if self.api_key and scope["path"].startswith("/v1/"):
            given = headers.get("authorization", "").removeprefix("Bearer ")
            if not secrets.compare_digest(given.encode(), self.api_key.encode()):
                raise failure(401, "the API key is missing or wrong", code="invalid_api_key",
                               headers={"WWW-Authenticate": "Bearer"})
        kind = headers.get("content-type", "").split(";")[0].strip().lower()
        if scope["method"] == "POST" and kind != "application/json":
            raise failure(415, "the content type must be application/json")
        try:
            async with asyncio.timeout(PATIENCE):
                while more:
                    message = await receive()
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > MAX_BODY:
                        raise failure(413, f"the request is larger than {MAX_BODY:,} bytes")
        except TimeoutError:
            raise failure(408, f"the request took longer than {PATIENCE} s to arrive") from None
        return bytes(body)


# ---- one answer, one request, one device

@dataclass(frozen=True)
class Served:
    """A model that clients can ask for by its id; load(device) makes an engine of it."""
    id: str
    stage: str
    context: int
    created: int
    load: Callable[[str], Engine]

    def card(self) -> dict:
        return {"id": self.id, "object": "model", "created": self.created, "owned_by": "nanochat",
                "stage": self.stage, "context": self.context}


UNMADE = SimpleNamespace(ids=[], details=[], reused=0, text="", parts=[], take=list, done=True,
                         finish_reason="length")        # in place of the engine's request


@dataclass(eq=False)
class Answer:
    """One choice of a response. Without `params` nothing is made: the prompt is only scored."""
    index: int
    engine: Engine
    prompt: list[int]
    params: SamplingParams | None
    sample: int = 0
    begun: Sequence[int] = ()
    echo: bool = False                                  # the answer begins with the prompt
    top: int | None = None                              # and with its score, so many alternatives for each
    request: Any = field(default_factory=lambda: UNMADE)
    pieces: list[tuple[str, str]] = field(default_factory=list)
    scored: list[Detail] = field(default_factory=list)
    told: tuple[int, int] = (0, 0)                      # pieces and details that were
    offset: int = 0                                     # characters of the text before the next token
    first: float = 0.0                                  # when its first token came, and its last
    last: float = 0.0

    def __post_init__(self):
        self.decoder = AnswerDecoder(self.engine.tokenizer)

    @property
    def details(self) -> list[Detail]:
        return self.scored + self.request.details

    @property
    def made(self) -> int:
        return max(0, len(self.request.ids) - len(self.begun))

    @property
    def finish_reason(self) -> str | None:
        """Only who ran out of time is both cancelled and shown."""
        return "length" if self.request.finish_reason == "cancelled" else self.request.finish_reason

    def submit(self) -> None:
        if self.echo:
            self.pieces.append(("text", self.engine.tokenizer.decode(self.prompt[1:])))
        if self.echo and self.top is not None:
            self.scored = self.engine.score(self.prompt, self.top)
            if any(math.isnan(each.logprob) for each in self.scored):
                raise FloatingPointError("the model's logits are NaN")
        if self.params:
            self.request = self.engine.submit(self.prompt, self.params, self.sample, self.begun)

    def news(self, max_seconds: float) -> tuple[list[tuple[str, str]], list[Detail], str | None]:
        """What came since the last call: pieces, details, and at the end the reason why it ended."""
        if self.made:
            self.last = time.monotonic()
            self.first = self.first or self.last
            if self.last - self.first > max_seconds:
                self.engine.cancel(self.request)
        self.pieces += self.request.take()
        pieces, details = self.pieces[self.told[0]:], self.details[self.told[1]:]
        self.told = len(self.pieces), len(self.details)
        return pieces, details, self.finish_reason

    def place(self, id: int) -> int:
        """Where in the text a token begins, if this is called for one after the other."""
        start = self.offset
        self.offset += sum(len(text) for kind, text in self.decoder.push(id) if kind == "text")
        return start


class Job:
    """The answers of one HTTP request, which holds its places on a worker until it is closed."""

    def __init__(self, worker: "Worker", asked: "Asked"):
        self.worker, self.asked, self.engine = worker, asked, None
        self.answers: list[Answer] = []
        self.growing: list[Answer] = []                 # the worker's: those that are not complete
        self.queue, self.since = asyncio.Queue(), time.monotonic()
        worker.jobs.add(self)

    async def news(self) -> AsyncIterator[tuple[Answer, list, list, str | None]]:
        """(answer, *its news) to the end of all answers. HTTPException when the engine failed."""
        growing = len(self.answers)
        while growing:
            item = await self.queue.get()
            if isinstance(item, Exception):
                raise item
            growing -= item[-1] is not None
            yield item

    def close(self, counts: Counter) -> None:
        """Free the places, whether the answers are complete or no longer wanted, and count what was made."""
        self.worker.drop(self)
        usage, begun = self.asked.usage(self.answers), [answer for answer in self.answers if answer.first]
        done = (usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"],
                usage["completion_tokens"], len(begun), sum(answer.first - self.since for answer in begun),
                sum(answer.made - 1 for answer in begun), sum(answer.last - answer.first for answer in begun))
        counts.update({f"{name}_total": value for name, value in zip(COUNTED, done, strict=True)})


class Worker:
    """A device: its engines, one per model in use, and the thread that drives them and does what comes into
    its inbox. What has a leading underscore belongs to the thread."""

    def __init__(self, device: str, max_seconds: float):
        self.device, self.max_seconds = device, max_seconds
        self.engines: dict[str, Engine] = {}
        self.jobs: set[Job] = set()                     # what handlers wait for
        self.inbox: queue.SimpleQueue = queue.SimpleQueue()
        self.loading = asyncio.Lock()
        self._live: list[Job] = []                      # what the engines work on
        self._thread = threading.Thread(target=self._work, name=device, daemon=True)

    @property
    def places(self) -> int:
        return sum(job.asked.places for job in self.jobs)

    async def engine(self, model: Served) -> Engine:
        """That of the model, loaded when it is first asked for. HTTPException where it cannot be."""
        if model.id in self.engines:                    # nobody else waits for one that is being loaded
            return self.engines[model.id]
        async with self.loading:
            try:
                if model.id not in self.engines:
                    self.engines[model.id] = await asyncio.to_thread(model.load, self.device)
            except (Exception, SystemExit) as error:    # the files may be gone, memory may not suffice
                print(f"error: {model.id} on {self.device}: {error!r}", flush=True)
                raise failure(503, f"the model {model.id} cannot be loaded") from None
        return self.engines[model.id]

    def submit(self, job: Job, engine: Engine, answers: list[Answer]) -> None:
        job.engine, job.answers, job.growing = engine, answers, list(answers)
        self.inbox.put(partial(self._begin, job))

    def drop(self, job: Job) -> None:
        self.jobs.discard(job)
        self.inbox.put(partial(self._drop, job))

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        self.inbox.put(None)
        self._thread.join()

    def _work(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.set_device(self.device)
        while self._listen():
            for engine in {job.engine for job in self._live}:
                self._advance(engine, [job for job in self._live if job.engine is engine])

    def _listen(self) -> bool:
        """Do what handlers ask for; sleep while there is nothing to do. False at the server's end."""
        try:
            while do := self.inbox.get(block=not self._live):
                do()
        except queue.Empty:
            return True
        return False

    def _begin(self, job: Job) -> None:
        self._live.append(job)
        try:
            for answer in job.answers:
                answer.submit()
        except Exception as error:
            self._fail([job], error)

    def _advance(self, engine: Engine, jobs: list[Job]) -> None:
        """One step of an engine; what it made goes to the handlers."""
        try:
            if engine.busy:
                engine.step()
            news = [(job, (answer, *answer.news(self.max_seconds))) for job in jobs for answer in job.growing]
        except Exception as error:                      # memory, NaN: the answers are lost, not the server
            engine.reset()
            return self._fail(jobs, error)
        for job in jobs:
            job.growing = [answer for answer in job.growing if not answer.finish_reason]
        self._live = [job for job in self._live if job.growing]
        self._tell([(job, item) for job, item in news if item[-1] or (job.asked.stream and any(item[1:]))])

    def _fail(self, jobs: list[Job], error: Exception) -> None:
        print(f"error: {self.device}: {error!r}", flush=True)
        for job in jobs:
            self._drop(job)
        self._tell([(job, failure(500, "the model failed on this request")) for job in jobs])

    def _drop(self, job: Job) -> None:
        for answer in job.growing:
            answer.engine.cancel(answer.request)
        job.growing = []
        self._live = [other for other in self._live if other is not job]

    def _tell(self, told: list[tuple[Job, Any]]) -> None:
        """All in one go: to wake the event loop costs more than what it then does."""
        if told:
            self._loop.call_soon_threadsafe(lambda: [job.queue.put_nowait(item) for job, item in told])


# ---- what clients ask for, and what they get

T = TypeVar("T")
Checked = Annotated[list[T], Field(fail_fast=True)]     # a million errors of one list would take seconds


class Form(BaseModel):
    """Fields that are not known are refused (the first is named), unless they would change nothing; null is
    as if it were not there."""
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _what_counts(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        kept = {name: value for name, value in fields.items()
                if (value is not None or name == "top_k") and name not in HARMLESS
                and (name not in NOTHING or NOTHING[name] != value)}
        for name in [name for name in kept if name not in cls.model_fields][1:]:
            del kept[name]
        return kept


class Message(Form):
    """As chat.py has it. Clients that send back the message that they got send its tool calls in `parts`."""
    role: Literal["system", "user", "assistant"]
    content: str | Checked[dict] = ""
    parts: Checked[dict] | None = None


class StreamOptions(Form):
    include_usage: bool = False


class Asked(Form):
    """What both kinds of requests have; SamplingParams decides which numbers are in range."""
    model: str = ""
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None
    stop: str | Checked[str] = []
    n: int = Field(1, ge=1, le=MAX_CHOICES)

    def params(self, max_tokens: int | None, top_logprobs: int | None) -> SamplingParams:
        fields = self.model_dump(include=set(SamplingParams.__dataclass_fields__))
        fields["stop"] = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        return SamplingParams(**fields | {"max_tokens": max_tokens, "top_logprobs": top_logprobs})

    def usage(self, answers: list[Answer]) -> dict:
        each_prompt, made = answers[::self.n], sum(answer.made for answer in answers)
        prompt = sum(len(answer.prompt) + len(answer.begun) for answer in each_prompt)
        cached = sum(answer.request.reused for answer in each_prompt)
        return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made,
                "prompt_tokens_details": {"cached_tokens": cached}}


class ChatRequest(Asked):
    """/v1/chat/completions: the next answer of a conversation."""
    messages: Checked[Message] = Field(max_length=MAX_MESSAGES)
    temperature: float = 0.6
    top_k: int | None = 50
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    answer_ids: Checked[int] = []                       # tokens that the answer begins with
    kind: ClassVar = ("chatcmpl", "chat.completion", "chat.completion.chunk")
    opening: ClassVar = {"delta": {"role": "assistant", "content": ""}}
    closing: ClassVar = {"delta": {}}

    @property
    def places(self) -> int:
        return self.n

    def answers(self, engine: Engine, base: bool, most: int | None) -> tuple[list[Answer], int]:
        """The choices to be made, and how many turns of the conversation did not fit. ValueError where it is
        none. A base model knows no conversations: it continues the last message."""
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs")
        asked = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        max_tokens = min((limit for limit in (asked, most) if limit is not None), default=None)
        params = self.params(max_tokens, (self.top_logprobs or 0) if self.logprobs else None)
        messages = [{"role": each.role, "content": each.content if each.parts is None else each.parts}
                    for each in self.messages]
        check_conversation({"messages": messages}, answered=False)
        if base:
            room = engine.context - min(max_tokens or engine.context, engine.context // 2)
            ids = engine.tokenizer.encode(visible_text(messages[-1]["content"]))
            prompt = [engine.tokenizer.bos, *ids[-room:]]
            dropped = sum(each.role == "user" for each in self.messages) - 1
        else:
            prompt, dropped = engine.fit({"messages": messages}, params)
        check_ids(engine, "answer_ids", self.answer_ids, engine.context - len(prompt), final=STOPS)
        return [Answer(i, engine, prompt, params, i, self.answer_ids) for i in range(self.n)], dropped

    def entries(self, answer: Answer, details: list[Detail]) -> dict | None:
        def entry(id: int, logprob: float) -> dict:
            raw = answer.engine.tokenizer.decode_bytes([id])
            return {"token": raw.decode(errors="replace"), "logprob": logprob, "bytes": list(raw), "id": id}

        content = [{**entry(each.id, each.logprob), "entropy": each.entropy,
                    "top_logprobs": [entry(*pair) for pair in each.top]} for each in details]
        return {"content": content, "refusal": None} if self.logprobs else None

    def choice(self, answer: Answer) -> dict:
        said = {"content": answer.request.text, "refusal": None, "parts": answer.request.parts}
        return {"message": {"role": "assistant"} | said, "logprobs": self.entries(answer, answer.details)}

    def deltas(self, answer: Answer, pieces: list[tuple[str, str]], details: list[Detail]) -> list[dict]:
        """Tool calls are no content: other clients skip them."""
        deltas = [{"delta": {"content": text} if kind == "text" else {"part": {"type": kind, "text": text}}}
                  for kind, text in pieces or [("text", "")]]
        deltas[0]["logprobs"] = self.entries(answer, details) if details else None
        return deltas


class TextRequest(Asked):
    """/v1/completions: raw text is continued, not a conversation answered."""
    prompt: str | Checked[str] | Checked[int] | Checked[Checked[int]]
    max_tokens: int = Field(16, ge=0)
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool = False                                  # the text begins with the prompt
    kind: ClassVar = ("cmpl", "text_completion", "text_completion")
    opening: ClassVar = {"text": ""}
    closing: ClassVar = {"text": ""}

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        one = isinstance(self.prompt, str) or (self.prompt and isinstance(self.prompt[0], int))
        return [self.prompt] if one else self.prompt

    @property
    def places(self) -> int:
        return len(self.prompts) * self.n

    def answers(self, engine: Engine, base: bool, most: int | None) -> tuple[list[Answer], int]:
        """The choices to be made, n for each prompt. ValueError where they cannot be."""
        if not self.prompts:
            raise ValueError("prompt is an empty list")
        if not self.max_tokens and not self.echo:
            raise ValueError("max_tokens is 0, which only echo allows")
        params = self.params(max(1, min(self.max_tokens, most or self.max_tokens)), self.logprobs)
        answers, seen, bos = [], Counter(), engine.tokenizer.bos
        for given in self.prompts:
            ids = engine.tokenizer.encode(given) if isinstance(given, str) else given
            ids = [bos, *ids[ids[:1] == [bos]:]]
            check_ids(engine, "prompt", ids, engine.context)
            for _ in range(self.n):
                answers.append(Answer(len(answers), engine, ids, params if self.max_tokens else None,
                                      seen[tuple(ids)], echo=self.echo, top=self.logprobs))
                seen[tuple(ids)] += 1
        return answers, 0

    def entries(self, answer: Answer, details: list[Detail]) -> dict | None:
        def name(id: int) -> str:
            raw = answer.engine.tokenizer.decode_bytes([id])
            try:
                return raw.decode()
            except UnicodeDecodeError:                  # as OpenAI names a part of a character
                return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

        rows = [(name(each.id), each.logprob, {name(id): logprob for id, logprob in (*each.top, each[:2])},
                 answer.place(each.id), each.id, each.entropy) for each in details]
        names = "tokens", "token_logprobs", "top_logprobs", "text_offset", "ids", "entropies"
        asked = self.logprobs is not None
        return {key: [row[i] for row in rows] for i, key in enumerate(names)} if asked else None

    def choice(self, answer: Answer) -> dict:
        return self.deltas(answer, answer.pieces, answer.details)[0]

    def deltas(self, answer: Answer, pieces: list[tuple[str, str]], details: list[Detail]) -> list[dict]:
        text = "".join(text for kind, text in pieces if kind == "text")
        return [{"text": text, "logprobs": self.entries(answer, details)}]


def check_ids(engine: Engine, name: str, ids: Sequence[int], room: int, final: Sequence[str] = ()) -> None:
    """HTTPException unless they are tokens, none of them `final`, and not more than there is room for."""
    ends, size = {engine.tokenizer.special(marker) for marker in final}, engine.tokenizer.vocab_size
    if not all(0 <= id < size and id not in ends for id in ids):
        but = f" but {ends}, which end it" if ends else ""
        raise failure(400, f"{name} must be of 0 to {size - 1}{but}", name)
    if len(ids) > room:
        raise failure(400, f"{name}: {len(ids)} tokens, room for {room}", name, "context_length_exceeded")


# ---- the app

def create_app(models: Sequence[Served], args: argparse.Namespace,
               devices: Sequence[str] = ("cpu",)) -> FastAPI:
    """The server as an ASGI app. `models`: the default first; `args`: what parser() gives."""
    counts = Counter({f"{name}_total": 0 for name in COUNTED})
    workers = [Worker(device, args.max_seconds) for device in devices]
    limit, by_id = len(devices) * args.max_batch + args.max_waiting, {model.id: model for model in models}

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        for worker in workers:
            worker.start()
        yield
        for worker in workers:
            worker.stop()

    for worker in workers:
        worker.engines[models[0].id] = models[0].load(worker.device)
    app = FastAPI(title="nanochat", lifespan=lifespan, openapi_url="/openapi.json" if args.docs else None)
    app.state.workers = workers
    # no foreign name can be resolved to a server that answers to local ones only
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK if args.host in LOOPBACK else ["*"])
    app.add_middleware(Gate, counts=counts, api_key=args.api_key)
    app.add_exception_handler(HTTPException, refuse)
    app.add_exception_handler(RequestValidationError, refuse)

    @app.get("/")
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers=PAGE_HEADERS)

    @app.get("/health")
    async def health() -> dict:
        return {"status": "ok", "model": models[0].id, "models": list(by_id), "context": models[0].context,
                "requests": sum(worker.places for worker in workers), "limit": limit}

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        growing = [answer for worker in workers for job in worker.jobs for answer in job.growing]
        running = sum(answer.first > 0 for answer in growing)
        values, lines = dict(counts) | {"running": running, "waiting": len(growing) - running}, []
        for name, keys in groupby(sorted(values), lambda key: key.partition("{")[0]):
            lines.append(f"# TYPE nanochat_{name} {'counter' if name.endswith('_total') else 'gauge'}\n")
            lines += [f"nanochat_{key} {values[key]}\n" for key in keys]
        return PlainTextResponse("".join(lines), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def list_models() -> dict:
        return {"object": "list", "data": [model.card() for model in models]}

    @app.get("/v1/models/{id}")
    async def one_model(id: str) -> dict:
        return find(id).card()

    @app.post("/v1/chat/completions")
    async def chat(asked: ChatRequest, request: Request) -> Response:
        return await respond(asked, request)

    @app.post("/v1/completions")
    async def complete(asked: TextRequest, request: Request) -> Response:
        return await respond(asked, request)

    def find(id: str) -> Served:
        if id not in by_id:
            raise failure(404, f"there is no such model, but {', '.join(by_id)}", "model", "model_not_found")
        return by_id[id]

    def admit(asked: ChatRequest | TextRequest) -> Job:
        """A job on the least busy worker. HTTPException where too much is asked for at once."""
        if asked.places > MAX_CHOICES:
            raise failure(400, f"{asked.places} answers in one request are more than {MAX_CHOICES}", "n")
        if sum(worker.places for worker in workers) + asked.places > limit:
            raise failure(429, "too many requests at once, try again soon", headers={"Retry-After": "5"})
        return Job(min(workers, key=lambda worker: worker.places), asked)

    async def respond(asked: ChatRequest | TextRequest, request: Request) -> Response:
        model = find(asked.model or models[0].id)
        job = admit(asked)
        request.scope["closing"].callback(job.close, counts)
        engine = await job.worker.engine(model)
        try:
            base = model.stage == "base"
            answers, dropped = await asyncio.to_thread(asked.answers, engine, base, args.max_tokens)
        except (ValueError, OverflowError) as error:
            first = str(error).split()[0]
            raise failure(400, str(error), first if first in type(asked).model_fields else None) from None
        job.worker.submit(job, engine, answers)
        name, whole, chunk = asked.kind
        head = {"id": f"{name}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model.id}
        about = {"prompt_tokens": asked.usage(answers)["prompt_tokens"], "dropped_turns": dropped,
                 "context": engine.context}
        if asked.stream:
            return StreamingResponse(events(job, head | {"object": chunk, "nanochat": about}),
                                     media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        await finished(job, request)
        usage = asked.usage(answers)
        about["reused_tokens"] = usage["prompt_tokens_details"]["cached_tokens"]
        choices = [{"index": answer.index, "finish_reason": answer.finish_reason, **asked.choice(answer)}
                   for answer in answers]
        return JSONResponse(head | {"object": whole, "choices": choices, "usage": usage, "nanochat": about})

    return app


async def finished(job: Job, request: Request) -> None:
    """Waits for all answers. HTTPException where the engine fails, or the client leaves."""
    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        job.queue.put_nowait(failure(499, "the client left"))

    watching = asyncio.create_task(watch())
    try:
        async for _ in job.news():
            pass
    finally:
        watching.cancel()


async def events(job: Job, head: dict) -> AsyncIterator[str]:
    """The server-sent events of a streamed response. What is our own in `head` is told once."""
    def line(data: dict) -> str:
        return f"data: {json.dumps(data)}\n\n"

    def chunk(answer: Answer, part: dict, reason: str | None = None) -> str:
        choice = {"index": answer.index, "logprobs": None, "finish_reason": reason, **part}
        text = line({**head, "choices": [choice]})
        head.pop("nanochat", None)
        return text

    for answer in job.answers:
        yield chunk(answer, job.asked.opening)
    try:
        async for answer, pieces, details, reason in job.news():
            if pieces or details:
                for part in job.asked.deltas(answer, pieces, details):
                    yield chunk(answer, part)
            if reason:
                yield chunk(answer, job.asked.closing, reason)
        if job.asked.stream_options.include_usage:
            yield line({**head, "choices": [], "usage": job.asked.usage(job.answers)})
    except HTTPException as error:
        yield line(error.detail)
    yield "data: [DONE]\n\n"


def parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("-i", "--stage", choices=checkpoint.STAGES, help="that answers by default (the most finished)")
    add("--model-tag", help="name of the model (default: the newest)")
    add("--step", type=int, help="of that stage's checkpoint (default: the newest)")
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets other machines in")
    add("--port", type=int, default=8000, help="0 is any free one")
    add("--api-key", default=os.environ.get("NANOCHAT_API_KEY"), help="what clients of /v1 must know")
    add("--max-batch", type=int, default=16, help="answers made at the same time, per device and stage")
    add("--max-waiting", type=int, default=64, help="answers that may wait; more are turned away")
    add("--max-tokens", type=int, help="per answer (default: what the context holds)")
    add("--max-seconds", type=float, default=300, help="per answer, from its first token")
    add("--keep", type=int, default=16, help="conversations whose cache waits for the next turn, per stage")
    add("--docs", action="store_true", help="serve /docs and /openapi.json too")
    return parser


def find_models(args: argparse.Namespace) -> list[Served]:
    """Every stage of the model asked for, the most finished first, but before all the one asked for."""
    def served(path: Path) -> Served:
        *_, tag, stage, _ = path.parts
        step, shape = checkpoint.read_state(path)["step"], checkpoint.read_shape(path)

        def load(device: str) -> Engine:
            model, tokenizer, _ = checkpoint.load_model(stage, tag, step, device)
            return Engine(model, tokenizer, args.max_batch, args.keep)

        return Served(f"{tag}-{stage}", stage, shape.sequence_len, int(checkpoint.created(path)), load)

    chosen = checkpoint.find(args.stage, args.model_tag, args.step)
    others = [path for path in checkpoint.stages(chosen.parts[-3]) if path.parent != chosen.parent]
    return [served(path) for path in (chosen, *others)]


class Server(uvicorn.Server):
    """Told to stop, it ends the answers that are being made, so that no client waits for the rest."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for worker in self.config.app.state.workers:
            worker.max_seconds = -1
        await super().shutdown(sockets)


def main(args: argparse.Namespace) -> None:
    require_positive(args, "max_batch", "max_tokens", "max_seconds")
    six = ":" in args.host
    try:                                                # early visitors wait instead of being refused
        listener = socket.create_server((args.host, args.port), dualstack_ipv6=six,
                                        family=socket.AF_INET6 if six else socket.AF_INET)
    except (OSError, OverflowError) as error:
        die(f"cannot listen on {args.host}:{args.port}: {error}", hint="--port=0 takes any free port")
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    app = create_app(find_models(args), args, gpus or [str(find_device())])
    print(f"chat at http://{args.host}:{listener.getsockname()[1]}  (Ctrl-C stops the server)", flush=True)
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=5,
                            limit_concurrency=MAX_CONNECTIONS)
    with contextlib.suppress(KeyboardInterrupt):
        Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(parser().parse_args())
