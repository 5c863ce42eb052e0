"""The only chat template: conversation -> (ids, mask) to train on, -> prompt to answer, and answer ids ->
parts.

    <|bos|><|user_start|>question<|user_end|><|assistant_start|>answer<|assistant_end|><|user_start|>...
    an answer may hold tool calls: text<|python_start|>12*3<|python_end|><|output_start|>36<|output_end|>text

Only this file and the engine place special ids; text goes through tokenizer.encode, which cannot yield one.
What the engine decoded comes back as parts, so that the next turn shows the model the format of its training.

    conversation = {"messages": [{"role": "system" | "user" | "assistant", "content": str | parts}, ...]}
    parts = [{"type": "text" | "python" | "python_output", "text": str}, ...]

The user speaks first, user and assistant take turns, one system message may come before all; only the
assistant calls the tool. check_conversation() decides this, for everyone."""
import codecs
from collections.abc import Sequence
from itertools import zip_longest
from nanochat.tokenizer import Tokenizer

MARKERS = {"python": ("<|python_start|>", "<|python_end|>"),
           "python_output": ("<|output_start|>", "<|output_end|>")}
FOLLOWERS = {None: ("system", "user"), "system": ("user",), "user": ("assistant",), "assistant": ("user",)}
MIN_PROMPT = 5                                          # four markers and one token of the question

def check_conversation(conversation: object, answered: bool | None = True) -> None:
    """ValueError with the number of the message and what is wrong with it, unless it is a conversation.
    `answered`: True to learn from (the assistant has the last word and says something in it), False to be
    answered (the assistant comes next), None where either will do."""
    messages = conversation.get("messages") if isinstance(conversation, dict) else None
    if not isinstance(messages, list) or not messages:
        raise ValueError('a conversation is an object with a list of "messages", at least one message')
    speaker = None
    for number, message in enumerate(messages, start=1):
        speaker = _check_message(f"message {number}", message, FOLLOWERS[speaker])
    if answered is not None and answered != (speaker == "assistant"):
        who = "assistant" if answered else "user"
        raise ValueError(f"message {len(messages)}, the last one, is from {speaker!r}, must be from {who!r}")
    if answered and not any(map(_teaches, messages)):
        raise ValueError("the assistant says nothing in it")

def _check_message(name: str, message: object, allowed: tuple[str, ...]) -> str:
    """Its role; ValueError where it is not a message, or not one of the `allowed` roles."""
    if not isinstance(message, dict):
        raise ValueError(f'{name} must be an object with "role" and "content"')
    role = message.get("role")
    if role not in allowed:
        raise ValueError(f"{name} is from {role!r}, must be from {' or '.join(map(repr, allowed))}: "
                         "user and assistant take turns, after at most one system message")
    try:
        parts = as_parts(message.get("content"))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if role != "assistant" and any(part["type"] != "text" for part in parts):
        raise ValueError(f"{name} is from {role!r}, who cannot call the tool, only the assistant can")
    return role

def _teaches(message: dict) -> bool:
    """Whether it is the assistant's and holds anything to learn: what a tool says is not, nor are spaces."""
    return message["role"] == "assistant" and any(
        part["type"] != "python_output" and part["text"].strip() for part in as_parts(message["content"]))

def render_conversation(tokenizer: Tokenizer, conversation: dict,
                        max_tokens: int | None = None) -> tuple[list[int], list[int]]:
    """Token ids and a mask of the same length, cut at the end to `max_tokens`. The mask is 1 on what the
    assistant has to write itself, its tool calls and <|assistant_end|> included; 0 on questions, tool outputs
    and all other markers. ValueError when it is not a conversation."""
    system, turns = _turns(conversation)
    ids, mask = [tokenizer.bos], [0]
    for question, answer in turns:
        turn, trained = _render(tokenizer, system + question, answer)
        ids, mask, system = ids + turn, mask + trained, ""
    return ids[:max_tokens], mask[:max_tokens]

def render_prompt(tokenizer: Tokenizer, conversation: dict, max_tokens: int | None = None) -> list[int]:
    """Token ids up to the <|assistant_start|> that asks for an answer, as fit_prompt() has them."""
    return fit_prompt(tokenizer, conversation, max_tokens)[0]

def fit_prompt(tokenizer: Tokenizer, conversation: dict,
               max_tokens: int | None = None) -> tuple[list[int], int]:
    """Token ids up to the <|assistant_start|> that asks for an answer, and how many turns were left out; a
    final assistant message (a reference answer) is left out too. Where that is more than `max_tokens` (at
    least 5), the oldest turns go first, then the start of what is left (system message, then question), so
    that the end of the question and the markers always stay. ValueError when it is not a conversation."""
    assert max_tokens is None or max_tokens >= MIN_PROMPT, max_tokens
    system, turns = _turns(conversation)
    ids, later, kept = [], [], 0
    for question, answer in [(turns[-1][0], None)] + turns[-2::-1]:                       # newest first
        opening, _ = _render(tokenizer, system + question, answer)
        if kept and max_tokens is not None and 1 + len(opening) + len(later) > max_tokens:
            break
        ids, kept = opening + later, kept + 1
        later = (_render(tokenizer, question, answer)[0] if system else opening) + later
    excess = max(0, 1 + len(ids) - (max_tokens or 1 + len(ids)))
    return [tokenizer.bos, ids[0]] + ids[1 + excess:], len(turns) - kept

