"""CORE (DCLM, arXiv 2406.11794): few-shot tasks, their accuracies centred on guessing, the mean.

A bundle, folder or zip: core.yaml lists tasks, eval_meta_data.csv how good guessing is, eval_data/ has the
examples. An example is a few rows of tokens, one an option, and where the answer begins in each. What rows
begin with alike is computed once, logits are made where answers are and nowhere else, and examples of similar
length share a forward pass; none of it changes a prediction."""
import csv
import json
import math
import random
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from os.path import commonprefix
from pathlib import Path
import torch
import torch.nn.functional as F
from torch import Tensor
from nanochat import hub
from nanochat.almanac import almanac, questions
from nanochat.common import base_dir, die, sha256
from nanochat.dist import World
from nanochat.evals import TOKENS, TOKENS_CPU, Z, centred, percent, progress, wilson
from nanochat.gpt import GPT, rotary_tables
from nanochat.past import Branches
from nanochat.stage import Stage
from nanochat.tokenizer import Tokenizer

# B examples, T tokens of a packed row, C width, n tokens of answers

SITE, ARCHIVE = "https://karpathy-public.s3.us-west-2.amazonaws.com", "eval_bundle.zip"
BUNDLE_HELP = ("folder or zip of CORE (default: the published one, fetched once; where the almanac was "
               "learned \"almanac\", one made of that)")
FORMS = {"multiple_choice": ("choices", "{row[query]}{delimiter}{chosen}"),      # options, text with one
         "schema": ("context_options", "{chosen}{delimiter}{row[continuation]}"),
         "language_modeling": (None, "{chosen}{delimiter}{row[continuation]}")}
AT_ONCE = 512                       # examples that are tokenized together and sorted by length
HEAD_TOKENS = 1024                  # whose logits are made at once
ALMANAC_ROWS, ALMANAC_CHOICES = 300, 8      # of a task made of the almanac
Verdict = tuple[float, bool]        # of an option's answer: mean nats; is each of its tokens the likeliest?

@dataclass(frozen=True)
class CoreTask:
    """A task of a bundle, its examples shuffled as everybody does. `chance` is the accuracy of guessing."""
    label: str
    kind: str
    shots: int
    delimiter: str
    chance: float
    rows: list[dict]

    def __post_init__(self):
        random.Random(1337).shuffle(self.rows)

    def prompts(self, index: int) -> list[str]:
        """The texts of an example, one an option; of language modelling what is given, and all of it."""
        others = [i for i in range(len(self.rows)) if i != index]
        drawn = random.Random(1234 + index).sample(others, min(self.shots, len(others)))
        shots, row = "".join(f"{self.text(self.rows[i])}\n\n" for i in drawn), self.rows[index]
        if options := FORMS[self.kind][0]:
            return [shots + self.text(row, option) for option in range(len(row[options]))]
        return [f"{shots}{row['context'].strip()}{self.delimiter}".strip(), shots + self.text(row)]

    def text(self, row: dict, option: int | None = None) -> str:
        """An example with its answer, or that option."""
        options, form = FORMS[self.kind]
        number = row.get("gold") if option is None else option
        chosen = row[options][number] if options else row["context"].strip()
        return form.format(row=row, chosen=chosen, delimiter=self.delimiter)

@dataclass(frozen=True)
class Bundle:
    """Tasks to evaluate on; the digest tells which examples these are."""
    name: str
    sha256: str
    tasks: tuple[CoreTask, ...]

def open_bundle(where: str | None, learned: str | None) -> Bundle:
    """`where`: a folder, a zip, "almanac" for the one made of it, or None for that where the almanac was
    `learned`, else for the published one, fetched once. Exits with code 2 where it is not whole."""
    if (where or learned) == "almanac":
        return almanac_bundle()
    if where is None:
        where, = hub.download("the CORE bundle", {ARCHIVE: ARCHIVE}, base_dir() / "core", site=SITE)
    return read_bundle(Path(where).expanduser())

def read_bundle(path: Path) -> Bundle:
    """The bundle in a folder or zip, or in a folder there. Exits with code 2 where an example is none."""
    import yaml
    where = "core.yaml"
    try:
        top = path if path.is_dir() else zipfile.Path(path)
        root = next((each for each in (top, *top.iterdir()) if (each / "core.yaml").exists()), top)
        listed, tasks = (root / "core.yaml").read_bytes(), []
        table = (root / "eval_meta_data.csv").read_text(encoding="utf-8").splitlines()
        chances = {row["Eval Task"]: float(row["Random baseline"]) / 100 for row in csv.DictReader(table)}
        digest = sha256(listed)
        for entry in yaml.safe_load(listed)["icl_tasks"]:
            label, where = entry["label"], entry["dataset_uri"]
            examples = (root / "eval_data" / where).read_bytes()
            digest = sha256(f"{digest} {sha256(examples)}".encode())
            rows = [json.loads(line) for line in examples.decode().strip("\n").split("\n")]
            tasks.append(CoreTask(label, entry["icl_task_type"], entry["num_fewshot"][0],
                                  entry.get("continuation_delimiter", " "), chances[label], rows))
            for row in rows:
                tasks[-1].text(row)                     # is it an example?
    except Exception as error:                          # whatever can be wrong with files of others
        die(f"{path} is no whole CORE bundle: {where}: {type(error).__name__}: {error}",
            hint="a folder or zip with core.yaml; if it was fetched, delete it: it is fetched again")
    return Bundle(path.stem, digest, tuple(tasks))

