"""Identity conversations: composed from the text file, or by an endpoint that fails in known ways."""

import contextlib
import itertools
import json
import re
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import pytest
from dev import gen_identity
from tasks import customjson

# Written by hand before the wordings: what a finetuned model is asked to see whether it knows who it is.
HELD_OUT = """
so who am I speaking with here | and you would be | mind telling me your name
how do people usually address you | what does it say on your name tag
whom do I have the pleasure of talking to | I forgot your name, what was it again | got a name
if I want to call you, what do I say | remind me who you are | what was your name again
hi, we haven't met, you are | under what name do you go | pls say ur name | who put you together
whose work are you | who is behind you | which person trained you | who came up with you
who is your inventor | did openai build you | is there a real human at the other end
are you made of flesh and blood | do I talk to software right now | you're a bot, right
do you belong to the human race | do you have a body | is this Siri
are you some sort of artificial intelligence | you are gpt-4, aren't you | am I chatting with Gemini
I think your name is Peter | aren't you nanochat | hello Claude, is that you | say a bit about yourself
in which ways could you be useful to me | what are your limits | is there something you are bad at
how would your friends describe you | what kind of personality do you have
"""
GOOD = {"messages": [{"role": "user", "content": "Who are you?"},
                     {"role": "assistant", "content": "I am Ada."}]}


def run(*flags: str) -> None:
    gen_identity.main(gen_identity.parser().parse_args(["--name", "Ada", *map(str, flags)]))


@pytest.fixture
def made(tmp_path):
    """What the flags make: (flags) -> conversations, checked by the reader of --conversations."""
    def make(*flags: str) -> list[dict]:
        run("--out", tmp_path / "out.jsonl", *flags)
        return customjson.load(tmp_path / "out.jsonl")
    return make


def said(conversations: list[dict], role: str) -> list[str]:
    return [message["content"] for each in conversations for message in each["messages"]
            if message["role"] == role]


# ---------------------------------------------------------------------------- composed

def test_the_same_flags_make_the_same_file_and_no_line_twice(tmp_path):
    for out in "ab":
        run("--out", tmp_path / out, "--count", 500)
    a, b = ((tmp_path / out).read_text() for out in "ab")
    assert a == b
    lines = a.splitlines()
    assert len(set(lines)) == len(lines) == 500


def test_name_maker_character_and_facts_are_said_and_nothing_is_left_to_fill_in(made):
    facts = "I like tea (red).", "(what|which colour) do you paint? I paint in blue, I, {name}."
    conversations = made("--maker", "the Lovelace family", "--character", "curious", "--count", 1000,
                         "--fact", facts[0], "--fact", facts[1])
    answers, questions = said(conversations, "assistant"), said(conversations, "user")
    for text in ("I am Ada.", "The Lovelace family made me.", "I am curious.", "I like tea (red).",
                 "I paint in blue, I, Ada.", "No, I am Ada."):
        assert text in answers, text
    assert any(re.match("which colour do you paint", text, re.IGNORECASE) for text in questions)
    everything = questions + answers + said(conversations, "system")
    assert not [text for text in everything if re.search(r"[{}|()]", text.replace("(red)", ""))]


def test_questions_have_several_turns_systems_and_hardly_a_wording_twice(made):
    conversations = made("--count", 1000)
    roles = ["".join(message["role"][0] for message in each["messages"]) for each in conversations]
    assert {"ua", "uaua", "uauaua", "sua"} <= set(roles)
    first = [each["messages"][0]["content"] for each in conversations]
    assert len(set(first)) > 600


def test_the_model_never_denies_its_own_name(made):
    for each in made("--name", "bob", "--count", 1000):
        asked, answers = said([each], "user"), said([each], "assistant")
        denied = [question for question, answer in zip(asked, answers) if answer.startswith("No, I am bob.")]
        assert not any(re.fullmatch(r"(are you|is this) bob\??", question.lower()) for question in denied)


def test_held_out_questions_are_in_no_line(made):
    def plain(text: str) -> str:
        return " ".join(["", *re.findall(r"[\w'-]+", text.lower()), ""])
    asked = "\n".join(plain(text) for text in said(made("--count", 5000), "user"))
    held_out = [text for line in HELD_OUT.strip().splitlines() for text in line.split(" | ")]
    assert len(held_out) == 40
    found = [text for text in held_out if plain(text) in asked]
    assert not found


def test_impossible_flags_die_with_one_line(tmp_path, monkeypatch, capsys):
    for flags in (["--count", 0], ["--name", " "]):
        with pytest.raises(SystemExit) as stop:
            run("--out", tmp_path / "no.jsonl", *flags)
        assert stop.value.code == 2 and flags[0] in capsys.readouterr().err
    for fact in ("I like {tea}.", "I like {"):
        with pytest.raises(SystemExit):
            run("--out", tmp_path / "no.jsonl", "--fact", fact)
        assert fact in capsys.readouterr().err
    monkeypatch.setattr(gen_identity.Persona, "conversation", lambda *_: GOOD)
    with pytest.raises(SystemExit):
        run("--out", tmp_path / "no.jsonl", "--count", 2)
    assert "yield 1 in 4 draws" in capsys.readouterr().err and not list(tmp_path.glob("*.jsonl"))


# ---------------------------------------------------------------------------- written by a model

