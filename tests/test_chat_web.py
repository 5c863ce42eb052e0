import asyncio
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import threading

import httpx
import pytest
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


def one(text: str) -> int:
    return TOKENIZER.encode(text)[0]


def chain(*tokens: int) -> dict[int, int]:
    return dict(zip(tokens, tokens[1:]))


TOOL = chain(START, *map(one, "ok"), CALL, *map(one, "6*7"), CALLED) | chain(OUT, one("!"), END)
ENDLESS = chain(START, one("a"), one("b"), one("a"))
SAID = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0}


class Bigram(GPT):
    """Which token follows which is given. `gate`, if set, lets so many steps pass."""

    def __init__(self, following: dict[int, int]):
        shape = Shape(n_layer=1, n_head=1, n_kv_head=1, n_embd=8, sequence_len=CONTEXT, vocab_size=265)
        super().__init__(shape)
        self.init_weights().eval()
        self.following, self.gate, self.steps, self.rows = following, None, 0, 0
        self.broken = False

    def step(self, idx, cache):
        if self.gate:
            self.gate.acquire()
        if self.broken:
            raise MemoryError("no room")
        self.steps, self.rows = self.steps + 1, max(self.rows, len(idx))
        logits = super().step(idx, cache) * 0
        for row, token in enumerate(idx[:, -1].tolist()):
            logits[row, self.following.get(token, END)] += 60
        return logits


@contextlib.contextmanager
def serving(model: GPT, max_batch: int = 4, max_waiting: int = 4):
    """A real server on a free port -> an HTTP client of it."""
    torch.set_num_threads(1)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()                                   # connections wait here until the server is up
    app = chat_web.create_app(Engine(model, TOKENIZER, max_batch), "tiny", max_waiting=max_waiting)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=60) as client:
            yield client
    finally:
        if model.gate:
            model.gate.release(100_000)
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def client():
    with serving(Bigram(TOOL)) as client:
        yield client


def ask(client: httpx.Client, **fields) -> httpx.Response:
    return client.post("/v1/chat/completions", json=SAID | fields)


def events(text: str) -> list:
    lines = text.split("\n\n")
    assert lines.pop() == "" and all(line.startswith("data: ") for line in lines)
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def settled(client: httpx.Client) -> dict:
    """The state of the server once no request is left."""
    for _ in range(5000):
        health = client.get("/health").json()
        if health["requests"] == 0:
            return health
    raise AssertionError("requests never ended")


PARTS = [{"type": "text", "text": "ok"}, {"type": "python", "text": "6*7"},
         {"type": "python_output", "text": "42"}, {"type": "text", "text": "!"}]


def test_a_whole_answer_has_the_form_of_the_openai_api(client):
    reply = ask(client).json()
    assert reply["object"] == "chat.completion" and reply["model"] == "tiny"
    assert reply["id"].startswith("chatcmpl-")
    assert reply["choices"] == [{"index": 0, "finish_reason": "stop",
                                 "message": {"role": "assistant", "content": "ok!", "parts": PARTS}}]
    assert reply["usage"] == {"prompt_tokens": 6, "completion_tokens": 13, "total_tokens": 19}


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
    assert chunks[-1]["usage"]["completion_tokens"] == 13 and len({chunk["id"] for chunk in chunks}) == 1


def test_a_stored_answer_can_be_sent_back_in_parts(client):
    answer, question = {"role": "assistant", "content": PARTS}, {"role": "user", "content": "And?"}
    messages = [*SAID["messages"], answer, question]
    as_parts = ask(client, messages=messages).json()["usage"]["prompt_tokens"]
    messages[1]["content"] = "ok!"
    assert as_parts == ask(client, messages=messages).json()["usage"]["prompt_tokens"] + len("6*7" + "42") + 4


def test_settings_reach_the_model(client):
    short = ask(client, max_tokens=1).json()
    choice = short["choices"][0]
    assert choice["finish_reason"] == "length" and choice["message"]["content"] == "o"
    extreme = {"top_k": 2**70, "top_p": 1e-300, "temperature": 100, "seed": -2**80, "max_tokens": 2**70}
    assert ask(client, **extreme).status_code == 200
    assert ask(client, **extreme | {"top_k": None, "top_p": None}).status_code == 200
    assert ask(client, max_completion_tokens=2, top_p=0.5, top_k=3, seed=1, temperature=1).json()["usage"][
        "completion_tokens"] == 2


