"""Talk to a trained model in the terminal: one question with -p, a conversation without.

    python -m scripts.chat_cli -p "What is the capital of France?"
    python -m scripts.chat_cli --stage base -p "The largest planet is"

A base model, which has not learned to talk, continues the text instead of answering it. The answer appears as
it is made. Ctrl-C stops it, Ctrl-D leaves; a stopped answer stays part of the conversation."""

import argparse
import contextlib
import signal
import sys
from typing import TextIO

from nanochat.checkpoint import STAGES, load_model
from nanochat.common import die, new_parser
from nanochat.engine import Engine, Request, SamplingParams

HELP = "/clear forgets the conversation, /quit (or Ctrl-D) leaves, Ctrl-C stops an answer, /help shows this"


def parser() -> argparse.ArgumentParser:
    parser = new_parser(__doc__)
    add = parser.add_argument
    add("-p", "--prompt", action="append", help="a question to answer and leave; several: each on its own")
    add("-i", "--stage", choices=STAGES, help="of the model (default: the most finished one)")
    add("--model-tag", help="name of the model (default: the newest)")
    add("--step", type=int, help="of its checkpoint (default: the newest)")
    add("--temperature", type=float, default=0.6, help="0 is always the likeliest token")
    add("--top-k", type=int, default=50, help="only among the k likeliest tokens; 0 is all")
    add("--max-tokens", type=int, default=512, help="of the longest answer")
    add("--seed", type=int, help="the same answer every time")
    return parser


class Screen:
    """Shows an answer as it is made; tool calls as [12*3 = 36], dim on a terminal."""

    def __init__(self, out: TextIO):
        self._out, self._last = out, "text"
        self._dim, self._plain = ("\x1b[2m", "\x1b[0m") if out.isatty() else ("", "")

    def show(self, kind: str, text: str) -> None:
        before = {"text": f"]{self._plain}", "python": f"{self._dim}[", "python_output": " = "}
        self._out.write(text if kind == self._last else before[kind] + text)
        self._out.flush()
        self._last = kind


def answer(engine: Engine, request: Request, out: TextIO) -> None:
    """Stream the answer to `out`, until it is complete or Ctrl-C, which tears no step of the engine apart."""
    screen, pressed = Screen(out), []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    with contextlib.closing(engine.stream(request)) as pieces:
        for kind, text in pieces:
            screen.show(kind, text)
            if pressed:
                break
    signal.signal(signal.SIGINT, before)
    screen.show("text", "\n")


def to_ids(engine: Engine, messages: list[dict], params: SamplingParams, is_base: bool) -> list[int]:
    """The prompt: the conversation so far, for a base model its last text alone."""
    if not is_base:
        return engine.prompt({"messages": messages}, params)
    text = engine.tokenizer.encode(messages[-1]["content"])
    return [engine.tokenizer.bos] + text[-engine.context // 2:]


def converse(engine: Engine, params: SamplingParams, is_base: bool) -> None:
    """Questions from the keyboard until it ends. The whole conversation is the context of each answer."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401                   (input() then edits lines and remembers them)
    messages: list[dict] = []
    print(HELP)
    while True:
        try:
            question = input("\nyou> ").strip()
        except KeyboardInterrupt:                       # leaves the half-typed line, not the program
            continue
        except EOFError:
            return print()
        match question:
            case "":
                continue
            case "/quit" | "/exit":
                return
            case "/help":
                print(HELP)
            case "/clear":
                messages.clear()
                print("a new conversation")
            case _:
                messages.append({"role": "user", "content": question})
                request = engine.submit(to_ids(engine, messages, params, is_base), params)
                answer(engine, request, sys.stdout)
                messages.append({"role": "assistant", "content": request.parts})


def main(args: argparse.Namespace) -> None:
    top_k = args.top_k if args.top_k > 0 else None
    try:
        params = SamplingParams(args.temperature, top_k, max_tokens=args.max_tokens, seed=args.seed)
    except ValueError as error:
        die(str(error))
    model, tokenizer, meta = load_model(args.stage, args.model_tag, args.step)
    engine, is_base = Engine(model, tokenizer, max_batch=1), meta["stage"] == "base"
    if not args.prompt:
        print(f"{meta['tag']}, {meta['stage']} step {meta['step']}")
        return converse(engine, params, is_base)
    for prompt in args.prompt:
        if len(args.prompt) > 1:
            print(f"\nyou> {prompt}")
        ids = to_ids(engine, [{"role": "user", "content": prompt}], params, is_base)
        answer(engine, engine.submit(ids, params), sys.stdout)


if __name__ == "__main__":
    main(parser().parse_args())
