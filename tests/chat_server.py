"""What the tests of the web server share: models whose answers are known, a real server on a free port."""

import contextlib
import json
import re
import socket
import threading
from collections.abc import Callable
import httpx
import torch
import uvicorn
from nanochat.engine import Engine
from nanochat.gpt import GPT
from nanochat.scaling import Shape
from nanochat.tokenizer import Tokenizer
from scripts import chat_web

TOKENIZER = Tokenizer.train(["abc"], 265)
START, END = TOKENIZER.special("<|assistant_start|>"), TOKENIZER.special("<|assistant_end|>")
CALL, CALLED = TOKENIZER.special("<|python_start|>"), TOKENIZER.special("<|python_end|>")
OUT = TOKENIZER.special("<|output_end|>")
CONTEXT = 200
SAID = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0}
PARTS = [{"type": "text", "text": "ok"}, {"type": "python", "text": "6*7"},
         {"type": "python_output", "text": "42"}, {"type": "text", "text": "!"}]


def one(text: str) -> int:
    return TOKENIZER.encode(text)[0]


def chain(*tokens: int) -> dict[int, int]:
    return dict(zip(tokens, tokens[1:]))


TOOL = chain(START, *map(one, "ok"), CALL, *map(one, "6*7"), CALLED) | chain(OUT, one("!"), END)
ENDLESS = chain(START, one("a"), one("b"), one("a"))


@torch.no_grad()
def bigram(following: dict[int, int]) -> GPT:
    """A model that knows which token follows which (the end follows all others): embeddings are one-hot, the
    layer adds nothing, the head is the table of what follows."""
    V, C = TOKENIZER.vocab_size, 288
    model = GPT(Shape(n_layer=1, n_head=4, n_kv_head=4, n_embd=C, sequence_len=CONTEXT, vocab_size=V))
    model.init_weights()
    for weights in (model.embedding, model.unembedding):
        weights.zero_()
    for token in range(V):
        model.embedding[token, token] = 1
        model.unembedding[following.get(token, END), token] = 3
    return model.eval()


def random_model(seed: int = 1) -> GPT:
    """A tiny model that says anything, by weights that were drawn."""
    shape = Shape(n_layer=2, n_head=2, n_kv_head=1, n_embd=32, sequence_len=CONTEXT,
                  vocab_size=TOKENIZER.vocab_size)
    model = GPT(shape).init_weights(seed)
    with torch.no_grad():
        model.unembedding.normal_(0, 0.15, generator=torch.Generator().manual_seed(seed))
    return model.eval()


class Gated(Engine):
    """`gate`, if set, lets so many steps pass; a `broken` one fails at each."""

    def __init__(self, model: GPT, max_batch: int = 4, gate: threading.Semaphore | None = None):
        super().__init__(model, TOKENIZER, max_batch)
        self.gate, self.broken, self.steps = gate, False, 0

    def step(self):
        if self.gate:
            self.gate.acquire()
        if self.broken:
            raise MemoryError("no room")
        self.steps += 1
        super().step()


Served = tuple[str, Callable[[str], Engine]]             # id and what loads it on a device


def served(engine: Engine, id: str = "tiny-sft") -> Served:
    return id, lambda device: engine


@contextlib.contextmanager
def serving(*engines: Engine, models: list[Served] = (), devices: list[str] = ("cpu",),
            flags: str = "--max-batch=4 --max-waiting=4"):
    """A real server -> an HTTP client of it."""
    torch.set_num_threads(1)
    listener = socket.create_server(("127.0.0.1", 0))   # connections wait here until the server is up
    args = chat_web.parser().parse_args(flags.split())
    load = dict([*map(served, engines), *models])
    cards = [{"id": id, "stage": id.split("-")[-1], "context": CONTEXT} for id in load]
    app = chat_web.create_app(cards, lambda id, device: load[id](device), args, devices)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=60) as client:
            client.server = server
            yield client
    finally:
        for engine in engines:
            if getattr(engine, "gate", None):
                engine.gate.release(100_000)
        server.should_exit = True
        thread.join()


def ask(client: httpx.Client, **fields) -> httpx.Response:
    return client.post("/v1/chat/completions", json=SAID | fields)


def complete(client: httpx.Client, **fields) -> httpx.Response:
    return client.post("/v1/completions", json=fields)


def events(text: str) -> list:
    """The objects of a stream of server-sent events."""
    lines = text.split("\n\n")
    assert lines.pop() == "" and all(line.startswith("data: ") for line in lines)
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def metric(client: httpx.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if re.match(rf"nanochat_{name}(?!\w)", line))


def settled(client: httpx.Client) -> dict:
    """The state of the server once no request is left."""
    for _ in range(5000):
        health = client.get("/health").json()
        if health["requests"] == 0:
            return health
    raise AssertionError("requests never ended")
