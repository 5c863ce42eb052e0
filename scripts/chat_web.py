"""Serve a trained model: the chat page at /, and an API under /v1 that OpenAI's clients understand.

    python -m scripts.chat_web                          (then open http://127.0.0.1:8000)

One thread per GPU (or one on the CPU) drives the engines; handlers hand it jobs and get news back through
asyncio queues, so that the event loop never waits for the model. A client that leaves frees its places.
Everything is bounded: what is sent, what is asked for, how many ask at once, how long an answer takes.
Nothing of a chat is logged or kept. Only this machine can connect unless --host says otherwise, and other web
sites cannot. API: README.md, or --docs."""

import argparse
import asyncio
import contextlib
import json
import os
import queue
import secrets
import socket
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
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
MAX_BODY = 1 << 20                                      # bytes; the context in tokens is far smaller
MAX_MESSAGES, MAX_CHOICES, MAX_CONNECTIONS = 1000, 32, 1000
PATIENCE = 30                                           # seconds for a client to send its body, take a chunk
LOOPBACK = ("127.0.0.1", "localhost", "::1")
HARMLESS = {"user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_options",
            "prompt_cache_retention", "service_tier", "parallel_tool_calls", "include_obfuscation", "name",
            "annotations"}                              # fields that change nothing in an answer
NOTHING = {"store": False, "tools": [], "tool_choice": "none", "logit_bias": {}, "modalities": ["text"],
           "response_format": {"type": "text"}, "best_of": 1, "suffix": "", "tool_calls": []}
METRICS = {
    "requests_total": ("counter", "HTTP requests answered, by status."),
    "prompt_tokens_total": ("counter", "Tokens of prompts."),
    "reused_tokens_total": ("counter", "Tokens of prompts that were still in a cache."),
    "completion_tokens_total": ("counter", "Tokens of answers."),
    "first_token_seconds": ("summary", "From a request to the first token of an answer."),
    "token_seconds": ("summary", "Per further token of an answer."),
    "running": ("gauge", "Answers that grow."),
    "waiting": ("gauge", "Answers that wait for their first token."),
}


@dataclass(frozen=True)
class Served:
    """A model that clients can ask for by its id; load(device) gives an engine of it."""
    id: str
    stage: str
    context: int
    created: int
    load: Callable[[str], Engine]

    def card(self) -> dict:
        return {"id": self.id, "object": "model", "created": self.created, "owned_by": "nanochat",
                "stage": self.stage, "context": self.context}


# ---- errors, in OpenAI's form

