"""
Your own conversations: a file with one JSON object a line, {"messages": [{"role": "user", "content": "..."}, ...]}.
For a persona, a house style, anything that the model should learn to say.
"""

import json
from pathlib import Path

from nanochat.common import die

ROLES = ("system", "user", "assistant")


def load(path: Path) -> list[dict]:
    """All conversations of the file. Dies on the first line that is none, with its number and what is wrong."""
    if not path.is_file():
        die(f"{path} is not a file", hint="--conversations takes a .jsonl file")
    conversations = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            conversation = json.loads(line)
            problem = _problem(conversation)
        except json.JSONDecodeError as error:
            problem = str(error)
        if problem:
            die(f"{path} line {number}: {problem}", hint='{"messages": [{"role": "user", "content": "Hi"}, ...]}')
        conversations.append(conversation)
    if not conversations:
        die(f"{path} holds no conversation")
    return conversations


def _problem(conversation) -> str | None:
    messages = conversation.get("messages") if isinstance(conversation, dict) else None
    if not isinstance(messages, list) or not messages:
        return 'no list of "messages"'
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            return f"a message needs a role, one of {', '.join(ROLES)}"
        if not isinstance(message.get("content"), str):
            return 'the "content" of a message must be text'
    turns = [message["role"] for message in messages if message["role"] != "system"]
    if turns != [("user", "assistant")[i % 2] for i in range(len(turns))] or len(turns) < 2:
        return "user and assistant must take turns, the user first"
    return None
