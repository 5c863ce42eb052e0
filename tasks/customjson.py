"""Your own conversations, for a persona, a house style, anything that the model should learn to say: a file
with one JSON object per line, as EXAMPLE shows. What a conversation is, nanochat/chat.py says."""
import json
from pathlib import Path
from nanochat.chat import check_conversation
from nanochat.common import die, sha256
from tasks.common import Part

EXAMPLE = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}'

def load(path: Path) -> list[dict]:
    """All conversations of the file. Dies on the first line that is none, with its number and the reason."""
    if not path.is_file():
        die(f"{path} is not a file", hint="--conversations takes a .jsonl file")
    conversations = []
    for number, line in enumerate(path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            conversations.append(json.loads(line.decode("utf-8")))
            check_conversation(conversations[-1])
        except (ValueError, RecursionError) as error:   # not UTF-8, not JSON, too deep, no conversation
            die(f"{path} line {number}: {error}", hint=f"one per line: {EXAMPLE}")
    if not conversations:
        die(f"{path} holds no conversation", hint=f"one per line: {EXAMPLE}")
    return conversations

def part(path: Path, repeat: int = 1) -> Part:
    """The file as an ingredient of a mixture, `repeat` times. Its name changes when the file does."""
    conversations = load(path)
    return Part(f"{path.name}-{sha256(path)[:8]}", conversations, repeat * len(conversations))
