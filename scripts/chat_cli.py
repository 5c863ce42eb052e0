"""Talk to a trained model in the terminal, or ask it from a script.

    python -m scripts.chat_cli                                         # a conversation
    python -m scripts.chat_cli -p "What is the capital of France?"     # one question
    python -m scripts.chat_cli < question.txt                          # the whole input is one question
    python -m scripts.chat_cli --stage base -p "The largest planet is"

A base model, which has not learned to talk, continues the text instead of answering it. In a conversation a
line that ends in a backslash goes on, a pasted block stays one message, Ctrl-C stops an answer (what was said
of it stays), Ctrl-D leaves."""
import argparse
import io
import json
import re
import select
import signal
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import TextIO, get_args
from nanochat import checkpoint
from nanochat.chat import check_conversation
from nanochat.common import RunLog, die, new_parser
from nanochat.engine import Engine, Request, SamplingParams

DEFAULTS = {"temperature": 0.6, "top_k": 50, "max_tokens": 512, "stop": None}     # else SamplingParams'
OFF_AT_0 = ("top_k", "top_p", "min_p", "max_tokens")
SETTINGS = {each.name: ((get_args(each.type) or (each.type,))[0], DEFAULTS.get(each.name, each.default),
                        each.metadata["what"] + "; 0 is off" * (each.name in OFF_AT_0))
            for each in fields(SamplingParams) if each.name != "top_logprobs"}    # type, default, what it is
HELP = """\
/retry        another answer to the last question; /undo forgets both, /reset the whole conversation
/set          shows the settings, /set NAME VALUE changes one, /set NAME off is without it
/system TEXT  is said before every conversation; alone shows it, /system off clears it; no use to a base model
/save FILE    adds the conversation to a file that chat_sft --conversations learns from
/quit         leaves, as Ctrl-D does; /help shows this"""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

def parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("-p", "--prompt", action="append",
        help="a question to answer and leave; several: each on its own")
    add("--json", action="store_true", help="answer -p, else the standard input, as JSON, one object a line")
    checkpoint.add_arguments(parser)
    add("--system", metavar="TEXT", help="the system message; no use to a base model")
    for name, (kind, default, what) in SETTINGS.items():
        how = {"action": "append"} if kind is str else {"type": kind}
        shown = "off" if default is None else default
        add(f"--{name.replace('_', '-')}", default=default, help=f"{what} (default: {shown})", **how)
    return parser

def to_params(settings: dict) -> SamplingParams:
    """ValueError where a setting is out of its range."""
    off = [name for name in OFF_AT_0 if (settings[name] or 0) <= 0]
    return SamplingParams(**settings | dict.fromkeys(off) | {"stop": tuple(settings["stop"] or ())})

class Screen:
    """Shows an answer as it is made; tool calls as [12*3 = 36], dim on a terminal."""
    def __init__(self, out: TextIO):
        self.terminal, self._out, self._last = out.isatty(), out, "text"
        self._dim, self._plain = ("\x1b[2m", "\x1b[0m") if self.terminal else ("", "")

    def show(self, kind: str, text: str) -> None:
        before = {"text": f"]{self._plain}", "python": f"{self._dim}[", "python_output": " = "}
        if self.terminal:                               # which the model must not steer
            text = CONTROL.sub("\ufffd", text)
        self._out.write(text if kind == self._last else before[kind] + text)
        self._out.flush()
        self._last = kind

    def note(self, text: str) -> None:
        """A remark for the reader, no part of the answer."""
        print(f"{self._dim}({text}){self._plain}", file=self._out if self.terminal else sys.stderr)

