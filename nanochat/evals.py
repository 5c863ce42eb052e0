"""
Evaluation loops: bits per byte of text; questions answered freely, judged by their task. Accuracies come with
their standard error. Used by the scripts that train and evaluate.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch

from nanochat.dist import World
from nanochat.engine import Engine, SamplingParams
from nanochat.gpt import GPT
from nanochat.tokenizer import Tokenizer

# B rows, T tokens

PROMPTS = ("A spider has", "Lisbon is the capital of", "After Wednesday comes", "The opposite of early is",
           "12 plus 30 is", "Long ago, in a village by the sea,")


@torch.no_grad()
def evaluate_bpb(model: GPT, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], token_bytes: Sequence[int],
                 world: World = World()) -> float:
    """
    Bits per byte: nats of the targets that stand for bytes / (ln 2 * those bytes), over all ranks' batches of
    (inputs, targets), both (B, T). Special tokens stand for no bytes. It does not depend on the vocabulary,
    so that models with different tokenizers compare. ValueError where no target stands for bytes.
    """
    sizes = torch.tensor(token_bytes, device=model.device)
    exact = torch.float32 if model.device.type == "mps" else torch.float64           # MPS has no doubles
    totals = torch.zeros(2, dtype=exact, device=model.device)
    for inputs, targets in batches:
        inputs, targets = inputs.to(model.device), targets.to(model.device)
        bytes_each = torch.where(targets >= 0, sizes[targets.clamp(min=0)], 0)           # (B, T)
        losses = model(inputs, targets, reduction="none") * (bytes_each > 0)             # (B, T)
        totals += torch.stack((losses.sum().to(exact), bytes_each.sum().to(exact)))
    nats, count = world.sum(totals).tolist()
    if count == 0:
        raise ValueError("no bytes to evaluate on")
    return nats / (math.log(2) * count)


def continuations(model: GPT, tokenizer: Tokenizer, max_tokens: int = 16) -> list[str]:
    """A few prompts with the model's greedy continuations, to see with one's own eyes what it has learned."""
    engine = Engine(model, tokenizer, max_batch=len(PROMPTS))
    bos, encode = tokenizer.bos, tokenizer.encode
    prompts = [[bos, *encode(prompt)][:engine.context // 2] for prompt in PROMPTS]
    completions = engine.generate(prompts, SamplingParams(temperature=0.0, max_tokens=max_tokens))
    return [prompt + completion.text for prompt, completion in zip(PROMPTS, completions, strict=True)]


def accuracy(verdicts: Sequence[bool]) -> tuple[float, float]:
    """Share of True and its standard error (binomial)."""
    share = sum(verdicts) / len(verdicts)
    return share, math.sqrt(share * (1 - share) / len(verdicts))


def pass_at_k(counts: Sequence[int], n: int, k: int) -> tuple[float, float]:
    """
    Chance that one of k answers is right, by n answers to each problem of which counts[i] are, and its
    standard error over problems. Unbiased: 1 - C(n - c, k) / C(n, k) (Codex, arXiv 2107.03374).
    """
    shares = [1 - math.comb(n - count, k) / math.comb(n, k) for count in counts]
    mean = sum(shares) / len(shares)
    spread = sum((share - mean) ** 2 for share in shares) / max(1, len(shares) - 1)
    return mean, math.sqrt(spread / len(shares))


def reply_verdicts(engine: Engine, questions: Sequence[dict], judge: Callable[[dict, str], bool],
                   max_tokens: int = 128) -> tuple[list[bool], list[str]]:
    """
    Free answers, greedy, all questions in one running batch -> (verdicts, replies), in the order of the
    questions. judge(question, visible reply) says whether the reply is right.
    """
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens)
    prompts = [engine.prompt(question["conversation"], params) for question in questions]
    replies = [completion.text for completion in engine.generate(prompts, params)]
    return [judge(question, reply) for question, reply in zip(questions, replies, strict=True)], replies