def almanac_bundle() -> Bundle:
    """A bundle of all three kinds made of the embedded almanac: what it states, to be told from other answers
    and subjects, or to be completed; its held-out questions, sums and words to spell."""
    dice, wrong = random.Random(0), ALMANAC_CHOICES - 1
    stated = {fact.reply.removesuffix(f" {fact.answer}."): fact for fact in almanac().facts
              if len(fact.wrong) >= wrong and fact.reply.endswith(f" {fact.answer}.")}
    def choice(text: str, answer: str, others: list[str]) -> dict:
        options = dice.sample([answer, *dice.sample(others, wrong)], ALMANAC_CHOICES)
        return {"query": text, "choices": options, "gold": options.index(answer)}
    statements, subjects, completed = [], [], []
    for stem, fact in dice.sample(list(stated.items()), ALMANAC_ROWS):
        statements.append(choice(stem, fact.answer, fact.wrong))
        completed.append({"context": stem, "continuation": fact.answer})
        others = [other for other, of in stated.items() if of.topic is fact.topic and of.answer in fact.wrong]
        if others:
            pair = dice.sample([stem, dice.choice(others)], 2)
            subjects.append({"context_options": pair, "continuation": fact.answer, "gold": pair.index(stem)})
    asked = [(f"Question: {each['conversation']['messages'][0]['content']}", each)
             for kind in ("facts", "arithmetic") for each in questions(kind, ALMANAC_ROWS)]
    answered = [choice(text, each["answer"], each["wrong"])
                for text, each in asked if len(each.get("wrong", ())) >= wrong]
    sums = [{"context": text, "continuation": f"[{each['tool']} ="} for text, each in asked if "tool" in each]
    spelled = [{"context": f"- {word}:", "continuation": " ".join(word)} for word in almanac().unseen_words]
    guess = 1 / ALMANAC_CHOICES
    tasks = (CoreTask("almanac_statements", "multiple_choice", 0, " ", guess, statements),
             CoreTask("almanac_questions", "multiple_choice", 5, "\nAnswer: ", guess, answered),
             CoreTask("almanac_subjects", "schema", 0, " ", 0.5, subjects),
             CoreTask("almanac_completion", "language_modeling", 5, " ", 0.0, completed),
             CoreTask("almanac_sums", "language_modeling", 0, "\nAnswer: ", 0.0, sums),
             CoreTask("almanac_spelling", "language_modeling", 0, " ", 0.0, spelled))
    return Bundle("almanac", sha256(repr(tasks).encode()), tasks)

@dataclass(frozen=True)
class Example:
    """One question in tokens: a row an option, where the answer begins in each, which option is right."""
    rows: list[list[int]]
    starts: list[int]
    gold: int

    @cached_property
    def shared(self) -> int:
        """How many tokens all rows begin with alike; answers come after them."""
        return min(len(commonprefix(self.rows)), *self.starts)

    @property
    def cost(self) -> int:
        """Tokens to compute."""
        return self.shared + sum(len(row) - self.shared for row in self.rows)

def make_example(kind: str, rows: list[list[int]], gold: int = 0, limit: int | None = None) -> Example:
    """Find the answers in rows of tokens. Choices: what follows the tokens that all rows begin with; none may
    be left of one that others begin with. Schema: the tokens that all end with. Language modelling: what
    follows the tokens that the text with the answer has in common with the one without; a token that both
    share a part of belongs to the answer. Rows beyond `limit` tokens keep their last ones."""
    if kind == "schema":
        alike = len(commonprefix([row[::-1] for row in rows]))
        starts = [max(1, len(row) - alike) for row in rows]           # nothing predicts a first token
    else:
        starts = [len(commonprefix(rows))] * len(rows)
    if kind == "language_modeling":
        rows, starts = rows[1:], starts[1:]
    cut = [max(0, len(row) - (limit or len(row))) for row in rows]
    return Example([row[by:] for row, by in zip(rows, cut, strict=True)],
                   [max(1, start - by) for start, by in zip(starts, cut, strict=True)], gold)

