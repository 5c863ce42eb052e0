"""The terminal chat, on models whose weights say which token may follow which."""

import contextlib
import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from argparse import Namespace
import pytest
import torch
from nanochat import checkpoint
from nanochat.chat import render_prompt
from nanochat.dist import World
from nanochat.engine import Engine, SamplingParams
from nanochat.gpt import GPT
from nanochat.scaling import Shape
from nanochat.stage import Stage
from nanochat.tokenizer import SPECIAL_TOKENS, Tokenizer
from scripts import chat_cli
from tasks import customjson

TOKENIZER = Tokenizer.train(["abc"], 265)
START, END = "<|assistant_start|>", "<|assistant_end|>"
TOOL = [START, *"Né: ", "<|python_start|>", *"6*7", "<|python_end|>", "<|output_end|>", "!", END]
ANSWER = [{"type": "text", "text": "Né: "}, {"type": "python", "text": "6*7"},
          {"type": "python_output", "text": "42"}, {"type": "text", "text": "!"}]
LETTERS = [chr(letter) for letter in range(ord("a"), ord("z") + 1)]


def ids(token: str) -> list[int]:
    return [TOKENIZER.special(token)] if token in SPECIAL_TOKENS else TOKENIZER.encode(token)


def save(follows: dict[int, list[int]], stage: str = "sft", context: int = 20_000) -> None:
    """A model with a weight of its own for each token: what may follow it is likely, all else is not."""
    model = GPT(Shape(n_layer=1, n_head=5, n_kv_head=5, n_embd=320, sequence_len=context, vocab_size=265))
    model.init_weights()                                # every layer is the identity
    with torch.no_grad():
        torch.nn.init.eye_(model.embedding)
        model.unembedding.zero_()
        for token, others in follows.items():
            model.unembedding[others, token] = 2
    where = Stage(stage, "t", World(), Namespace(dtype="float32", run="dummy"))
    with contextlib.redirect_stdout(None):
        checkpoint.save(where, model, TOKENIZER, 1)


def save_caller(**where) -> None:
    """It answers everything with a call of the tool."""
    chain = [token for text in TOOL for token in ids(text)]
    save({token: [following] for token, following in zip(chain, chain[1:])}, **where)


def save_babbler(**where) -> None:
    """It answers with letters without end: "aaa" at temperature 0, any ones above."""
    letters = [token for letter in LETTERS for token in ids(letter)]
    save(dict.fromkeys(ids(START) + letters, letters), **where)


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.setenv("NANOCHAT_DTYPE", "float32")
    monkeypatch.setenv("TERM", "xterm")


def run(*argv: str) -> None:
    chat_cli.main(chat_cli.parser().parse_args(argv))


def start(*argv: str, system: str | None = None, out=None) -> chat_cli.Chat:
    args = chat_cli.parser().parse_args(argv)
    model, tokenizer, _ = checkpoint.load_model(checkpoint.find())
    settings = {name: getattr(args, name) for name in chat_cli.SETTINGS}
    return chat_cli.Chat(Engine(model, tokenizer, max_batch=1, keep=1), settings, system, False,
                         out or io.StringIO())


def engine_says(question: str, samples: int = 1, **settings) -> list[str]:
    """Answers that the engine gives to one question, several with one seed."""
    model, tokenizer, _ = checkpoint.load_model(checkpoint.find())
    engine = Engine(model, tokenizer, max_batch=samples)
    prompt = render_prompt(tokenizer, {"messages": [{"role": "user", "content": question}]})
    return [answer.text for answer in engine.generate([prompt] * samples, SamplingParams(**settings))]