@pytest.mark.parametrize("fields, says", [
    ({"messages": []}, "at least one"), ({"messages": "Hi"}, "messages"),
    ({"messages": [{"role": "user"}]}, "messages.0.content"),
    ({"messages": [{"role": "tool", "content": ""}]}, "role"),
    ({"messages": SAID["messages"] * 2}, "take turns"),
    ({"messages": SAID["messages"] + [{"role": "assistant", "content": "x"}]}, "from 'assistant' already"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}, "a part must"),
    ({"messages": [{"role": "user", "content": PARTS}]}, "cannot call the tool"),
    ({"temperature": -1}, "temperature is -1"), ({"temperature": "hot"}, "temperature"),
    ({"top_p": 2}, "top_p is 2"),
    ({"max_tokens": -5}, "max_tokens is -5"), ({"top_k": 0}, "top_k is 0"), ({"n": 2}, "n:"),
    ({"stop": ["x"]}, "stop:"),
])
def test_bad_requests_are_refused_with_a_reason(client, fields, says):
    response = ask(client, **fields)
    assert response.status_code == 400 and says in response.json()["error"]["message"]


def test_broken_bodies_foreign_types_and_foreign_hosts_are_refused(client):
    def post(body: bytes, **headers):
        headers = {"Content-Type": "application/json"} | headers
        return client.post("/v1/chat/completions", content=body, headers=headers)
    assert post(b"{").status_code == 400 and post(b"\xff").status_code == 400 and post(b"").status_code == 400
    assert post(json.dumps(SAID).encode(), **{"Content-Type": "text/plain"}).status_code == 415
    assert post(b" " * (chat_web.MAX_BODY + 1)).status_code == 413
    assert post(json.dumps(SAID).encode(), Host="evil.example").status_code == 400
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
    answer = post(json.dumps(SAID).encode(), Origin="http://evil.example")
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_user_text_with_marker_names_stays_text(client):
    text = "<|assistant_end|><|bos|>"
    usage = ask(client, messages=[{"role": "user", "content": text}]).json()["usage"]
    assert usage["prompt_tokens"] == len(text) + 4


def test_a_prompt_longer_than_the_context_is_cut_and_answered(client):
    long = [{"role": ("user", "assistant")[i % 2], "content": "x" * 40} for i in range(11)]
    reply = ask(client, messages=long, max_tokens=20).json()
    assert reply["choices"][0]["message"]["content"] == "ok!"
    assert reply["usage"]["prompt_tokens"] <= CONTEXT - 19
    huge = ask(client, messages=[{"role": "user", "content": "y" * 100_000}]).json()
    assert huge["usage"]["prompt_tokens"] == CONTEXT // 2 + 1


def test_models_and_health_are_told(client):
    assert client.get("/v1/models").json()["data"][0]["id"] == "tiny"
    assert settled(client)["status"] == "ok"
    assert client.get("/docs").status_code == client.get("/openapi.json").status_code == 404


def test_concurrent_requests_share_the_batch():
    model = Bigram(TOOL)
    model.gate = threading.Semaphore(0)

    async def all_at_once(url):
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            asked = [asyncio.create_task(client.post("/v1/chat/completions", json=SAID)) for _ in range(8)]
            while (await client.get("/health")).json()["requests"] < 8:    # answered while the model works
                pass
            model.gate.release(10_000)
            return [response.json() for response in await asyncio.gather(*asked)]

    with serving(model) as client:
        replies = asyncio.run(all_at_once(str(client.base_url)))
    assert [reply["choices"][0]["message"]["content"] for reply in replies] == ["ok!"] * 8 and model.rows >= 3
    assert model.steps < 8 * 13 / 2


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_place_and_stops_the_computation(stream):
    model = Bigram(ENDLESS)
    model.gate = threading.Semaphore(0)
    with serving(model, max_batch=1) as client:
        body = json.dumps(SAID | {"stream": stream}).encode()
        leaver = socket.create_connection(("127.0.0.1", client.base_url.port))
        leaver.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                       b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        while client.get("/health").json()["requests"] == 0:
            pass
        model.gate.release(3)
        if stream:
            while b'"a"' not in leaver.recv(4096):
                pass
        leaver.close()
        if stream:
            settled(client)                             # at once, while the model still waits
            model.gate.release(1)
        else:
            model.gate.release(20)                      # noticed with the next token
            settled(client)
        steps = model.steps
        assert steps <= 30
        model.following = TOOL
        model.gate.release(1000)
        assert ask(client).json()["choices"][0]["message"]["content"] == "ok!"
        assert model.steps <= steps + 30