class Chat:
    """A conversation with a model, and the commands that change it."""
    def __init__(self, engine: Engine, settings: dict, system: str | None, is_base: bool, out: TextIO):
        self._engine, self._is_base, self._out, self._retries = engine, is_base, out, 0
        self._settings, self._system, self._turns = settings, system, []

    @property
    def messages(self) -> list[dict]:
        return [{"role": "system", "content": self._system}] * bool(self._system) + self._turns

    def ask(self, question: str, sample: int = 0) -> tuple[Request, float]:
        """The answer, shown as it is made, until it is complete or Ctrl-C, which tears no step of the engine
        apart, and the seconds that it took. Another `sample` is another answer, with a seed too."""
        start, pressed, screen = time.perf_counter(), [], Screen(self._out)
        engine, params, asked = self._engine, to_params(self._settings), {"role": "user", "content": question}
        conversation = {"messages": [asked] if self._is_base else [*self.messages, asked]}
        ids, dropped = engine.fit(conversation, params, self._is_base)
        if dropped:
            screen.note(f"the context is full: without the first {dropped} questions and answers")
        request = engine.submit(ids, params, sample)
        before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
        try:
            while not request.done:
                if pressed:
                    engine.cancel(request)
                else:
                    engine.step()
                for piece in request.take():
                    screen.show(*piece)
            seconds, count = time.perf_counter() - start, len(request.ids)
            screen.show("text", "\n")
            if screen.terminal:
                screen.note(f"{count} tokens, {count / seconds:.0f} tok/s, {request.finish_reason}")
            self._turns = [*self._turns, asked, {"role": "assistant", "content": request.parts}]
        finally:
            signal.signal(signal.SIGINT, before)
        return request, seconds

    def command(self, line: str) -> str:
        """Do what a line like "/set seed 1" says, return what to show. EOFError is to leave; ValueError and
        OSError say why it cannot be done."""
        name, rest = (line.split(maxsplit=1) + [""])[:2]
        match name:
            case "/retry" | "/undo" if not self._turns:
                return "nothing was asked yet"
            case "/retry" | "/undo":
                *self._turns, asked, _ = self._turns
                if name == "/undo":
                    return f"forgot {asked['content'][:60]!r}"
                self._retries += 1
                self.ask(asked["content"], self._retries)
                return ""
            case "/reset":
                self._turns, self._retries = [], 0
                return "a new conversation"
            case "/system":
                self._system = "" if rest == "off" else rest or self._system
                return f"system message: {self._system or 'none'}"
            case "/set":
                return self._set(*rest.split(maxsplit=1))
            case "/save":
                check_conversation({"messages": self.messages})
                RunLog(Path(rest).expanduser()).write(messages=self.messages)
                return f"added to {rest}"
            case "/help":
                return HELP
            case "/quit":
                raise EOFError
        return f"no command {name}; /help shows all, a space before it makes it a question"

    def _set(self, name: str = "", text: str = "") -> str:
        if not name:
            return "\n".join(f"{name:20}{'off' if value is None else value!s:10}{SETTINGS[name][2]}"
                             for name, value in self._settings.items())
        if name not in SETTINGS or not text:
            return f"/set takes a value, and one of {', '.join(SETTINGS)}"
        kind = SETTINGS[name][0]
        value = getattr(SamplingParams, name) if text == "off" else [text] if kind is str else kind(text)
        to_params(self._settings | {name: value})
        self._settings[name] = value
        return f"{name} is {text}"

def converse(chat: Chat) -> None:
    """Questions and commands from the keyboard until it ends; the arrow keys recall what was typed."""
    import readline
    readline.parse_and_bind("set enable-bracketed-paste on")            # which Python turns off
    signal.signal(signal.SIGINT, signal.default_int_handler)
    while True:
        try:
            message = input("\nyou> ")
            while message.endswith("\\") or select.select([sys.stdin], [], [], 0.05)[0]:    # more was pasted
                message = message.removesuffix("\\") + "\n" + input("...> ")
            if not message.strip():
                continue
            try:
                if re.match(r"/\w*(\s|$)", message):
                    print(chat.command(message))
                else:
                    chat.ask(message.strip())
            except (OSError, ValueError) as error:
                print(f"not done: {error}")
        except KeyboardInterrupt:                       # leaves the half-typed message, not the program
            continue
        except EOFError:
            return print()

def main(args: argparse.Namespace) -> None:
    settings, prompts = {name: getattr(args, name) for name in SETTINGS}, args.prompt or []
    try:
        to_params(settings)
    except ValueError as error:
        die(str(error))
    if not prompts and (args.json or not sys.stdin.isatty()):
        prompts = [sys.stdin.read().rstrip("\n") or die("the standard input is empty", hint="-p asks")]
    model, tokenizer, meta = checkpoint.load_model(checkpoint.chosen(args))
    engine, is_base = Engine(model, tokenizer, max_batch=1, keep=1), meta["stage"] == "base"
    if not prompts:
        print(f"{meta['tag']}, {meta['stage']} step {meta['step']}. /help shows the commands, Ctrl-D leaves")
        converse(Chat(engine, settings, args.system, is_base, sys.stdout))
    for prompt in prompts:
        if len(prompts) > 1 and not args.json:
            print(f"\nyou> {prompt}")
        chat = Chat(engine, settings, args.system, is_base, io.StringIO() if args.json else sys.stdout)
        request, seconds = chat.ask(prompt)
        if args.json:
            count, facts = len(request.ids), {key: meta[key] for key in ("tag", "stage", "step")}
            facts |= {"prompt": prompt, "text": request.text, "parts": request.parts,
                      "finish_reason": request.finish_reason, "prompt_tokens": len(request.prompt),
                      "completion_tokens": count, "seconds": seconds, "tokens_per_second": count / seconds}
            print(json.dumps(facts | vars(request.params)), flush=True)
        if request.finish_reason == "cancelled":
            raise SystemExit(130)                       # as shells say it of Ctrl-C

if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGPIPE):      # leave without a traceback
        signal.signal(number, signal.SIG_DFL)
    for stream in (sys.stdin, sys.stdout):
        stream.reconfigure(errors="replace")            # what is not text stops no answer
    main(parser().parse_args())
