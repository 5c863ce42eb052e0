"""Bits per byte of text; questions answered by a letter or freely; the statistics of right and wrong."""
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from nanochat.dataloader import Validation
from nanochat.dist import World
from nanochat.engine import Engine, SamplingParams
from nanochat.gpt import GPT, SOFTCAP
from nanochat.loss import capped_logits
from nanochat.past import Rows
from nanochat.tokenizer import Tokenizer

# B rows, T tokens, C width, n letters
TOKENS, TOKENS_CPU = 32768, 1024                        # of a forward pass; on CPU what stays in cache
BUCKETS = 64                                            # of documents
Z = 1.959964                                            # half of a 95% interval, in standard errors
PROMPTS = ("A spider has", "Lisbon is the capital of", "After Wednesday comes", "The opposite of early is",
           "12 plus 30 is", "Long ago, in a village by the sea,")

@dataclass(frozen=True)
class Bpb:
    """Bits per byte of a set of documents, and its standard error over them (NaN where there is only one).
    `buckets`: "bits" and "bytes" of document i are in number i % BUCKETS, to compare models pair by pair."""
    value: float
    error: float
    documents: int
    bytes: int
    buckets: dict[str, list]

    def __str__(self) -> str:
        return f"{self.value:.4f} ± {Z * self.error:.4f} bits per byte"

@torch.no_grad()
def evaluate_bpb(model, validation: Validation, world: World = World()) -> Bpb:
    """Nats of the targets / (ln 2 * bytes of the documents), over all ranks' batches, so that models with
    different tokenizers compare. model: anything with `.device` and model(inputs, targets, reduction="none")
    -> nats (B, T). FloatingPointError where a loss is not finite."""
    exact = torch.float32 if model.device.type == "mps" else torch.float64           # MPS has no doubles
    nats = torch.zeros(len(validation.sizes), dtype=exact, device=model.device)      # of each document
    for batch in validation.batches:
        inputs, targets, documents = (tensor.to(model.device) for tensor in batch)
        losses = model(inputs, targets, reduction="none").to(exact)                  # (B, T)
        nats.index_add_(0, documents.flatten(), losses.where(targets >= 0, 0).flatten())
    bits, sizes = world.sum(nats).cpu().double().numpy() / math.log(2), np.array(validation.sizes)
    if not np.isfinite(bits).all():
        raise FloatingPointError("the model's loss on the validation text is NaN or infinite")
    value, error = ratio(bits, sizes)
    number = np.arange(len(sizes)) % BUCKETS
    buckets = {"bits": np.bincount(number, bits, BUCKETS).tolist(),
               "bytes": np.bincount(number, sizes, BUCKETS).astype(int).tolist()}
    return Bpb(value, error, len(sizes), int(sizes.sum()), buckets)

def ratio(bits: np.ndarray, sizes: np.ndarray) -> tuple[float, float]:
    """sum bits / sum sizes, and its standard error over the n documents: sqrt(n / (n - 1) * sum e^2) / sum
    sizes with e = bits - value * size of each (Cochran, Sampling Techniques, 1977); NaN for one document."""
    n, total = len(sizes), sizes.sum()
    value = bits.sum() / total
    square = ((bits - value * sizes) ** 2).sum()
    return float(value), float(np.sqrt(n / (n - 1) * square) / total) if n > 1 else math.nan

