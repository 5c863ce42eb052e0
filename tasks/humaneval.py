"""HumanEval (arXiv 2107.03374): 164 Python functions to write, by signature and description. A reply is right
when its code passes the tests of the problem, run by nanochat/execution.py: whoever asks these questions says
first what isolation is in force, by require_isolation()."""
import re
import textwrap
from nanochat.execution import run_tests
from tasks.common import Task, asked, source

INSTRUCTION = "Complete this Python function; reply with its whole code in one ```python block.\n\n"

# Language and text of a block; a reply that was cut off has no closing fence.
_FENCE = re.compile(r"```(\w*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)

def question(row: dict) -> dict:
    """A row of the set, with the prompt up to the function itself (imports, helpers) as "before"."""
    prompt, name = row["prompt"], row["entry_point"]
    start = re.search(rf"^def {name}\b", prompt, re.MULTILINE).start()
    answer = f"```python\n{prompt}{row['canonical_solution']}\n```"
    return asked(INSTRUCTION + prompt, answer=answer, before=prompt[:start],
                 **{key: row[key] for key in ("task_id", "prompt", "test", "entry_point")})

def judge(question: dict, reply: str) -> bool:
    return run_tests(*job(question, reply)).passed

def job(question: dict, reply: str) -> tuple[str, str]:
    """Program and tests. Helpers that the prompt gives are the prompt's in the tests, not the reply's."""
    before, name = question["before"], question["entry_point"]
    return program(question, code(reply)), f"{before}\n{question['test']}\ncheck({name})\n"

def code(reply: str) -> str:
    """The first block of Python in a reply, else its first block of anything, else all of it."""
    blocks = sorted(_FENCE.findall(reply), key=lambda block: not block[0].lower().startswith("py"))
    return blocks[0][1] if blocks else reply

def program(question: dict, code: str) -> str:
    """The whole function, or the rest of it after the prompt. That may have lost its indentation, in the
    first line alone if all others have some."""
    whole, name = textwrap.dedent(code), question["entry_point"]
    if re.search(rf"^(?:def {name}\b|{name} *=)", whole, re.MULTILINE):
        return f"{question['before']}\n{whole}"
    if not code[:1].isspace():
        code = textwrap.indent(code, "    ") if re.search(r"\n\S", code) else "    " + code
    return f"{question['prompt']}\n{code}\n"

TASKS = [Task("humaneval", questions=source("openai/openai_humaneval", "openai_humaneval", question),
              judge=judge, max_tokens=512)]
