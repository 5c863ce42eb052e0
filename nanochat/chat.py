"""
The only chat template: conversation -> (ids, mask) to train on, -> prompt to answer, and answer ids -> parts.

    <|bos|><|user_start|>question<|user_end|><|assistant_start|>answer<|assistant_end|><|user_start|>...
    an answer may hold tool calls: text<|python_start|>12*3<|python_end|><|output_start|>36<|output_end|>text

Only this file and the engine place special ids; text goes through tokenizer.encode, which can not yield one.
What the engine decoded comes back as parts, so that the next turn shows the model the format it was trained on.
Used by the chat loader, the engine, the evaluations, the terminal and the web server.

    conversation = {"messages": [{"role": "system" | "user" | "assistant", "content": str | parts}, ...]}
    parts = [{"type": "text" | "python" | "python_output", "text": str}, ...]
"""

from nanochat.tokenizer import StreamDecoder, Tokenizer

MARKERS = {
    "python": ("<|python_start|>", "<|python_end|>"),
    "python_output": ("<|output_start|>", "<|output_end|>"),
}
MIN_PROMPT = 5                                          # four markers and one token of the question


def render_conversation(tokenizer: Tokenizer, conversation: dict,
                        max_tokens: int | None = None) -> tuple[list[int], list[int]]:
    """
    Token ids and a mask of the same length, cut at the end to `max_tokens`. The mask is 1 on what the assistant
    has to write itself, its tool calls and <|assistant_end|> included; 0 on questions, tool outputs and all other
    markers. ValueError when it is not a conversation.
    """
    system, turns = _turns(conversation)
    ids, mask = [tokenizer.bos], [0]
    for question, answer in turns:
        for piece, trained in _render_turn(tokenizer, system, question, answer):
            ids += piece
            mask += [trained] * len(piece)
        system = ""
    return ids[:max_tokens], mask[:max_tokens]


def render_prompt(tokenizer: Tokenizer, conversation: dict, max_tokens: int | None = None) -> list[int]:
    """
    Token ids up to the <|assistant_start|> that asks for an answer; a final assistant message (a reference answer)
    is left out. Where that is more than `max_tokens` (at least 5), the oldest turns go first, then the start of
    what is left (system message, then question), so that the end of the question and the markers always stay.
    ValueError when it is not a conversation.
    """
    if max_tokens is not None and max_tokens < MIN_PROMPT:
        raise ValueError(f"a prompt needs room for {MIN_PROMPT} tokens, not {max_tokens}")
    system, turns = _turns(conversation)
    system_ids = _system(tokenizer, system)
    ids: list[int] = []
    for question, answer in [(turns[-1][0], None)] + turns[-2::-1]:                       # newest first
        turn = [i for piece, _ in _render_turn(tokenizer, "", question, answer) for i in piece]
        if ids and max_tokens is not None and 1 + len(system_ids) + len(turn) + len(ids) > max_tokens:
            break
        ids = turn + ids
    ids = [tokenizer.bos, ids[0]] + system_ids + ids[1:]
    excess = len(ids) - (max_tokens or len(ids))
    return ids[:2] + ids[2 + max(0, excess):]


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
        raise ValueError("content must be a string or a list of parts")
    for part in content:
        known = isinstance(part, dict) and part.get("type") in ("text", *MARKERS)
        if not known or not isinstance(part.get("text"), str):
            raise ValueError('a part must be {"type": "text" | "python" | "python_output", "text": "..."}')
    return content


def visible_text(content: str | list[dict]) -> str:
    """What a reader sees of a message: its text without tool calls and their outputs."""
    return "".join(part["text"] for part in as_parts(content) if part["type"] == "text")


class AnswerDecoder:
    """
    Sampled and forced ids of one answer, one at a time -> pieces (type, text) to show at once, and `parts` so far.
    A character that is split over several ids comes out whole; its start is held back until the rest arrives.
    """

    def __init__(self, tokenizer: Tokenizer):
        self.parts: list[dict] = []
        self._tokenizer = tokenizer
        self._type = "text"
        self._stream = StreamDecoder(tokenizer)
        self._opens = {tokenizer.special(start): kind for kind, (start, _) in MARKERS.items()}
        self._closes = {tokenizer.special(end) for _, end in MARKERS.values()}

    def push(self, token: int) -> list[tuple[str, str]]:
        """Pieces that `token` completes; a marker completes what stood before it."""
        if token not in self._opens and token not in self._closes:
            return self._add(self._stream.push(token))
        pieces = self.flush()
        self._type = self._opens.get(token, "text")
        if self._type != "text":
            self.parts.append({"type": self._type, "text": ""})                           # a call may be empty
        return pieces

    def flush(self) -> list[tuple[str, str]]:
        """What was held back; to be called once more after the last token."""
        pieces = self._add(self._stream.flush())
        self._stream = StreamDecoder(self._tokenizer)
        return pieces

    def _add(self, text: str) -> list[tuple[str, str]]:
        if not text:
            return []
        if not self.parts or self.parts[-1]["type"] != self._type:
            self.parts.append({"type": self._type, "text": ""})
        self.parts[-1]["text"] += text
        return [(self._type, text)]


def _turns(conversation: dict) -> tuple[str, list[tuple[str, list[dict] | None]]]:
    """System text and (question, answer parts) pairs, the last answer None where there is none yet."""
    messages = conversation["messages"]
    if not messages:
        raise ValueError("a conversation needs at least one message")
    system = ""
    if messages[0].get("role") == "system":
        system, messages = _plain_text(messages[0]), messages[1:]
        if not messages:                                # instructions alone are the question
            return "", [(system, None)]
    turns: list[tuple[str, list[dict] | None]] = []
    for index, message in enumerate(messages):
        expected = ("user", "assistant")[index % 2]
        if message.get("role") != expected:
            raise ValueError(f"message {index} is from {message.get('role')!r}, must be from {expected!r}: "
                             "user and assistant take turns, after at most one system message")
        if expected == "user":
            turns.append((_plain_text(message), None))
        else:
            turns[-1] = (turns[-1][0], as_parts(message.get("content")))
    return system, turns


def _plain_text(message: dict) -> str:
    parts = as_parts(message.get("content"))
    if any(part["type"] != "text" for part in parts):
        raise ValueError(f"a {message['role']} message can not call the tool, only the assistant can")
    return visible_text(parts)


def _system(tokenizer: Tokenizer, system: str) -> list[int]:
    return tokenizer.encode(system + "\n\n") if system else []


def _render_turn(tokenizer: Tokenizer, system: str, question: str,
                 answer: list[dict] | None) -> list[tuple[list[int], int]]:
    """(ids, trained) pieces. System text and question are encoded apart, so that either can be cut off exactly."""
    special = tokenizer.special
    pieces = [([special("<|user_start|>")] + _system(tokenizer, system) + tokenizer.encode(question)
               + [special("<|user_end|>"), special("<|assistant_start|>")], 0)]
    if answer is None:
        return pieces
    for part in answer:
        pieces.append((render_part(tokenizer, part), 0 if part["type"] == "python_output" else 1))
    return pieces + [([special("<|assistant_end|>")], 1)]
