"""SmolTalk in its version for small models (arXiv 2502.02737): conversations on everything, to learn from."""
from nanochat.chat import check_conversation
from tasks.common import Task, source

def _conversation(row: dict) -> dict | None:
    """None for a row that is no conversation to learn from: another one takes its place."""
    messages = [{"role": message["role"], "content": message["content"]} for message in row["messages"]]
    try:
        check_conversation({"messages": messages})
    except ValueError:
        return None
    return {"messages": messages}

TASKS = [Task("smoltalk", source("HuggingFaceTB/smol-smoltalk", "default", _conversation, val="test"))]