class ApiError(HTTPException):
    """A refusal; `param` names the field that it is about."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None,
                 headers: dict | None = None):
        super().__init__(status, message, headers)
        self.param, self.code = param, code


def told(status: int, message: str, param: str | None = None, code: str | None = None) -> dict:
    kinds = {401: "authentication_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
    message, param = (text and text.encode(errors="replace").decode() for text in (message, param))
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


async def refuse(_, error: Exception) -> JSONResponse:
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        param = ".".join(str(at) for at in first["loc"][1:]) or "body"
        unknown = first["type"] == "extra_forbidden"
        message = f"{param}: " + ("this field is not supported" if unknown else first["msg"])
        return JSONResponse(told(400, message, param, "unsupported_parameter" if unknown else None), 400)
    if not isinstance(error, HTTPException):
        error = ApiError(500, "the server failed on this request")
    said = told(error.status_code, error.detail, getattr(error, "param", None), getattr(error, "code", None))
    return JSONResponse(said, error.status_code, error.headers)


class Gate:
    """ASGI around the app: counts what it answers; asks for the key; refuses bodies that are not JSON (which
    a foreign page cannot send), too large or too slow, and clients that stop reading; and logs a crash
    without what was said."""

    def __init__(self, app, counts: Counter, api_key: str | None):
        self.app, self.counts, self.api_key = app, counts, api_key

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        size, status, deadline = 0, None, asyncio.get_running_loop().time() + PATIENCE

        async def bounded() -> dict:
            nonlocal size
            if size is None:                            # all is read: what may come is that the client leaves
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise ApiError(408, f"the request took longer than {PATIENCE} s to arrive") from None
            size += len(message.get("body", b""))
            if size > MAX_BODY:
                raise ApiError(413, f"the request is larger than {MAX_BODY:,} bytes")
            size = size if message.get("more_body") else None
            return message

        async def counted(message: dict) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self.counts[f'requests_total{{status="{status}"}}'] += 1
            async with asyncio.timeout(PATIENCE):
                await send(message)

        try:
            self._check(scope, Headers(scope=scope))
            await self.app(scope, bounded, counted)
        except Exception as error:
            if not isinstance(error, (ApiError, TimeoutError)):
                at = traceback.extract_tb(error.__traceback__)[-1]
                print(f"error: {type(error).__name__} at {at.filename}:{at.lineno}", flush=True)
            if status is None:
                await (await refuse(None, error))(scope, receive, counted)

    def _check(self, scope, headers: Headers) -> None:
        if self.api_key and scope["path"].startswith("/v1/"):
            given = headers.get("authorization", "").removeprefix("Bearer ")
            if not secrets.compare_digest(given.encode(), self.api_key.encode()):
                raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key",
                               headers={"WWW-Authenticate": "Bearer"})
        kind = headers.get("content-type", "").split(";")[0].strip().lower()
        if scope["method"] == "POST" and kind != "application/json":
            raise ApiError(415, "the content type must be application/json")


# ---- one answer, one request, one device

@dataclass(eq=False)
class Answer:
    """One choice of a response. Without `params` nothing is made: the prompt is only scored."""
    index: int
    engine: Engine
    prompt: list[int]
    params: SamplingParams | None
    sample: int = 0
    begun: Sequence[int] = ()
    top: int | None = None                              # score the prompt, with so many alternatives
    request: Any = None                                 # the engine's
    scored: list[Detail] = field(default_factory=list)  # of the prompt
    details: list[Detail] = field(default_factory=list)     # of the answer, without the marker that ends it
    first: float | None = None                          # when its first token came, and its last
    last: float | None = None
    echoed: bool = False                                # the prompt was shown
    offset: int = 0                                     # characters that were shown

    def __post_init__(self):
        self.decoder = AnswerDecoder(self.engine.tokenizer)
        self.ends = {self.engine.tokenizer.special(name) for name in STOPS}

    @property
    def made(self) -> int:
        return len(self.request.ids) if self.request else 0

    @property
    def reused(self) -> int:
        return self.request.reused if self.request else 0

    def place(self, id: int) -> int:
        """Where in the text a token begins, if this is called for one after the other."""
        start = self.offset
        self.offset += sum(len(text) for kind, text in self.decoder.push(id) if kind == "text")
        return start

    @property
    def finish_reason(self) -> str | None:
        """Only who runs out of time is both cancelled and shown."""
        reason = self.request.finish_reason if self.request else "length"
        return "length" if reason == "cancelled" else reason

    def submit(self) -> None:
        if self.top is not None:
            self.scored += self.engine.score(self.prompt, self.top)
        if self.params:
            self.request = self.engine.submit(self.prompt, self.params, self.sample, self.begun)

    def news(self, max_seconds: float) -> tuple[list[tuple[str, str]], list[Detail], str | None]:
        """What came since the last call: pieces, details, and at the end the reason why it ended."""
        if self.request is None:
            return [], [], self.finish_reason
        now = time.monotonic()
        if self.made > len(self.begun):
            self.first, self.last = self.first or now, now
            if now - self.first > max_seconds:
                self.engine.cancel(self.request)
        details = (self.request.details or [])[len(self.details):]
        if details and details[-1].id in self.ends:
            details.pop()
        self.details += details
        return self.request.take(), details, self.finish_reason


class Job:
    """What one HTTP request waits for. It holds places on a worker until it is closed."""

    def __init__(self, worker: "Worker", places: int, stream: bool):
        self.worker, self.places, self.stream = worker, places, stream
        self.engine: Engine | None = None
        self.answers: list[Answer] = []
        self.growing: list[Answer] = []                 # the worker's: those that are not complete
        self.queue, self.asked_at = asyncio.Queue(), time.monotonic()
        worker.jobs.add(self)

    def submit(self, engine: Engine, answers: list[Answer]) -> None:
        self.engine, self.answers, self.growing = engine, answers, list(answers)
        self.worker.inbox.put((self, True))

    async def news(self) -> AsyncIterator[tuple[Answer, list, list, str | None]]:
        """(answer, *its news) to the end of all answers. ApiError when the engine failed."""
        growing = len(self.answers)
        while growing:
            item = await self.queue.get()
            if isinstance(item, Exception):
                raise item
            growing -= item[-1] is not None
            yield item

    def close(self) -> None:
        """Free the places, whether the answers are complete or no longer wanted."""
        self.worker.jobs.discard(self)
        self.worker.inbox.put((self, False))


class Worker:
    """A device: its engines, one per model in use, and the thread that drives them. The event loop's side
    puts (job, wanted) into the inbox; what has a leading underscore is the thread's."""

    def __init__(self, device: str, max_seconds: float):
        self.device, self.max_seconds = device, max_seconds
        self.engines: dict[str, Engine] = {}
        self.jobs: set[Job] = set()                     # what handlers wait for
        self.inbox: queue.SimpleQueue = queue.SimpleQueue()
        self._live: list[Job] = []                      # what the engines work on
        self._loading = asyncio.Lock()

    @property
    def places(self) -> int:
        return sum(job.places for job in self.jobs)

    def load(self, model: Served) -> None:
        self.engines[model.id] = model.load(self.device)

    async def engine(self, model: Served) -> Engine:
        """That of the model, loaded when it is first asked for. ApiError where it cannot be."""
        def load() -> None:
            try:
                self.load(model)
            except (Exception, SystemExit) as error:    # the files may be gone, memory may not suffice
                print(f"error: {model.id} on {self.device}: {error!r}", flush=True)

        async with self._loading:
            if model.id not in self.engines:
                await asyncio.to_thread(load)
        if model.id not in self.engines:
            raise ApiError(503, f"the model {model.id} cannot be loaded")
        return self.engines[model.id]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self._loop = asyncio.get_running_loop()
        thread = threading.Thread(target=self._work, name=self.device, daemon=True)
        thread.start()
        yield
        self.inbox.put(None)
        thread.join()

    def _work(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.set_device(self.device)
        while self._listen():
            for engine in {job.engine for job in self._live}:
                self._advance(engine, [job for job in self._live if job.engine is engine])

    def _listen(self) -> bool:
        """Take in what handlers ask for; sleep while there is nothing to do. False at the server's end."""
        while True:
            try:
                message = self.inbox.get(block=not self._live)
            except queue.Empty:
                return True
            if message is None:
                return False
            job, wanted = message
            if wanted:
                self._live.append(job)
                try:
                    for answer in job.answers:
                        answer.submit()
                except Exception as error:
                    self._fail([job], error)
            elif job in self._live:
                self._drop(job)

    def _advance(self, engine: Engine, jobs: list[Job]) -> None:
        """One step of an engine; what it made goes to the handlers."""
        try:
            if engine.busy:
                engine.step()
        except Exception as error:                      # memory, NaN: the answers are lost, not the server
            engine.reset()
            return self._fail(jobs, error)
        told = []
        for job in jobs:
            for answer in list(job.growing):
                pieces, details, reason = answer.news(self.max_seconds)
                if reason or (job.stream and (pieces or details)):
                    told.append((job, (answer, pieces, details, reason)))
                if reason:
                    job.growing.remove(answer)
        self._live = [job for job in self._live if job.growing]
        self._tell(told)

    def _fail(self, jobs: list[Job], error: Exception) -> None:
        print(f"error: {self.device}: {error!r}", flush=True)
        for job in jobs:
            self._drop(job)
        self._tell([(job, ApiError(500, "the model failed on this request")) for job in jobs])

    def _drop(self, job: Job) -> None:
        self._live.remove(job)
        for answer in job.growing:
            if answer.request:
                answer.engine.cancel(answer.request)

    def _tell(self, told: list[tuple[Job, Any]]) -> None:
        """All in one go: waking the event loop costs more than what it then does."""
        if told:
            self._loop.call_soon_threadsafe(lambda: [job.queue.put_nowait(item) for job, item in told])


# ---- what clients send, and what they get

T = TypeVar("T")
Checked = Annotated[list[T], Field(fail_fast=True)]     # a million errors of one list would take seconds


class Form(BaseModel):
    """Fields that are not known are refused (the first is named), those that would change nothing are not;
    null is as if it were not there."""
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _what_counts(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        kept = {name: value for name, value in fields.items() if name not in HARMLESS
                and (value is not None or name == "top_k") and (name not in NOTHING or NOTHING[name] != value)}
        for name in [name for name in kept if name not in cls.model_fields][1:]:
            del kept[name]
        return kept


class Message(Form):
    """As chat.py has it. A client that sends back the message that it got sends tool calls in `parts`."""
    role: Literal["system", "user", "assistant"]
    content: str | Checked[dict] = ""
    parts: Checked[dict] | None = None

    def plain(self) -> dict:
        return {"role": self.role, "content": self.content if self.parts is None else self.parts}


class StreamOptions(Form):
    include_usage: bool = False


class Asked(Form):
    """What both kinds of requests have."""
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
        same = {"temperature", "top_k", "top_p", "min_p", "repetition_penalty", "frequency_penalty",
                "presence_penalty", "seed"}
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        return SamplingParams(**self.model_dump(include=same), max_tokens=max_tokens, stop=stop,
                              top_logprobs=top_logprobs)

    def usage(self, answers: list[Answer]) -> dict:
        asked, made = sum(len(each.prompt) for each in answers[::self.n]), sum(each.made for each in answers)
        return {"prompt_tokens": asked, "completion_tokens": made, "total_tokens": asked + made,
                "prompt_tokens_details": {"cached_tokens": sum(each.reused for each in answers[::self.n])}}


class ChatRequest(Asked):
    """/v1/chat/completions"""
    messages: Checked[Message] = Field(max_length=MAX_MESSAGES)
    temperature: float = 0.6
    top_k: int | None = 50
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    answer_ids: Checked[int] = []                        # tokens that the answer begins with
    kind: ClassVar = ("chatcmpl", "chat.completion", "chat.completion.chunk")
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
        conversation = {"messages": [message.plain() for message in self.messages]}
        check_conversation(conversation, answered=False)
        if base:
            room = engine.context - min(max_tokens or engine.context, engine.context // 2)
            text = visible_text(conversation["messages"][-1]["content"])
            prompt = [engine.tokenizer.bos, *engine.tokenizer.encode(text)[-room:]]
            dropped = sum(message.role == "user" for message in self.messages[:-1])
        else:
            prompt, dropped = engine.fit(conversation, params)
        check_ids(engine, "answer_ids", self.answer_ids, engine.context - len(prompt))
        return [Answer(i, engine, prompt, params, i, self.answer_ids) for i in range(self.n)], dropped

    def entries(self, answer: Answer, details: list[Detail]) -> dict | None:
        def entry(id: int, logprob: float, **more) -> dict:
            raw = answer.engine.tokenizer.decode_bytes([id])
            return {"token": raw.decode(errors="replace"), "logprob": logprob, "bytes": list(raw), "id": id, **more}

        if not self.logprobs:
            return None
        return {"refusal": None, "content": [
            entry(each.id, each.logprob, entropy=each.entropy, top_logprobs=[entry(*other) for other in each.top])
            for each in details]}

    def choice(self, answer: Answer) -> dict:
        message = {"role": "assistant", "content": answer.request.text, "refusal": None,
                   "parts": answer.request.parts}
        return {"message": message, "logprobs": self.entries(answer, answer.details)}

    def opening(self, answer: Answer) -> list[dict]:
        return [{"delta": {"role": "assistant", "content": ""}}]

    def deltas(self, answer: Answer, pieces: list[tuple[str, str]], details: list[Detail]) -> list[dict]:
        """Tool calls are no content: other clients skip them."""
        deltas = [{"delta": {"content": text} if kind == "text" else {"part": {"type": kind, "text": text}}}
                  for kind, text in pieces]
        if details:
            deltas = deltas or [{"delta": {"content": ""}}]
            deltas[0]["logprobs"] = self.entries(answer, details)
        return deltas


class TextRequest(Asked):
    """/v1/completions: raw text is continued, not a conversation answered."""
    prompt: str | Checked[str] | Checked[int] | Checked[Checked[int]]
    max_tokens: int = Field(16, ge=0)
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool = False                                  # the text begins with the prompt
    kind: ClassVar = ("cmpl", "text_completion", "text_completion")
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
        if not self.max_tokens and not self.echo:
            raise ValueError("max_tokens is 0, which only echo allows")
        if not self.prompts:
            raise ValueError("prompt is an empty list")
        most = min(self.max_tokens, most or self.max_tokens)
        params = self.params(max(1, most), self.logprobs)
        answers, seen, bos = [], Counter(), engine.tokenizer.bos
        for given in self.prompts:
            ids = engine.tokenizer.encode(given) if isinstance(given, str) else given
            ids = [bos, *ids[ids[:1] == [bos]:]]
            check_ids(engine, "prompt", ids, engine.context)
            scored = []                                 # once for all choices
            for i in range(self.n):
                top = self.logprobs if self.echo and i == 0 else None
                answers.append(Answer(len(answers), engine, ids, params if most else None, seen[tuple(ids)],
                                      top=top, scored=scored))
                seen[tuple(ids)] += 1
        return answers, 0

    def entries(self, answer: Answer, details: list[Detail]) -> dict | None:
        def name(id: int) -> str:
            raw = answer.engine.tokenizer.decode_bytes([id])
            try:
                return raw.decode()
            except UnicodeDecodeError:                  # as OpenAI names a part of a character
                return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

        if self.logprobs is None:
            return None
        return {"tokens": [name(each.id) for each in details],
                "token_logprobs": [each.logprob for each in details],
                "top_logprobs": [{name(id): logprob for id, logprob in [*each.top, (each.id, each.logprob)]}
                                 for each in details],
                "text_offset": [answer.place(each.id) for each in details],
                "ids": [each.id for each in details], "entropies": [each.entropy for each in details]}

    def choice(self, answer: Answer) -> dict:
        return self.deltas(answer, [("text", answer.request.text if answer.request else "")], answer.details)[0]

    def opening(self, answer: Answer) -> list[dict]:
        return []

    def deltas(self, answer: Answer, pieces: list[tuple[str, str]], details: list[Detail]) -> list[dict]:
        text = "".join(text for kind, text in pieces if kind == "text")
        if self.echo and not answer.echoed:
            answer.echoed = True
            text, details = answer.engine.tokenizer.decode(answer.prompt[1:]) + text, answer.scored + details
        return [{"text": text, "logprobs": self.entries(answer, details)}]


def check_ids(engine: Engine, name: str, ids: Sequence[int], room: int) -> None:
    """ApiError unless they are tokens, and not more than there is room for."""
    if len(ids) > room:
        raise ApiError(400, f"{name} has {len(ids)} tokens, there is room for {room}", name,
                       "context_length_exceeded")
    if not all(0 <= id < engine.tokenizer.vocab_size for id in ids):
        raise ApiError(400, f"{name} has ids that are not 0 to {engine.tokenizer.vocab_size - 1}", name)


# ---- the app

def create_app(models: Sequence[Served], args: argparse.Namespace, devices: Sequence[str] = ("cpu",)) -> FastAPI:
    """The server as an ASGI app. `models`: the default first; `args`: what parser() gives."""
    counts, workers = Counter(), [Worker(device, args.max_seconds) for device in devices]
    limit, by_id = len(devices) * args.max_batch + args.max_waiting, {model.id: model for model in models}

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with contextlib.ExitStack() as stack:
            for worker in workers:
                worker.load(models[0])
                stack.enter_context(worker.running())
            yield

    app = FastAPI(title="nanochat", lifespan=lifespan, openapi_url="/openapi.json" if args.docs else None)
    # no foreign site can be resolved to a server that answers to local names only
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
        now = Counter(running=sum(answer.first is not None for answer in growing))
        now["waiting"] = len(growing) - now["running"]
        lines = []
        for name, (kind, says) in METRICS.items():
            lines += [f"# HELP nanochat_{name} {says}", f"# TYPE nanochat_{name} {kind}"]
            keys = [f"{name}_sum", f"{name}_count"] if kind == "summary" else [name]
            labelled = sorted(key for key in counts if key.startswith(f"{name}{{"))
            lines += [f"nanochat_{key} {(counts + now)[key]}" for key in labelled or keys]
        return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")

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
            raise ApiError(404, f"there is no model of this name, only {', '.join(by_id)}", "model", "model_not_found")
        return by_id[id]

    def admit(asked: ChatRequest | TextRequest) -> Job:
        """A job on the least busy worker. ApiError where too much is asked for at once."""
        if asked.places > MAX_CHOICES:
            raise ApiError(400, f"{asked.places} answers in one request are more than {MAX_CHOICES}", "n")
        if sum(worker.places for worker in workers) + asked.places > limit:
            raise ApiError(429, "too many requests at once, try again soon", headers={"Retry-After": "5"})
        return Job(min(workers, key=lambda worker: worker.places), asked.places, asked.stream)

    async def respond(asked: ChatRequest | TextRequest, request: Request) -> Response:
        model = find(asked.model or models[0].id)
        with contextlib.ExitStack() as stack:
            job = admit(asked)
            stack.callback(close, job, counts)
            engine = await job.worker.engine(model)
            try:
                answers, dropped = await asyncio.to_thread(asked.answers, engine, model.stage == "base", args.max_tokens)
            except (ValueError, OverflowError) as error:
                first = str(error).split()[0]
                raise ApiError(400, str(error), first if first in type(asked).model_fields else None) from None
            job.submit(engine, answers)
            about = {"prompt_tokens": sum(len(answer.prompt) for answer in answers[::asked.n]),
                     "dropped_turns": dropped, "context": engine.context}
            name, whole, chunk = asked.kind
            head = {"id": f"{name}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model.id}
            if asked.stream:
                return EventStream(events(job, asked, head | {"object": chunk}, about), stack.pop_all())
            await finished(job, request)
            choices = [{"index": answer.index, "finish_reason": answer.finish_reason, **asked.choice(answer)}
                       for answer in answers]
            usage = asked.usage(answers)
            about["reused_tokens"] = usage["prompt_tokens_details"]["cached_tokens"]
            return JSONResponse(head | {"object": whole, "choices": choices, "usage": usage, "nanochat": about})

    return app


def close(job: Job, counts: Counter) -> None:
    """The end of every job, however it comes: its places are free, what it made is counted."""
    job.close()
    for answer in job.answers:
        made = answer.made - len(answer.begun)
        counts["prompt_tokens_total"] += len(answer.prompt) * (answer.sample == 0)
        counts["reused_tokens_total"] += answer.reused
        counts["completion_tokens_total"] += max(0, made)
        if answer.first is not None:
            counts["first_token_seconds_sum"] += answer.first - job.asked_at
            counts["first_token_seconds_count"] += 1
            counts["token_seconds_sum"] += answer.last - answer.first
            counts["token_seconds_count"] += made - 1


async def finished(job: Job, request: Request) -> None:
    """Waits for all answers. ApiError where the engine fails, or the client leaves."""
    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        job.queue.put_nowait(ApiError(499, "the client left"))

    watching = asyncio.create_task(watch())
    try:
        async for _ in job.news():
            pass
    finally:
        watching.cancel()


class EventStream(StreamingResponse):
    """Server-sent events. However the response ends, its job is closed."""

    def __init__(self, lines: AsyncIterator[str], stack: contextlib.ExitStack):
        super().__init__(lines, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._stack = stack

    async def __call__(self, scope, receive, send) -> None:
        with self._stack:
            await super().__call__(scope, receive, send)


async def events(job: Job, asked: ChatRequest | TextRequest, head: dict, about: dict) -> AsyncIterator[str]:
    """The lines of a streamed response. What it is about goes with the first one."""
    first = {"nanochat": about}

    def line(answer: Answer, part: dict, reason: str | None = None) -> str:
        choice = {"index": answer.index, "logprobs": None, "finish_reason": reason, **part}
        data = json.dumps({**head, "choices": [choice], **first})
        first.clear()
        return f"data: {data}\n\n"

    for answer in job.answers:
        for part in asked.opening(answer):
            yield line(answer, part)
    try:
        async for answer, pieces, details, reason in job.news():
            for part in asked.deltas(answer, pieces, details):
                yield line(answer, part)
            if reason:
                yield line(answer, asked.closing, reason)
        if asked.stream_options.include_usage:
            yield f"data: {json.dumps({**head, 'choices': [], 'usage': asked.usage(job.answers)})}\n\n"
    except ApiError as error:
        yield f"data: {json.dumps(told(error.status_code, error.detail))}\n\n"
    yield "data: [DONE]\n\n"


def parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("-i", "--stage", choices=checkpoint.STAGES, help="answered with by default (default: the most finished)")
    add("--model-tag", help="name of the model (default: the newest)")
    add("--step", type=int, help="of that stage's checkpoint (default: the newest)")
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets other machines in")
    add("--port", type=int, default=8000, help="0 is any free one")
    add("--api-key", default=os.environ.get("NANOCHAT_API_KEY"), help="what clients of /v1 must know")
    add("--max-batch", type=int, default=16, help="answers made at the same time per device and stage")
    add("--max-waiting", type=int, default=64, help="answers that may wait; more are turned away")
    add("--max-tokens", type=int, help="per answer (default: what the context holds)")
    add("--max-seconds", type=float, default=300, help="per answer, from its first token")
    add("--keep", type=int, default=16, help="conversations whose cache waits for their next turn, per stage")
    add("--docs", action="store_true", help="also /docs and /openapi.json")
    return parser


def find_models(args: argparse.Namespace) -> list[Served]:
    """Every stage of the model asked for, the most finished first, but the one asked for before all."""
    chosen = checkpoint.find(args.stage, args.model_tag, args.step)
    stage, tag = chosen.parent.name, chosen.parent.parent.name
    paths = {stage: chosen} | {name: path for name, path in checkpoint.stages(tag).items() if name != stage}

    def served(stage: str, path: Path) -> Served:
        def load(device: str) -> Engine:
            model, tokenizer, _ = checkpoint.load_model(stage, tag, checkpoint.step_of(path), device)
            return Engine(model, tokenizer, args.max_batch, args.keep)

        context = checkpoint.read_shape(path).sequence_len
        return Served(f"{tag}-{stage}", stage, context, int(checkpoint.created(path)), load)

    return [served(name, path) for name, path in paths.items()]


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
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(parser().parse_args())