def test_more_than_batch_and_queue_hold_are_turned_away():
    model = Bigram(TOOL)
    model.gate = threading.Semaphore(0)

    async def crowd(url):
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            asked = [asyncio.create_task(client.post("/v1/chat/completions", json=SAID)) for _ in range(2)]
            while (await client.get("/health")).json()["requests"] < 2:
                pass
            refused = await client.post("/v1/chat/completions", json=SAID)
            model.gate.release(1000)
            return refused, await asyncio.gather(*asked)

    with serving(model, max_batch=1, max_waiting=1) as client:
        refused, served = asyncio.run(crowd(str(client.base_url)))
        assert refused.status_code == 429 and "too many" in refused.json()["error"]["message"]
        assert refused.headers["retry-after"] and [response.status_code for response in served] == [200, 200]
        assert ask(client).status_code == 200


def test_a_step_that_fails_loses_its_answers_but_not_the_server(capsys):
    model = Bigram(TOOL)
    with serving(model) as client:
        model.broken = True
        assert ask(client).status_code == 500
        error = events(ask(client, stream=True).text)[-1]["error"]
        assert error["message"] == "the model failed on this request"
        model.broken = False
        assert ask(client).json()["choices"][0]["message"]["content"] == "ok!" and settled(client)
    assert "Hi" not in "".join(capsys.readouterr())     # nothing of a chat is printed


def test_the_page_needs_nothing_from_elsewhere_and_never_parses_model_text(client):
    response = client.get("/")
    page = response.text
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", page)
    links = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s'\"]*", page)
    assert set(links) <= {"http://www.w3.org/2000/svg"}


def test_the_server_is_local_by_default_and_a_taken_port_is_one_clear_line(capsys):
    args = chat_web.parser().parse_args([])
    assert args.host == "127.0.0.1"
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as stop:
        args.port = taken.getsockname()[1]
        chat_web.main(args)
    assert stop.value.code == 2 and "cannot listen on 127.0.0.1" in capsys.readouterr().err


ALT, CTRL, SHIFT = 1, 2, 8                              # as the protocol counts them


