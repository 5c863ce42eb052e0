"""GSM8K (arXiv 2110.14168): word problems of school arithmetic, solved in a few steps, with calls of the
calculator on the way and the number behind #### in the end."""
import re
from functools import partial
from nanochat.calculator import evaluate
from tasks.common import Task, answered, asked, names_number, number_behind_hashes, source

_CALL = re.compile(r"<<(.*?)=[^=]*?>>")                 # <<48/2=24>>

def solution(answer: str) -> list[dict]:
    """An answer as parts. A call's output is what the calculator says at inference, not the file's number: of
    27,998 calls 823 are written otherwise (9.00, .4, 3/4), none has another value, and none is refused."""
    parts = []
    for place, piece in enumerate(_CALL.split(answer)):
        if place % 2 == 0:
            parts.append({"type": "text", "text": piece})
        elif value := evaluate(piece):
            parts += [{"type": "python", "text": piece}, {"type": "python_output", "text": value}]
    return [part for part in parts if part["text"]]

def _question(row: dict) -> dict:
    return asked(row["question"], answer=str(number_behind_hashes(row["answer"])))

_FROM = partial(source, "openai/gsm8k", "main", val="test")     # there is no third split to validate on
TASKS = [Task("gsm8k", _FROM(lambda row: answered(_question(row), solution(row["answer"]))),
              _FROM(_question), names_number, max_tokens=400)]
