"""64 clients at once, some slow, some vanishing, some malformed. NANOCHAT_LOAD_SECONDS=180 makes it a long
one, which prints what it saw."""

import asyncio
import json
import os
import random
import resource
import time
from collections import Counter
from pathlib import Path
import httpx
from chat_server import SAID, TOKENIZER, TOOL, bigram, metric, random_model, served, serving, settled
from test_chat_web import HOSTILE
from nanochat.engine import Engine

SECONDS = float(os.environ.get("NANOCHAT_LOAD_SECONDS", 8))
CLIENTS, CROWDS = 64, 4
LONG = {"model": "tiny-mid", "max_tokens": 60, "temperature": 1, "logprobs": True, "top_logprobs": 3}


def rss() -> int:
    """Resident memory of this process (server and clients) in MiB."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:                                     # elsewhere: the highest so far, in KiB
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return pages * resource.getpagesize() >> 20


class Crowd:
    """Clients that do one thing after the other until the time is over, and what they were answered."""

    def __init__(self, url: httpx.URL, deadline: float):
        self.url, self.deadline, self.seen = url, deadline, Counter()

    async def run(self) -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self.url, timeout=60, limits=limits) as self.http:
            await asyncio.gather(*(self.client(random.Random(number)) for number in range(CLIENTS)))

    async def client(self, dice: random.Random) -> None:
        deeds = [*[self.ask, self.stream, self.vanish] * 2, self.crawl, self.spoil]
        while time.monotonic() < self.deadline:
            deed = dice.choice(deeds)
            status = await deed(dice)
            self.seen[deed.__name__, status] += 1
            await asyncio.sleep(dice.random() * 0.1)

    async def ask(self, dice: random.Random) -> int:
        text = "x" * dice.randrange(1, 150)
        fields = {"messages": [{"role": "user", "content": text}], "n": dice.choice([1, 1, 2])}
        reply = await self.http.post("/v1/chat/completions", json=SAID | fields)
        if reply.status_code == 200:
            said = [choice["message"]["content"] for choice in reply.json()["choices"]]
            assert said == ["ok!"] * fields["n"]
        return reply.status_code

    async def stream(self, dice: random.Random) -> int:
        fields = LONG | {"stream": True, "stream_options": {"include_usage": True}}
        async with self.http.stream("POST", "/v1/chat/completions", json=SAID | fields) as reply:
            lines = [line async for line in reply.aiter_lines() if line]
        if reply.status_code == 200:
            assert lines[-1] == "data: [DONE]" and json.loads(lines[-2][6:])["usage"]["completion_tokens"] > 0
        return reply.status_code

    async def send(self, body: bytes, length: int | None = None) -> tuple:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.url.port, limit=1 << 21)
        head = (b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (length or len(body)))
        writer.write(head + body)
        return reader, writer

    async def crawl(self, dice: random.Random) -> int:
        """Reads a little now and then."""
        reader, writer = await self.send(json.dumps(SAID | LONG | {"stream": True}).encode())
        said = b""
        while piece := await reader.read(4000):
            said += piece
            await asyncio.sleep(0.05)
        writer.close()
        status = int(said.split()[1])
        assert status != 200 or b"data: [DONE]" in said
        return status

    async def vanish(self, dice: random.Random) -> None:
        """Leaves in the middle of its question, before the answer, or in the middle of that."""
        body = json.dumps(SAID | LONG | {"stream": dice.random() < 0.7, "n": 2}).encode()
        whole = dice.random() < 0.8
        reader, writer = await self.send(body if whole else body[:30], len(body))
        await asyncio.sleep(dice.random() * 0.2)
        if whole and dice.random() < 0.5:
            await reader.read(dice.randrange(1, 3000))
        if dice.random() < 0.5:
            writer.transport.abort()                    # a reset, not an end
        writer.close()

    async def spoil(self, dice: random.Random) -> int:
        kind = {"Content-Type": dice.choice([*["application/json"] * 3, "text/plain"])}
        reply = await self.http.post("/v1/completions", content=dice.choice(HOSTILE), headers=kind)
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
        return reply.status_code


def test_a_crowd_of_64_gets_only_the_right_answers_and_leaves_nothing_behind(capsys):
    """Several crowds, one after the other: memory and open files do not grow from the first to the last."""
    engines = [Engine(bigram(TOOL), TOKENIZER, 8, keep=4), Engine(random_model(), TOKENIZER, 8, keep=4)]
    models = [served(engine, id) for engine, id in zip(engines, ("tiny-sft", "tiny-mid"))]
    memory, files, seen = [], [], Counter()
    with serving(models=models, flags="--max-batch=8 --max-waiting=40") as client:
        for _ in range(CROWDS):
            crowd = Crowd(client.base_url, time.monotonic() + SECONDS / CROWDS)
            asyncio.run(crowd.run())
            seen += crowd.seen
            assert settled(client)["requests"] == metric(client, "running") == metric(client, "waiting") == 0
            memory.append(rss())
            files.append(len(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else 0)
        made = metric(client, "completion_tokens_total")
    assert not any(engine.busy or engine._running or engine._waiting for engine in engines)
    allowed = dict.fromkeys(("ask", "stream", "crawl"), {200, 429})
    allowed |= {"vanish": {None}, "spoil": {400, 415, 429}}
    assert all(status in allowed[deed] for deed, status in seen), seen
    assert all(seen[deed, 200] for deed in ("ask", "stream", "crawl"))
    assert seen["vanish", None] and seen["spoil", 400]
    assert memory[-1] - memory[0] < 40 and files[-1] <= files[0] + 5, (memory, files)
    out = capsys.readouterr().out
    assert out == "", out                               # no crash, nothing of a chat
    with capsys.disabled():
        if "NANOCHAT_LOAD_SECONDS" in os.environ:
            print(f"\n{made:,.0f} tokens, MiB {memory}, files {files}")
            print(*sorted(map(str, seen.items())), sep="\n")
