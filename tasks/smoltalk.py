"""SmolTalk in its version for small models (arXiv 2502.02737): conversations on everything, to learn from."""

from pathlib import Path

from nanochat.chat import check_conversation
from tasks.common import Rows, Task, hub_rows, some


def _conversation(row: dict) -> dict | None:
    """None for a row that is no conversation to learn from: another one takes its place."""
    messages = [{"role": message["role"], "content": message["content"]} for message in row["messages"]]
    try:
        check_conversation({"messages": messages})
    except ValueError:
        return None
    return {"messages": messages}


def conversations(split: str, most: int | None, seed: int, data: Path | None = None) -> Rows:
    rows = hub_rows("HuggingFaceTB/smol-smoltalk", "default", "train" if split == "train" else "test", data)
    return some(rows, most, seed, _conversation)


TASKS = (Task("smoltalk", conversations),)