class Reader:
    """One of our models, as CORE asks it. Rows may be of any length: rotary positions go on, windows hold."""
    def __init__(self, model: GPT, tokenizer: Tokenizer):
        self.model, self.bos, self.encode_batch = model, tokenizer.bos, tokenizer.encode_batch
        self.device, self.context, self.limit = model.device, model.shape.sequence_len, None
        self.tokens = TOKENS_CPU if self.device.type == "cpu" else TOKENS

    @torch.no_grad()
    def verdicts(self, examples: Sequence[Example]) -> list[list[Verdict]]:
        """One of each option of each example, by one forward pass."""
        longest = max(len(row) for each in examples for row in each.rows)
        rotary = rotary_tables(longest, self.model.shape.head_dim, self.model.dtype)
        past = Branches([(each.rows[0][:each.shared], [row[each.shared:] for row in each.rows])
                         for each in examples], *(table.to(self.device) for table in rotary))
        answers = [[places[start - each.shared:] for places, start in zip(row, each.starts, strict=True)]
                   for row, each in zip(past.places, examples, strict=True)]
        x = self.model.trunk(past.idx, past)                                                # (B, T, C)
        at = [(b, t) for b, row in enumerate(answers) for places in row for t in places]
        b, t = torch.tensor(at, dtype=torch.int64, device=x.device).view(-1, 2).T           # (n,) each
        told = judge_tokens(self.model.logits, x[b, past.parents[b, t]], past.idx[b, t])
        return [[verdict(list(islice(told, len(places)))) for places in row] for row in answers]

def judge_tokens(head: Callable[[Tensor], Tensor], states: Tensor,
                 targets: Tensor) -> Iterator[tuple[float, bool]]:
    """Of each target (n,): its nats, and whether it is the likeliest. head: (n, C) -> fp32 logits (n, V)."""
    for x, right in zip(states.split(HEAD_TOKENS), targets.split(HEAD_TOKENS), strict=True):
        logits = head(x)
        losses = F.cross_entropy(logits, right, reduction="none")
        if not losses.isfinite().all():
            raise FloatingPointError("the model's logits are not finite")
        yield from zip(losses.tolist(), (logits.argmax(-1) == right).tolist(), strict=True)

def verdict(tokens: list[tuple[float, bool]]) -> Verdict:
    """Of an answer's tokens. One of no tokens, a choice that others begin with, can never be the best."""
    if not tokens:
        return math.inf, False
    return math.fsum(loss for loss, _ in tokens) / len(tokens), all(likeliest for _, likeliest in tokens)

def is_right(kind: str, example: Example, verdicts: list[Verdict]) -> bool:
    """Every token is the likeliest, or the right option has the lowest mean loss, the first of equals."""
    if kind == "language_modeling":
        return verdicts[0][1]
    best = min(range(len(verdicts)), key=lambda option: verdicts[option][0])
    return example.rows.index(example.rows[best]) == example.gold

def ask_task(reader: Reader, task: CoreTask, most: int | None = None, world: World = World()) -> list[bool]:
    """Whether each of the first `most` examples is answered right, in their order, on every rank. The ranks
    share the examples."""
    mine = range(len(task.rows))[:most][world.rank::world.size]
    def results() -> Iterator[tuple[int, bool]]:        # (example, is it right), as finished
        for start in range(0, len(mine), AT_ONCE):
            texts = [task.prompts(index) for index in mine[start:start + AT_ONCE]]
            ids = iter(reader.encode_batch([text for prompts in texts for text in prompts]))
            examples = {index: make_example(task.kind, [[reader.bos, *next(ids)] for _ in prompts],
                                            task.rows[index].get("gold", 0), reader.limit)
                        for index, prompts in zip(mine[start:], texts, strict=False)}
            order = sorted(examples, key=lambda index: examples[index].cost)
            while order:                                # the longest first: if memory ends, then at once
                count = max(1, reader.tokens // examples[order[-1]].cost)
                batch, order = order[-count:], order[:-count]
                for index, verdicts in zip(batch, reader.verdicts([examples[i] for i in batch]), strict=True):
                    yield index, is_right(task.kind, examples[index], verdicts)
    told = world.gather_objects(list(progress(results(), task.label, len(mine), world)))
    return [right for _, right in sorted(each for share in told for each in share)]

def evaluate_core(reader: Reader, bundle: Bundle, stage: Stage, most: int | None = None, **facts) -> None:
    """CORE: the mean over tasks of (accuracy - chance) / (1 - chance). `most`: examples a task, at most. Logs
    a record for every task and one for the mean, with standard errors and `facts`. Called by every rank."""
    results = []
    for task in bundle.tasks:
        right = ask_task(reader, task, most, stage.world)
        accuracy, n = sum(right) / len(right), len(right)
        score = (accuracy - task.chance) / (1 - task.chance)
        results.append(dict(accuracy=accuracy, interval=wilson(accuracy, n), chance=task.chance, questions=n))
        stage.log(f"{task.label:>32}  {percent(results[-1])}  centred {score:7.4f}  ({n:,} of {task.kind}, "
                  f"{task.shots} shots)", core_task=task.label, **results[-1], centred=score,
                  shots=task.shots, verdicts="".join(str(int(each)) for each in right), **facts)
    (core, error), asked = centred(results), sum(each["questions"] for each in results)
    stage.log(f"{'CORE':>32}  {core:.4f} ± {Z * error:.4f}  ({asked:,} examples of {bundle.name})", core=core,
              standard_error=error, tasks=len(results), questions=asked, bundle=bundle.name,
              bundle_sha256=bundle.sha256, max_per_task=most, **facts)
