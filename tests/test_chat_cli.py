import io
import os
import signal

import pytest
import torch

from nanochat.chat import render_conversation, render_prompt
from nanochat.engine import Engine, SamplingParams
from nanochat.gpt import GPT
from nanochat.scaling import Shape
from nanochat.tokenizer import Tokenizer
from scripts import chat_cli

TOKENIZER = Tokenizer.train(["abc"], 265)
GREEDY = SamplingParams(temperature=0, max_tokens=40)
ANSWER = [{"type": "text", "text": "Né: "}, {"type": "python", "text": "6*7"},
          {"type": "python_output", "text": "42"}, {"type": "text", "text": "!"}]
QUESTION = {"messages": [{"role": "user", "content": "x"}]}
META = {"tag": "t", "stage": "sft", "step": 1}


class Parrot(GPT):
    """Gives one answer to everything, by knowing which token follows each position behind the prompt."""

    def step(self, idx, cache):
        logits = super().step(idx, cache) * 0
        start, reply = TOKENIZER.special("<|assistant_start|>"), self.reply
        if idx.shape[1] > 1:
            self.begin = int(cache.lengths[0])
            assert int(idx[0, -1]) == start or not self.chats
        logits[0, reply[min(int(cache.lengths[0]) - self.begin, len(reply) - 1)]] += 10
        return logits


@pytest.fixture()
def engine(monkeypatch):
    torch.set_num_threads(1)
    shape = Shape(n_layer=1, n_head=1, n_kv_head=1, n_embd=8, sequence_len=200, vocab_size=265)
    model = Parrot(shape).init_weights().eval()
    model.chats = True
    prompt = render_prompt(TOKENIZER, QUESTION)
    conversation = {"messages": QUESTION["messages"] + [{"role": "assistant", "content": ANSWER}]}
    model.reply = render_conversation(TOKENIZER, conversation)[0][len(prompt):]
    monkeypatch.setattr(chat_cli, "load_model", lambda *choice: (model, TOKENIZER, META))
    return Engine(model, TOKENIZER, max_batch=1)


def arguments(*argv: str):
    return chat_cli.parser().parse_args(argv)


def typed(monkeypatch, *lines) -> None:
    """Lines from the keyboard, then Ctrl-D; an exception type is raised in the place of a line."""
    feed = iter(lines)

    def read(prompt: str = "") -> str:
        line = next(feed, EOFError)
        if isinstance(line, type):
            raise line
        return line
    monkeypatch.setattr("builtins.input", read)


def test_one_prompt_prints_the_answer_with_its_tool_call(engine, capsys):
    chat_cli.main(arguments("-p", "x"))
    assert capsys.readouterr().out == "Né: [6*7 = 42]!\n"


def test_a_terminal_gets_tool_calls_dimly():
    out = io.StringIO()
    out.isatty = lambda: True
    screen = chat_cli.Screen(out)
    for part in ANSWER[:3]:
        screen.show(part["type"], part["text"])
    screen.show("text", "\n")
    assert out.getvalue() == "Né: \x1b[2m[6*7 = 42]\x1b[0m\n"


def test_a_conversation_carries_its_answers_along_until_it_is_cleared(engine, monkeypatch, capsys):
    prompts = []
    monkeypatch.setattr(Engine, "prompt", lambda self, conversation, params: prompts.append(
        render_prompt(TOKENIZER, conversation)) or prompts[-1])
    typed(monkeypatch, "one", KeyboardInterrupt, "", "/help", "two", "/clear", "three", "/quit", "never")
    chat_cli.main(arguments("--temperature", "0"))
    one, two, three = (TOKENIZER.decode(p) for p in prompts)
    assert two.startswith(one + TOKENIZER.decode(engine.model.reply))
    assert "<|python_start|>6*7<|python_end|><|output_start|>42<|output_end|>" in two
    assert "one" not in three and capsys.readouterr().out.count("Né: [6*7 = 42]!") == 3


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(engine):
    class Impatient(io.StringIO):
        def write(self, text):
            super().write(text)
            if "é" in text:
                os.kill(os.getpid(), signal.SIGINT)
    before, out = signal.getsignal(signal.SIGINT), Impatient()
    request = engine.submit(engine.prompt(QUESTION), GREEDY)
    chat_cli.answer(engine, request, out)
    assert request.finish_reason == "cancelled" and request.text == "Né" and out.getvalue() == "Né\n"
    assert signal.getsignal(signal.SIGINT) is before and not engine.busy


def test_a_base_model_continues_the_text(engine, monkeypatch, capsys):
    meta = META | {"stage": "base"}
    monkeypatch.setattr(chat_cli, "load_model", lambda *choice: (engine.model, TOKENIZER, meta))
    engine.model.chats = False
    seen, submit = [], Engine.submit

    def spy(self, ids, params):
        seen.append(ids)
        return submit(self, ids, params)

    monkeypatch.setattr(Engine, "submit", spy)
    chat_cli.main(arguments("-p", "Once upon", "-i", "base"))
    assert seen == [[TOKENIZER.bos] + TOKENIZER.encode("Once upon")]


def test_the_flags_choose_the_model_and_settings_are_checked_before_it_is_loaded(engine, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(chat_cli, "load_model", lambda *choice: asked.append(choice) or (
        engine.model, TOKENIZER, META))
    with pytest.raises(SystemExit) as stop:
        chat_cli.main(arguments("-p", "x", "--temperature=-1"))
    assert stop.value.code == 2 and "temperature is -1.0" in capsys.readouterr().err and asked == []
    chat_cli.main(arguments("-p", "x", "-i", "rl", "--model-tag", "d4", "--step", "7"))
    assert asked == [("rl", "d4", 7)]


def test_a_missing_model_is_one_clear_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    with pytest.raises(SystemExit) as stop:
        chat_cli.main(arguments("-p", "x"))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("error: ") and "Traceback" not in error