def continuations(model: GPT, tokenizer: Tokenizer) -> list[str]:
    """A few prompts with the model's greedy continuations, to see with one's own eyes what it has learned."""
    engine = Engine(model, tokenizer, max_batch=len(PROMPTS))
    prompts = [[tokenizer.bos, *tokenizer.encode(prompt)][:engine.context // 2] for prompt in PROMPTS]
    completions = engine.generate(prompts, SamplingParams(temperature=0.0, max_tokens=16))
    return [prompt + completion.text for prompt, completion in zip(PROMPTS, completions, strict=True)]

def progress(items: Iterable, name: str, of: int, world: World) -> Iterable:
    """The items, with a bar of how many rank 0 has done and the time left; now and then where it is a log."""
    try:
        from huggingface_hub.utils import tqdm
    except ImportError:                                 # a bar is not worth a package
        return items
    wait = {} if sys.stderr.isatty() else {"mininterval": 20.0, "delay": 20.0}
    return tqdm(items, f"{name:>20}", of, leave=False, disable=not world.is_main, **wait)

def ask(engine: Engine, questions: Sequence[dict], judge: Callable[[dict, str], bool],
        params: SamplingParams, samples: int = 1, world: World = World(), name: str = "") -> list[list[bool]]:
    """Verdicts on `samples` replies to each question, in the order of the questions, on every rank. Where a
    question has letters its one reply is the likeliest of them. The ranks share the questions; who gets which
    changes no reply. judge(question, visible reply) runs in threads."""
    letters = [question.get("letters") for question in questions]
    prompts = [engine.prompt(question["conversation"], replace(params, max_tokens=1) if some else params)
               for question, some in zip(questions, letters, strict=True)]
    mine = sorted(range(len(questions)), key=lambda i: len(prompts[i]))[world.rank::world.size]
    expected = sum(1 if letters[index] else samples for index in mine)
    def answers() -> Iterator[tuple[int, int, str]]:    # (question, number of the sample, reply), as finished
        choices = {index: (prompts[index], letters[index]) for index in mine if letters[index]}
        for index, letter in choose_letters(engine.model, engine.tokenizer, choices):
            yield index, 0, letter
        free = [index for index in mine if not letters[index] for _ in range(samples)]
        # a seed for each question, so that its draws do not depend on which others this rank has
        seeds = [None if params.seed is None else params.seed << 32 | index for index in free]
        for at, completion in engine.completions([prompts[i] for i in free],
                                                 [replace(params, seed=seed) for seed in seeds]):
            yield free[at], at % samples, completion.text
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // world.size)) as pool:   # judges may run programs
        pending = [(index, sample, pool.submit(judge, questions[index], reply))
                   for index, sample, reply in progress(answers(), name, expected, world)]
        judged = [(index, sample, verdict.result()) for index, sample, verdict in pending]
    verdicts = [[] for _ in questions]
    for index, _, verdict in sorted(each for share in world.gather_objects(judged) for each in share):
        verdicts[index].append(verdict)
    return verdicts

@torch.no_grad()
def choose_letters(model: GPT, tokenizer: Tokenizer,
                   questions: dict[int, tuple[list[int], list[str]]]) -> Iterator[tuple[int, str]]:
    """Number -> (prompt, letters) to (number, the letter that the model finds likeliest to come next; the
    first of equals). One forward pass for as many prompts of similar length as memory allows; of the head
    only the rows of the letters are used, in fp32 whatever the model computes in."""
    tokens = TOKENS_CPU if model.device.type == "cpu" else TOKENS                   # padding included
    waiting = sorted(questions, key=lambda index: len(questions[index][0]))
    while waiting:                                      # the longest first: if memory ends, then at once
        rows = max(1, tokens // len(questions[waiting[-1]][0]))
        batch, waiting = waiting[-rows:], waiting[:-rows]
        prompts, letters = zip(*(questions[index] for index in batch), strict=True)
        idx = pad_sequence(list(map(torch.tensor, prompts)), batch_first=True)                      # (B, T)
        ends = torch.tensor([len(prompt) - 1 for prompt in prompts], device=model.device)
        states = model.trunk(idx.to(model.device), Rows())[torch.arange(len(batch)), ends]      # (B, C)
        ids = {letter: tokenizer.encode(letter) for own in letters for letter in own}
        head = model.unembedding[[token for token, in ids.values()]]                    # (n, C): one each
        logits = capped_logits(states.float(), head, len(ids), SOFTCAP)                 # (B, n)
        if logits.isnan().any():
            raise FloatingPointError("the model's logits are NaN")
        for index, own, row in zip(batch, letters, logits.tolist(), strict=True):
            yield index, max(own, key=dict(zip(ids, row, strict=True)).__getitem__)

def pass_at_k(counts: Sequence[int], n: int, k: int) -> tuple[float, float]:
    """How likely one of k samples is right, and its standard error, from n >= k samples of each problem,
    counts[i] of them right: the mean of 1 - C(n - c, k) / C(n, k) (unbiased: arXiv 2107.03374)."""
    assert 1 <= k <= n and all(0 <= count <= n for count in counts), (n, k)
    each = [1 - math.comb(n - count, k) / math.comb(n, k) for count in counts]
    mean = math.fsum(each) / len(each)
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in each)) / len(each)

def wilson(share: float, count: float) -> list[float]:
    """95% interval of a share of `count` yes-or-no questions (Wilson, JASA 1927), near 0 and 1 too."""
    z2 = Z ** 2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = math.sqrt(z2 * share * (1 - share) / count + (z2 / (2 * count)) ** 2) / (1 + z2 / count)
    return [max(0.0, centre - half), min(1.0, centre + half)]

def percent(result: dict) -> str:
    """An accuracy with its 95% interval."""
    low, high = result["interval"]
    return f"{100 * result['accuracy']:5.1f}%  [{100 * low:.1f}, {100 * high:.1f}]"

def centred(results: Sequence[dict]) -> tuple[float, float]:
    """Mean of (accuracy - chance) / (1 - chance) over tasks, and its standard error; by the "interval" of
    each, as standard errors are 0 where all is right or all is wrong."""
    scores = [(each["accuracy"] - each["chance"]) / (1 - each["chance"]) for each in results]
    errors = [(high - low) / (2 * Z) / (1 - each["chance"]) for each in results
              for low, high in [each["interval"]]]
    return math.fsum(scores) / len(scores), math.hypot(*errors) / len(scores)