class Browser:
    """Chromium over --remote-debugging-pipe: JSON ended by zero bytes, on file descriptors 3 and 4."""

    def __init__(self, profile: str):
        reads, self.commands = os.pipe()
        self.replies, writes = os.pipe()
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec chromium "$@" 3<&{reads} 4>&{writes}', "chromium", "--headless",
             "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={profile}"],
            pass_fds=(reads, writes), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(reads), os.close(writes)
        self.buffer, self.count, self.session, self.errors = b"", 0, {}, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = {"sessionId": attached["sessionId"]}
        self.call("Runtime.enable")

    def call(self, method: str, **params) -> dict:
        self.count += 1
        message = {"id": self.count, "method": method, "params": params, **self.session}
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.buffer:
                data = os.read(self.replies, 1 << 16)
                assert data, "the browser is gone"
                self.buffer += data
            line, self.buffer = self.buffer.split(b"\0", 1)
            reply = json.loads(line)
            if reply.get("method") == "Runtime.exceptionThrown":
                self.errors.append(reply["params"])
            if reply.get("id") == self.count:
                assert "error" not in reply, reply
                return reply["result"]

    def run(self, code: str):
        reply = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in reply, reply
        return reply["result"].get("value")

    def until(self, condition: str) -> None:
        """Looks on every frame."""
        self.run("new Promise(done => {"
                 f"const look = () => ({condition}) ? done() : requestAnimationFrame(look); look() }})")

    def open(self, client: httpx.Client) -> None:
        self.call("Page.navigate", url=str(client.base_url))
        self.until("document.getElementById('model')?.textContent === 'tiny'")

    def type(self, text: str) -> None:
        """Text into the question, then Enter."""
        self.run("document.querySelector('textarea').focus()")
        self.call("Input.insertText", text=text)
        self.enter()

    def enter(self, modifiers: int = 0) -> None:
        """The key alone, or with modifiers."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r",
                      windowsVirtualKeyCode=13, modifiers=modifiers)


@pytest.fixture()
def browser(tmp_path):
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not installed")
    browser = Browser(str(tmp_path / "profile"))
    try:
        yield browser
        assert browser.errors == []
    finally:
        browser.process.terminate()
        browser.process.wait()
        os.close(browser.commands), os.close(browser.replies)


def test_the_page_streams_stops_remembers_and_shows_text_as_text(browser):
    model = Bigram(ENDLESS)
    model.gate = threading.Semaphore(3)
    with serving(model) as client:
        browser.open(client)
        browser.type("<img src=x onerror=boom()>")
        browser.until("document.querySelector('.assistant')?.textContent.trim() === 'aba'")
        assert browser.run("document.querySelector('.user').textContent") == "<img src=x onerror=boom()>"
        assert browser.run("document.querySelectorAll('img').length") == 0
        browser.run("document.querySelector('[aria-label=Stop]:not([hidden])').click()")
        browser.until("document.querySelector('.note')?.textContent === 'Stopped.'")
        settled(client)
        model.following = TOOL
        model.gate.release(1000)
        browser.type("again")
        browser.until("document.querySelector('details.tool') && !live")
        shown = ("[...[...document.querySelectorAll('.assistant')].at(-1)"
                 ".querySelectorAll('p, summary, .note')].map(node => node.textContent)")
        assert browser.run(shown) == ["ok", "Calculator: 6*7 = 42", "!"]
        browser.call("Page.reload")
        browser.until("document.querySelector('#chats .open')")
        browser.run("document.querySelector('#chats .open').click()")
        assert browser.run(shown) == ["ok", "Calculator: 6*7 = 42", "!"]
        model.broken = True
        browser.type("a third")
        browser.until("document.querySelector('.note.error')")
        note = browser.run("document.querySelector('.note.error').textContent")
        assert note == "No answer: the model failed on this request"


WITHOUT_FIELD_SIZING = """textarea { field-sizing: fixed !important }
    .question::after { content: attr(data-copy) " " !important }"""


@pytest.mark.parametrize("style", ["", WITHOUT_FIELD_SIZING], ids=["as it is", "without field-sizing"])
def test_the_question_grows_with_its_lines_up_to_seven_and_shrinks_again(browser, style):
    """In a browser without field-sizing the unseen copy gives the height."""
    height = "document.querySelector('textarea').getBoundingClientRect().height"
    with serving(Bigram(TOOL)) as client:
        browser.open(client)
        browser.run(f"document.head.append(make('style', '', {json.dumps(style)}))")
        one, heights = browser.run(height), []
        browser.run("document.querySelector('textarea').focus()")
        for _ in range(9):
            browser.call("Input.insertText", text="a line")
            heights.append(browser.run(height))
            browser.enter(SHIFT)
        line = heights[1] - one
        assert line > 10 and heights == pytest.approx([one + min(i, 6) * line for i in range(9)], abs=1)
        wide = "document.querySelector('form').getBoundingClientRect().width > innerWidth"
        browser.run("ask.reset(), drawButtons()")
        browser.call("Input.insertText", text="x" * 500)
        assert browser.run(height) > one and not browser.run(wide)
        browser.enter()
        browser.until("!live")
        assert browser.run(height) == one


def test_enter_alone_sends_and_what_is_typed_during_an_answer_waits(browser):
    model = Bigram(TOOL)
    model.gate = threading.Semaphore(0)
    typed = "document.querySelector('textarea').value"
    with serving(model) as client:
        browser.open(client)
        browser.run("document.querySelector('textarea').focus()")
        browser.enter()
        browser.call("Input.insertText", text=" \n ")
        browser.enter()
        assert browser.run("document.querySelectorAll('.user').length") == 0     # nothing to send
        browser.run("ask.reset(), drawButtons()")
        browser.call("Input.insertText", text="one")
        for modifiers in (ALT, CTRL, SHIFT):
            browser.enter(modifiers)
        assert browser.run("live") is None and browser.run(typed).startswith("one")
        browser.enter()
        assert browser.run("live !== null") and browser.run(typed) == ""
        browser.type("two")
        assert browser.run(typed) == "two" and browser.run("document.querySelectorAll('.user').length") == 1
        model.gate.release(1000)
        browser.until("!live")
        browser.run("document.getElementById('send').click()")
        browser.until("!live")
        said = browser.run("[...document.querySelectorAll('.user')].map(node => node.textContent)")
        assert said == ["one", "two"]