def render_part(tokenizer: Tokenizer, part: dict) -> list[int]:
    """Token ids of one part of an answer, between its markers unless it is text."""
    ids = tokenizer.encode(part["text"])
    if part["type"] == "text":
        return ids
    start, end = MARKERS[part["type"]]
    return [tokenizer.special(start)] + ids + [tokenizer.special(end)]

def as_parts(content: str | list[dict]) -> list[dict]:
    """Content as a list of parts; a string is one part of text. ValueError when it is neither."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise ValueError('"content" must be a string or a list of parts')
    for part in content:
        known = isinstance(part, dict) and part.get("type") in ("text", *MARKERS)
        if not known or not isinstance(part.get("text"), str):
            raise ValueError('a part must be {"type": "text" | "python" | "python_output", "text": "..."}')
    return content

def visible_text(content: str | list[dict]) -> str:
    """What a reader sees of a message: its text without tool calls and their outputs."""
    return "".join(part["text"] for part in as_parts(content) if part["type"] == "text")

class AnswerDecoder:
    """Ids of one answer, one at a time -> pieces (type, text) to show at once, and `parts` so far. The start
    of a character that is split over several ids is held back until the rest arrives; so is text that may
    be the start of a `stop`: once one is complete, `stopped` is true and the text ends before it."""
    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()):
        self.parts: list[dict] = []
        self.stopped = False
        self._tokenizer, self._type, self._stop, self._held = tokenizer, "text", stop, ""
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._following = {}                            # marker -> type of what follows it
        for kind, (start, end) in MARKERS.items():
            self._following |= {tokenizer.special(start): kind, tokenizer.special(end): "text"}

    def push(self, token: int) -> list[tuple[str, str]]:
        """Pieces that `token` completes; a marker completes what stood before it."""
        if token not in self._following:
            return self._add(self._utf8.decode(self._tokenizer.decode_bytes([token])))
        pieces, self._type = self.flush(), self._following[token]
        if self._type != "text" and not self.stopped:
            self.parts.append({"type": self._type, "text": ""})                 # a call may be empty
        return pieces

    def flush(self) -> list[tuple[str, str]]:
        """What was held back, U+FFFD for half a character; to be called once more after the last token."""
        return self._add(self._utf8.decode(b"", final=True), last=True)

    def _add(self, text: str, last: bool = False) -> list[tuple[str, str]]:
        if self._stop and self._type == "text":
            text = self._before_stop(text, last)
        if not text or (self.stopped and self._type != "text"):
            return []
        if not self.parts or self.parts[-1]["type"] != self._type:
            self.parts.append({"type": self._type, "text": ""})
        self.parts[-1]["text"] += text
        return [(self._type, text)]

    def _before_stop(self, text: str, last: bool) -> str:
        """What can be shown of the text held back and this one: up to the first stop, or its start."""
        if self.stopped:
            return ""
        text, self._held = self._held + text, ""
        ends = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if ends:
            self.stopped = True
            return text[:min(ends)]
        starts = (size for stop in self._stop for size in range(1, len(stop)) if text.endswith(stop[:size]))
        size = 0 if last else max(starts, default=0)
        self._held = text[len(text) - size:]
        return text[:len(text) - size]

def _turns(conversation: dict) -> tuple[str, list[tuple]]:
    """What the system message puts before the first question, and (question, answer parts) pairs, the last
    answer None where there is none yet."""
    check_conversation(conversation, answered=None)
    messages, system = conversation["messages"], ""
    if messages[0]["role"] == "system" and len(messages) > 1:           # alone it is the question
        system, messages = visible_text(messages[0]["content"]), messages[1:]
    questions = [visible_text(message["content"]) for message in messages[0::2]]
    answers = [_joined(as_parts(message["content"])) for message in messages[1::2]]
    return system and system + "\n\n", list(zip_longest(questions, answers))

def _joined(parts: list[dict]) -> list[dict]:
    """Parts in which no text follows another: neighbours are one text, and encoded as one."""
    joined = []
    for part in parts:
        if joined and part["type"] == joined[-1]["type"] == "text":
            joined[-1] = {"type": "text", "text": joined[-1]["text"] + part["text"]}
        else:
            joined.append(part)
    return joined

def _render(tokenizer: Tokenizer, question: str, answer: list[dict] | None) -> tuple[list[int], list[int]]:
    """Ids and mask of a question and its answer, or of what asks for one."""
    special = tokenizer.special
    ids = [special("<|user_start|>"), *tokenizer.encode(question), special("<|user_end|>"),
           special("<|assistant_start|>")]
    mask = [0] * len(ids)
    if answer is None:
        return ids, mask
    for part in answer:
        piece = render_part(tokenizer, part)
        ids += piece
        mask += [int(part["type"] != "python_output")] * len(piece)
    return ids + [special("<|assistant_end|>")], mask + [1]