class Terminal:
    """The program on a terminal, of which we are the keyboard and the eyes."""

    def __init__(self, *argv: str):
        self.pid, self.file = pty.fork()
        if self.pid == 0:
            os.execv(sys.executable, [sys.executable, "-m", "scripts.chat_cli", *argv])
        self.shown = ""

    def until(self, text: str) -> str:
        """What is shown up to the text, which is taken away with it."""
        while text not in self.shown:
            assert select.select([self.file], [], [], 120)[0], self.shown           # do not hang
            self.shown += os.read(self.file, 4096).decode()             # OSError where it has ended
        before, self.shown = self.shown.split(text, 1)
        return before

    def type(self, text: str) -> None:
        os.write(self.file, text.encode())

    def clear(self) -> None:
        """Ctrl-C at the prompt. Python misses one that comes just before it begins to wait for a key."""
        self.type("\x03")
        while not select.select([self.file], [], [], 2)[0]:
            self.type("\x03")
        self.until("you> ")

    def ended(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_one_prompt_prints_the_answer_with_its_tool_call(capsys):
    save_caller()
    run("-p", "x")
    assert capsys.readouterr().out == "Né: [6*7 = 42]!\n"


def test_a_terminal_gets_tool_calls_dimly_and_no_control_characters_of_the_model():
    out = io.StringIO()
    out.isatty = lambda: True
    screen = chat_cli.Screen(out)
    for part in ANSWER[:3]:
        screen.show(part["type"], part["text"])
    screen.show("text", "\x1b[2J\r\x9b\tü\n")
    assert out.getvalue() == "Né: \x1b[2m[6*7 = 42]\x1b[0m\ufffd[2J\ufffd\ufffd\tü\n"


def test_each_prompt_is_answered_on_its_own_as_the_engine_answers_it(capsys):
    save_babbler()
    run("-p", "one", "-p", "two", "--seed", "5", "--max-tokens", "30")
    one, two = (engine_says(q, temperature=0.6, top_k=50, seed=5, max_tokens=30)[0] for q in ("one", "two"))
    assert capsys.readouterr().out == f"\nyou> one\n{one}\n\nyou> two\n{two}\n" and len(one) == 30


def test_the_whole_of_a_pipe_is_one_question(monkeypatch, capsys):
    save_babbler()
    asked = []
    monkeypatch.setattr(chat_cli.Chat, "ask", lambda self, question: asked.append(question) or 1 / 0)
    for argv in ((), ("--json",)):
        monkeypatch.setattr("sys.stdin", io.StringIO("one\n\ntwo \n"))
        with pytest.raises(ZeroDivisionError):
            run(*argv)
    assert asked == ["one\n\ntwo "] * 2
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    with pytest.raises(SystemExit) as stop:
        run()
    assert stop.value.code == 2 and capsys.readouterr().err.startswith("error: the standard input is empty\n")


def test_json_is_one_object_a_line_with_the_answer_and_what_it_took(capsys):
    save_babbler()
    run("--json", "-p", "one", "-p", "two\n", "--seed=5", "--max-tokens=7", "--top-k=0", "--min-p=0.1")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for line, question in zip(lines, ("one", "two\n")):
        text, = engine_says(question, temperature=0.6, min_p=0.1, seed=5, max_tokens=7)
        messages = [{"role": "user", "content": question}]
        assert line.pop("tokens_per_second") == pytest.approx(7 / line.pop("seconds"))
        assert line == {
            "tag": "t", "stage": "sft", "step": 1, "prompt": question, "text": text,
            "parts": [{"type": "text", "text": text}], "finish_reason": "length",
            "prompt_tokens": len(render_prompt(TOKENIZER, {"messages": messages})), "completion_tokens": 7,
            "temperature": 0.6, "top_k": None, "top_p": None, "min_p": 0.1, "max_tokens": 7, "seed": 5,
            "repetition_penalty": 1.0, "frequency_penalty": 0.0, "presence_penalty": 0.0, "stop": [],
            "top_logprobs": None}


def test_every_sampling_flag_reaches_the_engine_and_is_checked_before_the_model_is_loaded(capsys):
    flags = {"temperature": 0.5, "top_k": 3, "top_p": 0.5, "min_p": 0.25, "max_tokens": 9, "seed": 1,
             "repetition_penalty": 1.5, "frequency_penalty": -1.0, "presence_penalty": 2.0}
    argv = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    args = chat_cli.parser().parse_args([*argv, "--stop", "a\n", "--stop", "b"])
    settings = {name: getattr(args, name) for name in chat_cli.SETTINGS}
    assert chat_cli.to_params(settings) == SamplingParams(**flags, stop=("a\n", "b"))
    with pytest.raises(SystemExit) as stop:
        run("-p", "x", "--temperature=-1")
    assert stop.value.code == 2 and "temperature is -1.0" in capsys.readouterr().err


def test_a_missing_model_is_one_clear_line(capsys):
    with pytest.raises(SystemExit) as stop:
        run("-p", "x", "-i", "rl", "--model-tag", "d4", "--step", "7")
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("error: no checkpoint of stage rl tag d4 step 7 ")


def test_a_base_model_continues_the_bare_text(capsys):
    save({ids("x")[0]: ids("y"), ids("y")[0]: ids(END)}, stage="base")
    run("-p", "Once upon x")
    assert capsys.readouterr().out == "y\n"


def test_a_conversation_carries_its_answers_along_until_they_are_forgotten():
    save_caller()
    chat = start("--temperature=0", system="Be brief.")
    system, said = {"role": "system", "content": "Be brief."}, {"role": "assistant", "content": ANSWER}
    turns = [[{"role": "user", "content": question}, said] for question in ("one", "two", "three")]
    prompts = [chat.ask(question)[0].prompt for question in ("one", "two")]
    assert chat.command("/undo") == "forgot 'two'" and chat.messages == [system, *turns[0]]
    request = chat.ask("three")[0]
    prompts.append(request.prompt)
    assert request.reused >= len(prompts[0])            # nothing is computed twice
    for prompt, turn in zip(prompts[1:], turns[1:]):
        assert prompt == render_prompt(TOKENIZER, {"messages": [system, *turns[0], turn[0]]})
    assert chat.command("/reset") and chat.messages == [system]
    assert chat.command("/undo") == chat.command("/retry") == "nothing was asked yet"
    assert chat.command("/system Be\n long.") == "system message: Be\n long." == chat.command("/system")
    assert chat.messages == [{"role": "system", "content": "Be\n long."}]
    assert chat.command("/system off") == "system message: none" and chat.messages == []


def test_a_retry_gives_another_answer_with_a_seed_too():
    save_babbler()
    chat = start("--seed=3", "--max-tokens=20")
    answers = [chat.ask("x")[0].text]
    for _ in range(2):
        assert chat.command("/retry") == "" and len(chat.messages) == 2
        answers.append(chat.messages[1]["content"][0]["text"])
    assert answers == engine_says("x", 3, temperature=0.6, top_k=50, seed=3, max_tokens=20)
    assert len(set(answers)) == 3


def test_settings_are_shown_changed_and_checked():
    save_babbler()
    chat = start("--max-tokens=5")
    assert chat.command("/set seed 3") == "seed is 3" and chat.command("/set top_k 0") == "top_k is 0"
    assert chat.command("/set max_tokens 9") and chat.command("/set stop a b") == "stop is a b"
    assert chat.ask("x")[0].params == SamplingParams(0.6, seed=3, max_tokens=9, stop=("a b",))
    assert chat.command("/set temperature off") and chat.command("/set stop off")
    assert chat.command("/set seed off") and chat.command("/set max_tokens 4")
    assert chat.ask("x")[0].params == SamplingParams(max_tokens=4)
    for wrong, why in (("temperature -1", "temperature is -1.0, must be 0 to 100"), ("seed x", "'x'")):
        with pytest.raises(ValueError, match=why):
            chat.command(f"/set {wrong}")
    for wrong in ("/set seed", "/set sead 1"):
        assert "one of temperature, top_k" in chat.command(wrong)
    shown = dict(line.split()[:2] for line in chat.command("/set").splitlines())
    assert list(shown) == list(chat_cli.SETTINGS) and shown["seed"] == "off" and shown["max_tokens"] == "4"
    assert chat.ask("x")[0].params == SamplingParams(max_tokens=4)


def test_what_is_saved_is_a_conversation_to_learn_from(tmp_path):
    save_caller()
    chat, path = start("--temperature=0", system="Be brief."), tmp_path / "new" / "my file.jsonl"
    with pytest.raises(ValueError):
        chat.command(f"/save {path}")
    for question in ("one", "two"):
        chat.ask(question)
        assert chat.command(f"/save {path}") == f"added to {path}"
    assert [len(saved["messages"]) for saved in customjson.load(path)] == [3, 5]
    assert customjson.load(path)[1]["messages"] == chat.messages
    with pytest.raises(IsADirectoryError):
        chat.command(f"/save {tmp_path}")


def test_help_names_every_command_and_an_unknown_one_is_said_in_one_line():
    save_caller()
    chat = start()
    said, shown = chat.command("/clear now"), chat.command("/help")
    assert said.startswith("no command /clear; /help shows") and "\n" not in said
    for command in sorted(set(re.findall("/[a-z]+", shown)) - {"/save", "/quit"}):
        assert "no command" not in chat.command(command)
    with pytest.raises(EOFError):
        chat.command("/quit")


def test_turns_that_no_longer_fit_are_told_of(capsys):
    save_babbler(context=100)
    chat = start("--max-tokens=20")
    for _ in range(4):
        request, _ = chat.ask("12345678")
    told = re.findall(r"without the first (\d) questions", capsys.readouterr().err)
    # a turn is 8 + 20 letters and 4 markers, a question 8 and 3; bos; 20 of the context are kept free
    assert told == ["1"] and len(request.prompt) == 1 + 2 * 32 + 11 and len(chat.messages) == 8


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said():
    class Impatient(io.StringIO):
        def write(self, text):
            super().write(text)
            if "é" in text:
                os.kill(os.getpid(), signal.SIGINT)
    save_caller()
    before, chat = signal.getsignal(signal.SIGINT), start("--temperature=0", out=Impatient())
    request, _ = chat.ask("x")
    assert request.finish_reason == "cancelled" and request.text == "Né"
    assert chat.messages[1]["content"] == request.parts and signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("end, code", [("ctrl-c", 130), ("reader leaves", -signal.SIGPIPE)])
def test_a_script_that_is_stopped_leaves_without_a_traceback(end, code):
    save_babbler()
    program = subprocess.Popen([sys.executable, "-m", "scripts.chat_cli", "--max-tokens=0"], text=True,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    program.stdin.write("x")
    program.stdin.close()
    said = program.stdout.read(10)
    if end == "ctrl-c":
        program.send_signal(signal.SIGINT)
        said += program.stdout.read()
        assert re.fullmatch("[a-z]+\n", said)
    program.stdout.close()
    assert program.wait() == code and program.stderr.read() == ""
    program.stderr.close()


def test_a_session_in_a_terminal(tmp_path):
    save_babbler()
    terminal, path = Terminal("--temperature=0", "--max-tokens=0"), tmp_path / "saved.jsonl"
    assert "t, sft step 1" in terminal.until("you> ")
    terminal.type("/undo\r")
    assert "nothing was asked yet" in terminal.until("you> ")
    terminal.type("/set temperature -1\r")
    assert "not done: temperature is -1.0, must be 0 to 100\r\n" in terminal.until("you> ")
    terminal.type("\x1b[200~one\n\ttwo\x1b[201~\r")     # a pasted block
    terminal.until("aaaa")
    terminal.type("\x03")                               # Ctrl-C stops the answer
    assert "tok/s, cancelled" in terminal.until("you> ")
    terminal.type("half typed")
    terminal.until("half typed")
    terminal.clear()
    terminal.type("/three/x\\\r")                       # a line that goes on; a path is no command
    terminal.until("...> ")
    terminal.type("four\r")
    terminal.until("aaaa")
    terminal.type("\x03")
    terminal.until("you> ")
    terminal.type(f"/save {path}\r")
    terminal.until(f"added to {path}")
    terminal.until("you> ")
    terminal.type("\x04")                               # Ctrl-D leaves
    assert terminal.ended() == 0
    questions = [message["content"] for message in json.loads(path.read_text())["messages"][::2]]
    assert questions == ["one\n\ttwo", "/three/x\nfour"]


def test_the_arrow_keys_recall_what_was_typed():
    save_babbler()
    terminal = Terminal("--max-tokens=5")
    terminal.until("you> ")
    terminal.type("/set seed 7\r")
    terminal.until("seed is 7")
    terminal.until("you> ")
    terminal.type("\x1b[A\r")                           # the last line again
    terminal.until("seed is 7")
    terminal.until("you> ")
    terminal.type("a\rb\r")                             # pasted in a terminal that does not say so
    terminal.until(engine_says("a\nb", temperature=0.6, top_k=50, seed=7, max_tokens=5)[0])
    terminal.until("you> ")
    terminal.type("\x04")
    assert terminal.ended() == 0


def test_a_model_in_one_file_answers_where_there_is_no_other(tmp_path, monkeypatch, capsys):
    save_caller()
    file = tmp_path / "model.nanochat"
    checkpoint.pack(checkpoint.find(), file)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path / "elsewhere"))
    run("--model", str(file), "-p", "a", "--json")
    told = json.loads(capsys.readouterr().out)
    assert told["parts"] == ANSWER and (told["tag"], told["stage"], told["step"]) == ("t", "sft", 1)
    with pytest.raises(SystemExit, match="2"):
        run("--model", str(tmp_path / "nothing"), "-p", "a")
    assert "nothing is not a file" in capsys.readouterr().err