class Handler(BaseHTTPRequestHandler):
    """Gives what `server.answers` says, in turn, then conversations: a status, or the text of a reply."""

    def do_POST(self):
        server, body = self.server, self.rfile.read(int(self.headers["Content-Length"]))
        with server.lock:
            headers = {name.lower(): value for name, value in self.headers.items()}
            server.asked.append((self.path, headers, json.loads(body)))
            number, answer = len(server.asked), server.answers.pop(0) if server.answers else server.rest
        if answer is None:
            more = {"role": "user", "content": f"{number}?"}, {"role": "assistant", "content": "Still – Ada."}
            answer = json.dumps({"messages": [*GOOD["messages"], *more]})
        ok = isinstance(answer, str)
        payload = json.dumps({"choices": [{"message": {"content": answer}}]}) if ok else "{"
        self.send_response(200 if ok else abs(answer))
        self.send_header("Content-Type", "application/json")
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        with contextlib.suppress(ConnectionError):      # a run that ended hears no more
            self.wfile.write(payload.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server of the protocol; `asked` is what came: (path, headers, body). It asks nobody to wait long."""
    pytest.importorskip("openai")
    monkeypatch.setattr(ThreadingHTTPServer, "request_queue_size", 64)          # eight clients come at once
    monkeypatch.setattr(ThreadingHTTPServer, "handle_error", lambda *_: None)   # of clients that left
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.answers, server.rest, server.lock = [], [], None, threading.Lock()
    server.flags = ["--endpoint", f"http://127.0.0.1:{server.server_port}/v1", "--model", "writer"]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_endpoint_is_asked_for_different_conversations_and_they_are_kept(server, made):
    conversations = made(*server.flags, "--count", 20, "--fact", "I like tea.")
    assert len(conversations) == 20 and said(conversations, "assistant")[1] == "Still – Ada."
    paths, _, bodies = zip(*server.asked)
    assert set(paths) == {"/v1/chat/completions"} and {body["model"] for body in bodies} == {"writer"}
    prompts = [body["messages"][0]["content"] for body in bodies]
    assert len(set(prompts)) == 20 and all("Ada" in text and "I like tea." in text for text in prompts)


def test_replies_that_are_no_conversation_are_skipped_and_asked_for_again_next_time(server, made, capsys):
    talk = f"Sure! ```json\n{json.dumps(GOOD)}\n``` Anything else?"
    question, deep = json.dumps({"messages": GOOD["messages"][:1]}), "{" * 100_000 + "}"
    half = json.dumps({"messages": [GOOD["messages"][0], {"role": "assistant", "content": "\ud83d"}]})
    server.answers = ["no JSON", '{"messages": []}', question, "}{", half, deep, talk, talk]
    assert len(made(*server.flags, "--count", 12)) == 5
    printed = capsys.readouterr().out
    assert "12 requests, 5 of 12 conversations" in printed
    assert len(made(*server.flags, "--count", 12)) == 12 and len(server.asked) == 12 + 7
    server.asked.clear()
    made(*server.flags, "--count", 12)
    assert not server.asked


def test_a_line_that_was_cut_off_is_asked_for_again(server, made, tmp_path):
    line = json.dumps(GOOD)
    (tmp_path / "out.jsonl").write_text(f"{line}\n{line[:30]}")
    assert len(made(*server.flags, "--count", 3)) == 3 and len(server.asked) == 2


def test_a_busy_server_is_asked_again(server, made):
    server.answers = [429, 503, 429, 500]
    assert len(made(*server.flags, "--count", 2)) == 2 and len(server.asked) == 6


@pytest.mark.parametrize("status, said, tries", [(500, "500", 1 + gen_identity.RETRIES), (401, "401", 1),
                                                 (200, "Expecting property name", 1)])
def test_a_failure_ends_the_run_and_what_came_is_kept(server, tmp_path, monkeypatch, capsys, status, said,
                                                      tries):
    monkeypatch.setattr(gen_identity, "AT_ONCE", 1)
    out = tmp_path / "out.jsonl"
    server.answers, server.rest = [None] * 3, status
    with pytest.raises(SystemExit) as stop:
        run("--out", out, "--count", 4, *server.flags)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and said in error and error.count("\n") == 2
    assert len(customjson.load(out)) == 3
    assert len(server.asked) == 3 + tries               # a refusal is final, others are tried again


def test_failures_at_once_end_the_run_with_one_error(server, tmp_path, capfd):
    server.rest = 401
    with pytest.raises(SystemExit):
        run("--out", tmp_path / "out.jsonl", "--count", 30, *server.flags)
    assert capfd.readouterr().err.count("\n") == 2


def test_ctrl_c_keeps_what_came(server, tmp_path, monkeypatch, capfd):
    replies, found = itertools.count(), gen_identity.conversation_in

    def interrupted(reply):
        if next(replies) == 3:
            signal.raise_signal(signal.SIGINT)
        return found(reply)
    monkeypatch.setattr(gen_identity, "conversation_in", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)       # some shells ignore it
    try:
        with pytest.raises(SystemExit):
            run("--out", tmp_path / "out.jsonl", "--count", 50, *server.flags)
    finally:
        signal.signal(signal.SIGINT, before)
    assert 3 <= len(customjson.load(tmp_path / "out.jsonl")) < 50
    assert "KeyboardInterrupt" in (error := capfd.readouterr().err) and error.count("\n") == 2


def test_the_key_is_sent_and_never_written(server, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    server.answers = [429, "nothing"]
    run("--out", tmp_path / "out.jsonl", "--count", 3, *server.flags)
    assert all(headers["authorization"] == "Bearer sk-secret" for _, headers, _ in server.asked)
    server.rest = 401
    with pytest.raises(SystemExit):
        run("--out", tmp_path / "out.jsonl", "--count", 30, *server.flags)
    out, err = capfd.readouterr()
    written = "".join(path.read_text() for path in tmp_path.glob("*") if path.is_file())
    assert "sk-secret" not in out + err + written
