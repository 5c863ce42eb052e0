"""Serve a trained model: the chat page at /, and the basics of OpenAI's API at /v1/chat/completions.

    python -m scripts.chat_web                          (then open http://127.0.0.1:8000)

One thread runs the engine for all clients; handlers hand it jobs and get pieces back through asyncio queues,
so that the event loop never waits for the model. A client that leaves frees its place. Nothing of a chat is
logged or kept. Only this machine can connect unless --host says otherwise, and other web sites cannot."""

import argparse
import asyncio
import json
import queue
import socket
import threading
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from pydantic import BaseModel, ValidationError
from starlette.middleware.trustedhost import TrustedHostMiddleware

import nanochat
from nanochat.chat import check_conversation
from nanochat.checkpoint import STAGES, load_model
from nanochat.common import die, new_parser
from nanochat.engine import Engine, SamplingParams

PAGE = Path(nanochat.__file__).with_name("ui.html")
PAGE_HEADERS = {
    "Content-Security-Policy":
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
MAX_BODY = 1 << 20                                      # bytes; the context in tokens is far smaller
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Message(BaseModel):
    role: Literal["system", "user", "assistant"]
    content: str | list[dict]                           # parts are checked by chat.py


class ChatRequest(BaseModel):
    """What is understood of OpenAI's request; `n` and `stop` would change the answer, so they are refused."""
    messages: list[Message]
    stream: bool = False
    temperature: float = 0.6
    top_p: float | None = None
    top_k: int | None = 50
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    seed: int | None = None
    n: Literal[1] = 1
    stop: None = None

    def params(self) -> SamplingParams:
        max_tokens = self.max_completion_tokens or self.max_tokens
        return SamplingParams(self.temperature, self.top_k, self.top_p, max_tokens, self.seed)


class Job:
    """One answer on its way from the engine's thread to a handler; `request` is whole at its end."""

    def __init__(self, prompt: list[int], params: SamplingParams):
        self.prompt, self.params, self.request = prompt, params, None
        self._loop, self._queue = asyncio.get_running_loop(), asyncio.Queue()

    def put(self, item: list[tuple[str, str]] | RuntimeError | None) -> None:
        """From the engine's thread: pieces, and at the end None, or what went wrong."""
        self._loop.call_soon_threadsafe(self._queue.put_nowait, item)

    async def pieces(self) -> AsyncIterator[list[tuple[str, str]]]:
        """As they come, to the end of the answer. RuntimeError when the engine failed."""
        while item := await self._queue.get():
            if isinstance(item, RuntimeError):
                raise item
            yield item

    def usage(self) -> dict:
        asked, made = len(self.prompt), len(self.request.ids)
        return {"prompt_tokens": asked, "completion_tokens": made, "total_tokens": asked + made}


class Batch:
    """The engine in its own thread. submit() and close() belong to the event loop's thread."""

    def __init__(self, engine: Engine, max_waiting: int):
        self.engine, self.limit = engine, engine.max_batch + max_waiting
        self.jobs: set[Job] = set()                     # what handlers wait for
        self._live: list[Job] = []                      # what the engine works on; its thread's own
        self._inbox: queue.SimpleQueue = queue.SimpleQueue()

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        thread = threading.Thread(target=self._work, name="engine", daemon=True)
        thread.start()
        yield
        self._inbox.put(None)
        thread.join()

    def submit(self, prompt: list[int], params: SamplingParams) -> Job:
        if len(self.jobs) >= self.limit:
            raise HTTPException(429, "too many requests at once, try again soon", {"Retry-After": "5"})
        job = Job(prompt, params)
        self.jobs.add(job)
        self._inbox.put((job, True))
        return job

    def close(self, job: Job) -> None:
        """Must follow every submit: frees the place, whether the answer is complete or no longer wanted."""
        self.jobs.discard(job)
        self._inbox.put((job, False))

    def _work(self) -> None:
        while self._listen():
            self._advance()

    def _listen(self) -> bool:
        """Take in what handlers ask for; sleep while there is nothing to do. False at the server's end."""
        while True:
            try:
                message = self._inbox.get(block=not self.engine.busy)
            except queue.Empty:
                return True
            if message is None:
                return False
            job, wanted = message
            if wanted:
                job.request = self.engine.submit(job.prompt, job.params)
                self._live.append(job)
            elif job in self._live:
                self._live.remove(job)
                self.engine.cancel(job.request)

    def _advance(self) -> None:
        """One step of the engine; what it made goes to the handlers."""
        try:
            self.engine.step()
        except Exception as error:                      # memory, NaN: the answers are lost, not the server
            print(f"engine: {error!r}", flush=True)
            self.engine.reset()
            for job in self._live:
                job.put(RuntimeError("the model failed on this request"))
            self._live.clear()
        for job in self._live:
            if pieces := job.request.take():
                job.put(pieces)
            if job.request.done:
                job.put(None)
        self._live = [job for job in self._live if not job.request.done]


def create_app(engine: Engine, name: str, hosts: Sequence[str] = LOOPBACK, max_waiting: int = 64) -> FastAPI:
    """The server as an ASGI app. `hosts`: names it answers to: no foreign site can be resolved to it."""
    batch, born = Batch(engine, max_waiting), int(time.time())
    app = FastAPI(title="nanochat", lifespan=batch.running, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))

    @app.exception_handler(HTTPException)
    async def refuse(request: Request, error: HTTPException) -> JSONResponse:
        kind = "invalid_request_error" if error.status_code < 429 else "server_error"
        said = {"error": {"message": error.detail, "type": kind, "code": error.status_code}}
        return JSONResponse(said, error.status_code, error.headers)

    @app.get("/")
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers=PAGE_HEADERS)

    @app.get("/health")
    async def health() -> dict:
        counts = {"requests": len(batch.jobs), "limit": batch.limit}
        return {"status": "ok", "model": name, "context": engine.context} | counts

    @app.get("/v1/models")
    async def models() -> dict:
        model = {"id": name, "object": "model", "created": born, "owned_by": "nanochat"}
        return {"object": "list", "data": [model]}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        asked = await read(request)
        try:
            params, conversation = asked.params(), asked.model_dump(include={"messages"})
            check_conversation(conversation, answered=False)
            prompt = await asyncio.to_thread(engine.prompt, conversation, params)
        except (ValueError, OverflowError) as error:
            raise HTTPException(400, str(error)) from None
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": name}
        job = batch.submit(prompt, params)
        if asked.stream:
            return EventStream(batch, job, head)
        try:
            async for _ in job.pieces():
                if await request.is_disconnected():
                    return Response(status_code=499)
        except RuntimeError as error:
            raise HTTPException(500, str(error)) from None
        finally:
            batch.close(job)
        message = {"role": "assistant", "content": job.request.text, "parts": job.request.parts}
        choice = {"index": 0, "message": message, "finish_reason": job.request.finish_reason}
        return JSONResponse(head | {"object": "chat.completion", "choices": [choice], "usage": job.usage()})

    return app


