"""Letters, which a model of tokens never sees: to spell a word ("simplespelling"), and to count a letter in
one, by spelling it and then asking the calculator ("spellingbee"). Made from a list of English words, as many
as asked for. A word is for training, validation or tests by its digest alone, so in any list."""
import re
from collections import Counter
from functools import cache, partial
from itertools import islice, takewhile
from pathlib import Path
from nanochat.almanac import Dice
from nanochat.calculator import evaluate
from nanochat.common import RunLog, base_dir, sha256
from nanochat.dataset import texts
from tasks.common import USUAL, Missing, Rows, Task, answered, asked, names_number

SYSTEM_WORDS = Path("/usr/share/dict/words")
DOCUMENTS, WORDS, SEEN = 20_000, 30_000, 3              # text to read; words to take, seen so often at least
SHARES = {"test": range(0, 5), "val": range(5, 10), "train": range(10, 100)}       # percent
_WORD = re.compile(r"(?<![\w'])[a-z]{3,15}(?![\w'])")   # with a capital: often a name

@cache
def _ways_to_ask() -> dict[str, list[str]]:
    """Wordings by what they ask for, "count" or "spell"."""
    text = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").replace("\n ", " | ")
    return {name: forms.split(" | ") for name, forms in re.findall(r"^(\w+): (.*)$", text, re.MULTILINE)}

@cache
def words(split: str) -> tuple[str, ...]:
    """Of the system's list, or the most frequent of the tokenizer's text. Missing where neither is here."""
    listed = SYSTEM_WORDS.read_text(errors="ignore").split() if SYSTEM_WORDS.is_file() else None
    every = filter(_WORD.fullmatch, listed or _words_of_the_text(base_dir()))
    found = tuple(word for word in every if int(sha256(word.encode())[:8], 16) % 100 in SHARES[split])
    if not found:
        raise Missing(f"no list of English words: have one as {SYSTEM_WORDS} (apt install wamerican), "
                      "or train the tokenizer here and keep its text")
    return found

@cache
def _words_of_the_text(base: Path) -> list[str]:
    """tok_train logs which files it read."""
    run = ([{}] + RunLog(base / "tokenizer" / "tok_train.jsonl").read())[-1]
    shards = [Path(file) for file in run.get("files", ()) if Path(file).is_file()]
    counts = Counter(word for text in islice(texts(shards), DOCUMENTS) for word in _WORD.findall(text))
    often = sorted(counts, key=lambda word: (-counts[word], word))[:WORDS]
    return [word for word in often if counts[word] >= SEEN]

def _typed(dice: Dice, task: str, word: str, letter: str = "") -> str:
    """A question as people type it. Letters are meant whatever their case."""
    form = dice.pick(_ways_to_ask()[task])
    show = str.upper if dice.chance(0.15) else str
    c, around = show(letter), dice.pick(("{}", "{}", "{}", "'{}'", '"{}"'))
    many = dice.pick((f"{c}'s", f"{c}'s", f"letters {c}", f'"{c}"', c))          # "as" and "is" are words
    one = dice.pick((f"the letter {c}", f"the letter '{c}'", c, f'"{c}"'))
    shown = around.format(dice.pick((word, word, word, word, word.capitalize(), word.upper())))
    text = form.format(w=shown, c=many, l=one)
    text = dice.pick(("", "", "", "", "Hi! ", "Please: ", "Quick question: ", "hey, ")) + text
    text = text.rstrip("?.") if dice.chance(0.25) else text
    return text[:1].lower() + text[1:] if dice.chance(0.3) else text

def _counting(dice: Dice, word: str) -> tuple[dict, list[dict]]:
    """A question and its answer; the letter is mostly one of the word."""
    letter = dice.pick(word if dice.chance(0.85) else "abcdefghijklmnopqrstuvwxyz")
    call = f'"{word}".count("{letter}")'
    value = evaluate(call)
    return asked(_typed(dice, "count", word, letter), answer=value), [
        {"type": "text", "text": f"Letter by letter: {' '.join(word)}\nNow I count {letter} in it: "},
        {"type": "python", "text": call}, {"type": "python_output", "text": value},
        {"type": "text", "text": f"\n#### {value}"}]

def _spelling(dice: Dice, word: str) -> tuple[dict, str]:
    spelled = " ".join(word)                            # a letter is one token, the same one everywhere
    return asked(_typed(dice, "spell", word), answer=spelled), f"Letter by letter: {spelled}"

def spells_right(question: dict, reply: str) -> bool:
    """The letters stand in the end, one by one, with whatever between them and no other one before."""
    pieces = re.findall("[a-z]+", reply.lower())
    letters = takewhile(lambda piece: len(piece) == 1, reversed(pieces))
    return " ".join(letters)[::-1] == question["answer"]

def _task(name: str, make, judge, max_tokens: int) -> Task:
    def read(learn: bool, split: str, most: int | None, seed: int, data: Path | None = None) -> Rows:
        def convert(index: int) -> dict:
            dice = Dice(name, split, seed, index)
            question, answer = make(dice, dice.pick(words(split)))
            return answered(question, answer) if learn else question
        words(split)                                    # Missing is said here, not in the middle of a run
        return Rows(range(USUAL if most is None else most), convert)
    return Task(name, partial(read, True), partial(read, False), judge, max_tokens=max_tokens)

TASKS = [_task("spellingbee", _counting, names_number, 160),
         _task("simplespelling", _spelling, spells_right, 96)]
