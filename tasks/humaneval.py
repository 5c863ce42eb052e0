"""HumanEval (arXiv 2107.03374): 164 Python functions to write, by signature and description. A reply is right
when its code passes the tests of the problem, run by nanochat/execution.py: whoever asks these questions says
first what isolation is in force, by require_isolation()."""
import re
from nanochat.execution import run_tests
from tasks.common import Task, asked, source

INSTRUCTION = "Complete this Python function; reply with its whole code in one ```python block.\n\n"

# Language and text of a block; a reply that was cut off has no closing fence.
_FENCE = re.compile(r"```(\w*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)

def question(row: dict) -> dict:
    answer = f"```python\n{row['prompt']}{row['canonical_solution']}\n```"
    return asked(INSTRUCTION + row["prompt"], answer=answer,
                 **{key: row[key] for key in ("prompt", "test", "entry_point")})

def judge(question: dict, reply: str) -> bool:
    """The code stands behind the prompt: there it is the rest of the function, or takes the place of one that
    has a description and no body. Helpers that the prompt gives are the prompt's in the tests."""
    prompt, name = question["prompt"], question["entry_point"]
    tests = f"{prompt}\ndel {name}\n{question['test']}\ncheck({name})\n"
    return run_tests(f"{prompt}\n{code(reply)}\n", tests).passed

def code(reply: str) -> str:
    """The first block of Python in a reply, else its first block of anything, else all of it."""
    blocks = sorted(_FENCE.findall(reply), key=lambda block: not block[0].lower().startswith("py"))
    return blocks[0][1] if blocks else reply

TASKS = [Task("humaneval", questions=source("openai/openai_humaneval", "openai_humaneval", question),
              judge=judge, max_tokens=512)]
