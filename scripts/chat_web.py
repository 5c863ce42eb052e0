"""Serve a trained model: the chat page at /, and under /v1 an API that OpenAI's clients understand.

    python -m scripts.chat_web                          (then open http://127.0.0.1:8000)

A thread per device does all that engines do, one step after the other; the event loop never waits for it. All
is bounded: what is sent and asked for, how many ask at once, how long an answer takes. Nothing of a chat is
logged or kept. Only this machine can connect unless --host says otherwise, and other web sites cannot."""
import argparse
import asyncio
import contextlib
import functools
import json
import os
import secrets
import socket
import time
import traceback
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar
import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Response
from fastapi import Request as HTTPRequest
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from pydantic import ConfigDict, Field, ValidationError, create_model, model_validator
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect
import nanochat
from nanochat import checkpoint
from nanochat.chat import AnswerDecoder, check_conversation, visible_text
from nanochat.common import die, new_parser, require_positive
from nanochat.dist import find_device
from nanochat.engine import Detail, Engine, Request, SamplingParams

PAGE = Path(nanochat.__file__).with_name("ui.html")
POLICY = ("default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
          "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_BODY = 900_000                                      # bytes; tiktoken panics at a million spaces
MAX_MESSAGES, MAX_CHOICES, MAX_CONNECTIONS = 1000, 32, 1000
PATIENCE = 30                                           # seconds that a client may take
HARMLESS = {"user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_options",
            "prompt_cache_retention", "service_tier", "parallel_tool_calls", "include_obfuscation"}
NEUTRAL = {"store": False, "tools": [], "tool_choice": "none", "logit_bias": {}, "modalities": ["text"],
           "response_format": {"type": "text"}, "best_of": 1, "suffix": ""}
T = TypeVar("T")
Checked = Annotated[list[T], Field(fail_fast=True)]     # a million errors of one list would take seconds
Pieces = list[tuple[str, str]]                          # (type, text), as the engine gives them out

def failure(status: int, message: str, param: str | None = None, code: str | None = None,
            headers: dict | None = None) -> HTTPException:
    """In OpenAI's form; `param` is the field that it is about."""
    kinds = {401: "authentication_error", 429: "rate_limit_error"}
    kind = "server_error" if status >= 500 else kinds.get(status, "invalid_request_error")
    error = {"message": message, "type": kind, "param": param, "code": code}
    return HTTPException(status, {"error": error}, headers)

def told(error: BaseException, message: str = "the server failed") -> HTTPException:
    """What the client is told. Where a crash happened is logged, but not its text, which may hold what was
    said."""
    if isinstance(error, HTTPException):
        return error
    at = traceback.extract_tb(error.__traceback__)[-1]
    print(f"error: {type(error).__name__} at {at.filename}:{at.lineno}", flush=True)
    return failure(500, f"{message} on this request")

Drawing = create_model("Drawing", **{each.name: (each.type, each.default) for each in fields(SamplingParams)})

class Asked(Drawing):
    """What both kinds of requests have. Other fields are refused (the first is named), unless they would
    change nothing; null is as if it were not there. SamplingParams decides which numbers are in range."""
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    model: str = ""
    stream: bool = False
    stream_options: dict[str, bool] = {}
    stop: Checked[str] = []
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    answer_ids: Checked[int] = []                       # tokens that the answer begins with

    @model_validator(mode="before")
    @classmethod
    def _what_counts(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        kept = {name: value for name, value in given.items() if name not in HARMLESS
                and (value is not None or name == "top_k") and (name, value) not in NEUTRAL.items()}
        if isinstance(kept.get("stop"), str):
            kept["stop"] = [kept["stop"]]
        for name in [name for name in kept if name not in cls.model_fields][1:]:
            del kept[name]
        return kept

    def params(self, *limits: int | None, top_logprobs: int | None) -> SamplingParams:
        """How to draw; the answer keeps to those `limits` of its tokens that there are."""
        own = self.model_dump(include=set(Drawing.model_fields))
        most = min((limit for limit in limits if limit is not None), default=None)
        return SamplingParams(**own | {"stop": tuple(self.stop), "max_tokens": most,
                                       "top_logprobs": top_logprobs})

    def submit(self, engine: Engine, prompt: list[int], params: SamplingParams) -> list[Request]:
        return [engine.submit(prompt, params, index, self.answer_ids) for index in range(self.n)]

class ChatRequest(Asked):
    """/v1/chat/completions: the next answer of a conversation, as chat.py has it. Clients that send back the
    message that they got send its tool calls in `parts`."""
    messages: Checked[dict] = Field(max_length=MAX_MESSAGES)
    temperature: float = 0.6
    top_k: int | None = 50
    max_completion_tokens: int | None = None
    logprobs: bool = False
    kinds: ClassVar = ("chatcmpl", "chat.completion", "chat.completion.chunk")
    opening: ClassVar = {"delta": {"role": "assistant", "content": ""}}

    def prepare(self, engine: Engine, is_base: bool, most: int | None) -> tuple[list, SamplingParams, int]:
        """The prompt, how to draw, and how many turns did not fit. ValueError where it is no conversation."""
        params = self.params(self.max_tokens, self.max_completion_tokens, most,
                             top_logprobs=(self.top_logprobs or 0) if self.logprobs else None)
        extra = {name for each in self.messages for name in each if each[name]}
        if extra := extra - {"role", "content", "parts", "name"}:
            raise ValueError(f"messages: {min(extra)} is not supported")
        messages = [{"role": each.get("role"), "content": each.get("parts") or each.get("content") or ""}
                    for each in self.messages]
        check_conversation({"messages": messages}, answered=False)
        prompt, dropped = engine.fit({"messages": messages}, params, is_base)
        return prompt, params, dropped

    def entries(self, job: "Job", details: list[Detail]) -> dict | None:
        def entry(id: int, logprob: float) -> dict:
            raw = job.engine.tokenizer.decode_bytes([id])
            return {"token": raw.decode(errors="replace"), "logprob": logprob, "bytes": list(raw), "id": id}
        content = [{**entry(each.id, each.logprob), "entropy": each.entropy,
                    "top_logprobs": [entry(*pair) for pair in each.top]} for each in details]
        return {"content": content, "refusal": None} if self.logprobs else None

    def choice(self, job: "Job", index: int, pieces: Pieces, details: list[Detail]) -> dict:
        said = {"content": job.requests[index].text, "refusal": None, "parts": job.requests[index].parts}
        return {"message": {"role": "assistant"} | said, "logprobs": self.entries(job, details)}

    def deltas(self, job: "Job", index: int, pieces: Pieces, details: list[Detail]) -> list[dict]:
        """Tool calls are no content: other clients skip them."""
        said = [{"content": text} if kind == "text" else {"part": {"type": kind, "text": text}}
                for kind, text in pieces]
        deltas = [{"delta": delta} for delta in said or [{}]]
        deltas[0]["logprobs"] = self.entries(job, details) if details else None
        return deltas

class TextRequest(Asked):
    """/v1/completions: raw text is continued, not a conversation answered."""
    prompt: Checked[int] | str                          # one only: several are refused
    max_tokens: int = Field(16, ge=0)
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool = False                                  # the text begins with the prompt
    kinds: ClassVar = ("cmpl", "text_completion", "text_completion")
    opening: ClassVar = {"text": ""}

    def prepare(self, engine: Engine, is_base: bool, most: int | None) -> tuple[list, SamplingParams, int]:
        """As above. ValueError where there is nothing to do."""
        if not self.max_tokens and not self.echo:
            raise ValueError("max_tokens is 0, which only echo allows")
        tokenizer = engine.tokenizer
        ids = tokenizer.encode(self.prompt) if isinstance(self.prompt, str) else self.prompt
        if not all(0 <= id < tokenizer.vocab_size for id in ids):
            raise ValueError(f"prompt must be of ids from 0 to {tokenizer.vocab_size - 1}")
        prompt = [tokenizer.bos, *ids[ids[:1] == [tokenizer.bos]:]]
        return prompt, self.params(max(1, self.max_tokens), most, top_logprobs=self.logprobs), 0

    def submit(self, engine: Engine, prompt: list[int], params: SamplingParams) -> list[Request]:
        """With the prompt, and what the model thinks of it, as what is said first, if that is wanted."""
        scored = engine.score(prompt, self.logprobs) if self.echo and self.logprobs is not None else []
        requests = super().submit(engine, prompt, params)
        for request in requests if self.echo else ():
            request.details += scored
            request.pieces.insert(0, ("text", engine.tokenizer.decode(prompt[1:])))
            if not self.max_tokens:
                engine.cancel(request)
        return requests

    def choice(self, job: "Job", index: int, pieces: Pieces, details: list[Detail]) -> dict:
        def name(id: int) -> str:
            return job.engine.tokenizer.decode_bytes([id]).decode(errors="backslashreplace")
        decoder, rows = job.decoders[index], []
        for each in details:
            top = {name(id): logprob for id, logprob in (*each.top, each[:2])}
            offset = len(visible_text(decoder.parts))
            rows.append((name(each.id), each.logprob, top, offset, each.id, each.entropy))
            decoder.push(each.id)
        keys = ("tokens", "token_logprobs", "top_logprobs", "text_offset", "ids", "entropies")
        logprobs = {key: [row[i] for row in rows] for i, key in enumerate(keys)}
        return {"text": "".join(text for kind, text in pieces if kind == "text"),
                "logprobs": None if self.logprobs is None else logprobs}

    def deltas(self, *news) -> list[dict]:
        return [self.choice(*news)]

FORMS = {"/chat/completions": ChatRequest, "/completions": TextRequest}

class Job:
    """The answers to one HTTP request, which holds its places on a worker until it is closed."""
    def __init__(self, worker: "Worker", asked: ChatRequest | TextRequest, card: dict):
        self.worker, self.asked, self.card, self.news = worker, asked, card, asyncio.Queue()
        self.engine: Engine | None = None               # until it is loaded
        self.requests: list[Request] = []
        self.growing: dict[int, Request] = {}           # those that are not complete, by their index
        self.since, self.first, self.last = time.monotonic(), 0.0, 0.0      # its first token, and its last

    async def begin(self, most: int | None) -> None:
        """Load the model if it is the first to ask for it. HTTPException where the request makes no sense."""
        worker, id = self.worker, self.card["id"]
        self.engine = worker.engines.get(id) or await worker.engine(id)
        try:
            is_base = self.card["stage"] == "base"
            prompt, params, dropped = await asyncio.to_thread(self.asked.prepare, self.engine, is_base, most)
            await worker.call(self._submit, prompt, params)
        except (ValueError, OverflowError) as error:
            field = str(error).split()[0]
            field = field if field in type(self.asked).model_fields else None
            raise failure(400, str(error), field) from None
        worker.wake()
        name, read = f"{self.asked.kinds[0]}-{uuid.uuid4().hex}", self.usage()["prompt_tokens"]
        self.head = {"id": name, "created": int(time.time()), "model": id}
        self.about = {"prompt_tokens": read, "dropped_turns": dropped, "context": self.engine.context}

    def _submit(self, prompt: list[int], params: SamplingParams) -> None:
        self.requests = self.asked.submit(self.engine, prompt, params)
        self.decoders = [AnswerDecoder(self.engine.tokenizer) for _ in self.requests]
        self.growing = dict(enumerate(self.requests))

    def take(self, max_seconds: float) -> list[tuple]:
        """What is new: (index, pieces, details, at its end the reason why it ended) of answers."""
        if self.made():
            self.last = time.monotonic()
            self.first = self.first or self.last
        if self.last - self.first > max_seconds:
            self.cancel()
        news = []
        for index, request in list(self.growing.items()):
            if request.done:
                del self.growing[index]
            if request.done or self.asked.stream:
                reason = "length" if request.finish_reason == "cancelled" else request.finish_reason
                news.append((index, request.take(), request.details, reason))
                request.details = []
        return [item for item in news if any(item[1:])]

    def cancel(self) -> None:
        for request in self.requests:
            self.engine.cancel(request)

    def made(self) -> int:
        return sum(len(request.ids) - len(self.asked.answer_ids) for request in self.requests)

    def usage(self) -> dict:
        first, made = self.requests[0], self.made()
        prompt = len(first.prompt) + len(self.asked.answer_ids)
        return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made,
                "prompt_tokens_details": {"cached_tokens": first.reused}}

    async def followed(self) -> AsyncIterator[tuple]:
        """What take() finds, to the end of all answers. HTTPException if the engine fails or nobody waits."""
        growing = len(self.requests)
        while growing:
            item = await self.news.get()
            if isinstance(item, Exception):
                raise item
            growing -= item[-1] is not None
            yield item

    async def whole(self, request: HTTPRequest) -> dict:
        gone = asyncio.create_task(request.receive())   # after the body nothing comes but the client's end
        gone.add_done_callback(lambda _: self.news.put_nowait(failure(499, "the client left")))
        ended = sorted([item async for item in self.followed()])                # one of each answer
        choices = [{"index": item[0], **self.asked.choice(self, *item[:3]), "finish_reason": item[3]}
                   for item in ended]
        return {**self.head, "object": self.asked.kinds[1], "choices": choices, "usage": self.usage(),
                "nanochat": self.about}

    async def events(self) -> AsyncIterator[str]:
        """The server-sent events of a streamed response."""
        def event(*choices: dict, **more) -> str:
            full = [{"logprobs": None, "finish_reason": None, **choice} for choice in choices]
            more |= {"object": self.asked.kinds[2], "choices": full}
            return f"data: {json.dumps(self.head | more)}\n\n"
        openings = [{"index": index, **self.asked.opening} for index in range(len(self.requests))]
        yield event(*openings, nanochat=self.about)
        try:
            async for index, pieces, details, reason in self.followed():
                for delta in self.asked.deltas(self, index, pieces, details) if pieces or details else ():
                    yield event({"index": index, **delta})
                if reason:
                    last, = self.asked.deltas(self, index, [], [])
                    yield event({"index": index, **last, "finish_reason": reason})
            if self.asked.stream_options.get("include_usage"):
                yield event(usage=self.usage())
        except Exception as error:
            yield f"data: {json.dumps(told(error).detail)}\n\n"
        yield "data: [DONE]\n\n"

class EventStream(StreamingResponse):
    """A client that stops reading is given up."""
    media_type = "text/event-stream"

    async def __call__(self, scope, receive, send) -> None:
        async def patient(message: dict) -> None:
            async with asyncio.timeout(PATIENCE):
                await send(message)
        with contextlib.suppress(TimeoutError):
            await super().__call__(scope, receive, patient)

class Worker:
    """A device: an engine for each model in use, and the thread in which all is done that they do."""
    def __init__(self, device: str, load: Callable[[str, str], Engine], max_seconds: float):
        import torch
        set_up = functools.partial(torch.cuda.set_device, device) if device.startswith("cuda") else None
        self.thread, self.task = ThreadPoolExecutor(1, initializer=set_up), None
        self.loading = asyncio.Lock()
        self.device, self.load, self.max_seconds = device, load, max_seconds
        self.engines: dict[str, Engine] = {}
        self.jobs: set[Job] = set()

    @property
    def places(self) -> int:
        return sum(job.asked.n for job in self.jobs)

    async def call(self, function: Callable[..., T], *args) -> T:
        """What it returns or raises when it is called in the thread, between two steps."""
        return await asyncio.get_running_loop().run_in_executor(self.thread, function, *args)

    async def engine(self, id: str) -> Engine:
        """Loaded when it is first asked for, while others go on."""
        async with self.loading:
            if id not in self.engines:
                self.engines[id] = await asyncio.to_thread(self.load, id, self.device)
        return self.engines[id]

    def wake(self) -> None:
        if self.task is None or self.task.done():
            self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        """Step after step of each engine that has something to do; what it makes goes to the handlers."""
        while engines := {job.engine for job in self.jobs if job.growing}:
            for engine in engines:
                jobs = [job for job in self.jobs if job.engine is engine]
                for job, item in await self.call(self._step, engine, jobs):
                    job.news.put_nowait(item)

    def _step(self, engine: Engine, jobs: list[Job]) -> list[tuple[Job, Any]]:
        try:
            if engine.busy:
                engine.step()
            return [(job, item) for job in jobs for item in job.take(self.max_seconds)]
        except Exception as error:                      # memory, NaN: the answers are lost, not the server
            engine.reset()
            lost, failed = [job for job in jobs if job.growing], told(error, "the model failed")
            for job in lost:
                job.growing.clear()
            return [(job, failed) for job in lost]

async def read(request: HTTPRequest, form: type[T]) -> T:
    """The body, checked: JSON (which a foreign page cannot send), bounded in size and time, of this form."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise failure(415, "the content type must be application/json")
    body = bytearray()
    try:
        async with asyncio.timeout(PATIENCE):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY:
                    raise failure(413, f"the request is larger than {MAX_BODY:,} bytes")
        return form.model_validate_json(bytes(body))
    except (TimeoutError, ClientDisconnect):
        raise failure(408, f"the request did not arrive within {PATIENCE} s") from None
    except ValidationError as error:
        first = error.errors()[0]
        name, unknown = ".".join(map(str, first["loc"])) or "body", first["type"] == "extra_forbidden"
        reason = "this field is not supported" if unknown else first["msg"]
        raise failure(400, f"{name}: {reason}", name, "unsupported_parameter" if unknown else None) from None

def create_app(cards: Sequence[dict], load: Callable[[str, str], Engine], args: argparse.Namespace,
               devices: Sequence[str] = ("cpu",)) -> FastAPI:
    """The server as an ASGI app. `cards`: what /v1/models tells, the default first; load(id, device) makes an
    engine; `args`: what parser() gives."""
    counts, models = Counter(), {card["id"]: card for card in cards}
    default, limit = cards[0], len(devices) * args.max_batch + args.max_waiting
    workers = [Worker(device, load, args.max_seconds) for device in devices]
    for worker in workers:
        worker.engines[default["id"]] = load(default["id"], worker.device)
    async def authorize(request: HTTPRequest) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if args.api_key and not secrets.compare_digest(given.encode(), args.api_key.encode()):
            raise failure(401, "the API key is missing or wrong", headers={"WWW-Authenticate": "Bearer"})
    async def refuse(_: HTTPRequest, error: HTTPException) -> Response:
        if isinstance(error.detail, str):               # no such page
            error = failure(error.status_code, error.detail, headers=error.headers)
        counts[f'requests_total{{status="{error.status_code}"}}'] += 1
        return JSONResponse(error.detail, error.status_code, error.headers)
    app = FastAPI(title="nanochat", openapi_url="/openapi.json" if args.docs else None)
    app.add_exception_handler(HTTPException, refuse)
    # no foreign name can be resolved to a server that answers to local ones only
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK if args.host in LOOPBACK else ["*"])
    api = APIRouter(prefix="/v1", dependencies=[Depends(authorize)])
    @app.get("/")
    async def page() -> Response:
        return FileResponse(PAGE, headers={"Content-Security-Policy": POLICY})
    @app.get("/health")
    async def health() -> dict:
        return {"status": "ok", "model": default["id"], "models": list(models), "limit": limit,
                "context": default["context"], "requests": sum(worker.places for worker in workers)}
    @app.get("/metrics")
    async def metrics() -> Response:
        jobs = [job for worker in workers for job in worker.jobs]
        counts["running"] = sum(job.asked.n for job in jobs if job.first)
        counts["waiting"] = sum(job.asked.n for job in jobs if not job.first)
        lines = [f"nanochat_{name} {value}\n" for name, value in sorted(counts.items())]
        return Response("".join(lines), media_type="text/plain; version=0.0.4")
    @api.get("/models")
    async def list_models() -> dict:
        return {"object": "list", "data": cards}
    @api.get("/models/{id}")
    async def find(id: str) -> dict:
        if id not in models:
            raise failure(404, f"there is no such model, but {', '.join(models)}", "model", "model_not_found")
        return models[id]
    async def admit(request: HTTPRequest) -> AsyncIterator[Job]:
        """On the least busy worker, until all is sent or the client gone (FastAPI 0.118 or later)."""
        asked = await read(request, FORMS[request.url.path.removeprefix("/v1")])
        card = await find(asked.model or default["id"])
        if sum(worker.places for worker in workers) + asked.n > limit:
            raise failure(429, "too many requests at once, try again soon", headers={"Retry-After": "5"})
        job = Job(min(workers, key=lambda worker: worker.places), asked, card)
        job.worker.jobs.add(job)
        try:
            yield job
        finally:
            job.worker.jobs.discard(job)
            if job.requests:                            # it was not refused
                job.worker.thread.submit(job.cancel)
                used, begun = job.usage(), job.first or job.since
                counts["prompt_tokens_total"] += used["prompt_tokens"]
                counts["cached_tokens_total"] += used["prompt_tokens_details"]["cached_tokens"]
                counts["completion_tokens_total"] += used["completion_tokens"]
                counts["first_token_seconds_total"] += begun - job.since
                counts["decode_seconds_total"] += job.last - job.first
    async def answer(request: HTTPRequest, job: Annotated[Job, Depends(admit)]) -> Response:
        try:
            await job.begin(args.max_tokens)
            reply = (EventStream(job.events(), headers={"Cache-Control": "no-store"}) if job.asked.stream
                     else JSONResponse(await job.whole(request)))
        except (Exception, SystemExit) as error:        # a model that cannot be loaded ends in the latter
            raise told(error) from None
        counts['requests_total{status="200"}'] += 1
        return reply
    for path, form in FORMS.items():
        schema = {"requestBody": {"content": {"application/json": {"schema": form.model_json_schema()}}}}
        api.post(path, name=form.__name__, openapi_extra=schema)(answer)
    app.include_router(api)
    return app

def find_models(args: argparse.Namespace) -> Iterator[tuple[dict, Path]]:
    """Card and directory of the model asked for, then of its other stages, the most finished first."""
    chosen = checkpoint.chosen(args)
    others = [] if args.model else checkpoint.stages(checkpoint.read_state(chosen)["tag"])
    for path in (chosen, *(path for path in others if path.parent != chosen.parent)):
        about = {key: checkpoint.read_state(path)[key] for key in ("tag", "stage", "step")}
        yield {"id": "{tag}-{stage}".format(**about), "object": "model", "owned_by": "nanochat", **about,
               "created": int(checkpoint.created(path)),
               "context": checkpoint.read_config(path)["shape"]["sequence_len"]}, path

def parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add = parser.add_argument
    checkpoint.add_arguments(parser)
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets other machines in")
    add("--port", type=int, default=8000, help="0 is any free one")
    add("--api-key", default=os.environ.get("NANOCHAT_API_KEY"), help="what clients of /v1 must know")
    add("--max-batch", type=int, default=16, help="answers made at the same time, per device and stage")
    add("--max-waiting", type=int, default=64, help="answers that may wait; more are turned away")
    add("--max-tokens", type=int, help="per answer (default: what the context holds)")
    add("--max-seconds", type=float, default=300, help="per request, from its first token")
    add("--keep", type=int, default=16, help="conversations whose cache waits for the next turn, per stage")
    add("--docs", action="store_true", help="serve /docs and /openapi.json too")
    return parser

def main(args: argparse.Namespace) -> None:
    require_positive(args, "max_batch", "max_tokens", "max_seconds")
    family = socket.AF_INET6 if ":" in args.host else socket.AF_INET
    try:                                                # early visitors wait instead of being refused
        listener = socket.create_server((args.host, args.port), family=family)
    except (OSError, OverflowError) as error:
        die(f"cannot listen on {args.host}:{args.port}: {error}", hint="--port=0 takes any free port")
    models = {card["id"]: (card, path) for card, path in find_models(args)}
    def load(id: str, device: str) -> Engine:
        model, tokenizer, _ = checkpoint.load_model(models[id][1], device)
        return Engine(model, tokenizer, args.max_batch, args.keep)
    import torch
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    app = create_app([card for card, _ in models.values()], load, args, gpus or [str(find_device())])
    print(f"chat at http://{args.host}:{listener.getsockname()[1]}  (Ctrl-C stops the server)", flush=True)
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=5,
                            limit_concurrency=MAX_CONNECTIONS)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])

if __name__ == "__main__":
    main(parser().parse_args())