async def read(request: Request) -> ChatRequest:
    """The body, checked: declared as JSON (which a foreign page cannot do), bounded, of the right form."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "the content type must be application/json")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"the request is larger than {MAX_BODY:,} bytes")
    try:
        return ChatRequest.model_validate_json(bytes(body))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "body"
        raise HTTPException(400, f"{where}: {first['msg']}") from None


class EventStream(StreamingResponse):
    """Server-sent events of one answer. However the response ends, its job is closed."""

    def __init__(self, batch: Batch, job: Job, head: dict):
        super().__init__(self._lines(job, head), media_type="text/event-stream",
                         headers={"Cache-Control": "no-store"})
        self._batch, self._job = batch, job

    async def __call__(self, scope, receive, send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._batch.close(self._job)

    @staticmethod
    async def _lines(job: Job, head: dict) -> AsyncIterator[str]:
        def line(delta: dict, finish_reason: str | None = None, **more) -> str:
            choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
            data = {**head, "object": "chat.completion.chunk", "choices": [choice], **more}
            return f"data: {json.dumps(data)}\n\n"

        yield line({"role": "assistant", "content": ""})
        try:
            async for pieces in job.pieces():
                for kind, text in pieces:       # tool calls are no content: other clients skip them
                    delta = {"content": text} if kind == "text" else {"part": {"type": kind, "text": text}}
                    yield line(delta)
        except RuntimeError as error:
            failure = {"error": {"message": str(error), "type": "server_error", "code": 500}}
            yield f"data: {json.dumps(failure)}\n\n"
        else:
            yield line({}, job.request.finish_reason, usage=job.usage())
        yield "data: [DONE]\n\n"


def parser() -> argparse.ArgumentParser:
    chats = [name for name in STAGES if name != "base"]
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("-i", "--stage", choices=chats, help="of the model (default: the most finished one)")
    add("--model-tag", help="name of the model (default: the newest)")
    add("--step", type=int, help="of its checkpoint (default: the newest)")
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets other machines in")
    add("--port", type=int, default=8000, help="0 is any free one")
    add("--max-batch", type=int, default=16, help="answers made at the same time; more wait")
    return parser


def main(args: argparse.Namespace) -> None:
    six = ":" in args.host
    try:                                                # early visitors wait instead of being refused
        listener = socket.create_server((args.host, args.port), dualstack_ipv6=six,
                                        family=socket.AF_INET6 if six else socket.AF_INET)
    except (OSError, OverflowError) as error:
        die(f"cannot listen on {args.host}:{args.port}: {error}", hint="--port=0 takes any free port")
    model, tokenizer, meta = load_model(args.stage, args.model_tag, args.step)
    app = create_app(Engine(model, tokenizer, args.max_batch), f"{meta['tag']}-{meta['stage']}",
                     LOOPBACK if args.host in LOOPBACK else ("*",))
    print(f"chat at http://{args.host}:{listener.getsockname()[1]}  (Ctrl-C stops the server)", flush=True)
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=5)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(parser().parse_args())
