"""
Evaluation loops: bits per byte of text; questions answered freely, judged by their task. Accuracies come with
their standard error. Used by base_eval, chat_eval and training.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch

from nanochat.dist import World
from nanochat.engine import Engine, SamplingParams
from nanochat.gpt import GPT
from nanochat.tokenizer import Tokenizer

PROMPTS = ("A spider has", "Lisbon is the capital of", "After Wednesday comes", "The opposite of early is",
           "12 plus 30 is", "Long ago, in a village by the sea,")


@torch.no_grad()
def evaluate_bpb(model: GPT, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], token_bytes: Sequence[int],
                 world: World = World()) -> float:
    """
    Bits per byte: nats of the targets that stand for bytes / (ln 2 * those bytes), over all ranks' batches.
    Special tokens stand for none. Independent of the vocabulary, so that models with different tokenizers
    compare.
    """
    sizes = torch.tensor(token_bytes, device=model.device)
    exact = torch.float32 if model.device.type == "mps" else torch.float64           # MPS has no doubles
    totals = torch.zeros(2, dtype=exact, device=model.device)
    for inputs, targets in batches:
        inputs, targets = inputs.to(model.device), targets.to(model.device)
        bytes_each = torch.where(targets >= 0, sizes[targets.clamp(min=0)], 0)
        losses = model(inputs, targets, reduction="none")
        totals += torch.stack(((losses * (bytes_each > 0)).sum().to(exact), bytes_each.sum().to(exact)))
    nats, count = world.sum(totals).tolist()
    if count == 0:
        raise ValueError("no bytes to evaluate on")
    return nats / (math.log(2) * count)


def continuations(model: GPT, tokenizer: Tokenizer, max_tokens: int = 16) -> list[str]:
    """A few prompts and what the model makes of them, greedily: to see with one's own eyes what it learned."""
    engine = Engine(model, tokenizer, max_batch=len(PROMPTS))
    bos, encode = tokenizer.bos, tokenizer.encode
    prompts = [[bos, *encode(prompt)][:engine.context // 2] for prompt in PROMPTS]
    completions = engine.generate(prompts, SamplingParams(temperature=0.0, max_tokens=max_tokens))
    return [prompt + completion.text for prompt, completion in zip(PROMPTS, completions)]


def accuracy(verdicts: Sequence[bool]) -> tuple[float, float]:
    """Share of True and its standard error (binomial)."""
    p = sum(verdicts) / len(verdicts)
    return p, math.sqrt(p * (1 - p) / len(verdicts))


def reply_verdicts(engine: Engine, questions: Sequence[dict], judge: Callable[[dict, str], bool],
                   max_tokens: int = 128) -> tuple[list[bool], list[str]]:
    """
    Free answers, greedy, all questions in one running batch. judge(question, visible reply) -> right? Also
    the replies.
    """
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens)
    completions = engine.generate([engine.prompt(q["conversation"], params) for q in questions], params)
    replies = [completion.text for completion in completions]
    return [judge(question, reply) for question, reply in zip(questions, replies)], replies
