"""Reinforcement learning on questions that have a judge: GRPO (arXiv 2402.03300), simplified.

A step samples several answers to each of some questions and makes those likelier that did better than the
others to the same question: the advantage is r - mean(r), not divided by anything, each sampled token counts
alike whatever the length of its answer (as in DAPO, arXiv 2503.14476), and the policy that is trained is the
one that sampled, so that there is no ratio to clip and no KL term. What is sampled is what is scored: no
top-k, the same temperature and tokens ruled out; the stop token is an action, what a tool says is not."""
# Q questions of a step on this rank, R answers to each; B rows, T tokens, C width, V vocabulary
# N tokens that were drawn, n of them at once
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed
from nanochat.dataloader import shuffled
from nanochat.dist import World
from nanochat.engine import Engine, Request, SamplingParams
from nanochat.gpt import GPT
from nanochat.past import Rows
from nanochat.train import Work

CHUNK = 2048                    # tokens whose logits are there at once; the backward pass makes them again

# a question, who says of it and a visible reply whether that is right, and how many tokens a reply may have
Problem = tuple[dict, Callable[[dict, str], bool], int]

def rollouts(engine: Engine, problems: Sequence[Problem], *, per_step: int, samples: int, temperature: float,
             tokens: int, seed: int, world: World = World(), start: int = 0) -> Iterator[Work]:
    """Endless work for train_steps: what `engine` samples at step start, start + 1, ... in micro-batches of
    at most `tokens`, padding included. The problems come in an order drawn anew every epoch; ranks share
    those of a step, and what is drawn does not depend on how many they are."""
    for step in itertools.count(start):
        asked, prompts, settings = [], [], []
        for number in range(step * per_step, (step + 1) * per_step)[world.rank::world.size]:
            epoch, place = divmod(number, len(problems))            # the number alone decides what is drawn
            question, judge, most = problems[shuffled(len(problems), f"{seed} {epoch}")[place]]
            own = random.Random(f"rollout {seed} {number}").getrandbits(62)
            params = SamplingParams(temperature, max_tokens=most, seed=own)
            asked += [(question, judge)] * samples
            prompts += [engine.prompt(question["conversation"], params)] * samples
            settings += [params] * samples
        answers = engine.generate(prompts, settings)
        engine.reset()                                  # its cache would stand beside the training step
        right = [judge(question, reply.text) for (question, judge), reply in zip(asked, answers, strict=True)]
        rewards = torch.tensor(right, dtype=torch.float32).view(-1, samples)                # (Q, R)
        advantages = (rewards - rewards.mean(dim=1, keepdim=True)).flatten().tolist()
        scored = [each for each in zip(answers, advantages, strict=True) if each[1] != 0]
        drawn = sum(sum(answer.sampled) for answer in answers)
        yield Work(drawn, list(micro_batches(engine, scored, tokens)), facts(answers, rewards, drawn, world))

def facts(answers: list[Request], rewards: Tensor, drawn: int, world: World) -> dict[str, float]:
    """What happened in a step, in which this rank `drawn` tokens, on all ranks."""
    mixed = (rewards.min(1).values < rewards.max(1).values).sum().item()
    surprise = -sum(sum(answer.logprobs) for answer in answers)
    cut = sum(answer.finish_reason == "length" for answer in answers)
    totals = torch.tensor([len(answers), drawn, rewards.sum(), cut, surprise, mixed], dtype=torch.float32)
    count, tokens, reward, cut, surprise, mixed = world.sum(totals).tolist()
    return {"reward": reward / count, "length": tokens / count, "truncated": cut / count,
            "entropy": surprise / tokens,               # nats per token, estimated by what was drawn
            "mixed": mixed * rewards.size(1) / count}   # share of problems that have something to teach

def micro_batches(engine: Engine, scored: list[tuple[Request, float]], tokens: int) -> Iterator[tuple]:
    """(answer, advantage), as many of similar lengths at once as fit -> padded inputs (B, T), targets (B, T;
    -1 where nothing was drawn), whether that was in a tool call (B, T), advantages (B,)."""
    scored = sorted(scored, key=lambda each: len(each[0].prompt) + len(each[0].ids), reverse=True)
    while scored:
        T = len(scored[0][0].prompt) + len(scored[0][0].ids) - 1        # the last token is a target only
        rows = max(1, tokens // T)
        batch, scored = scored[:rows], scored[rows:]
        inputs = torch.full((len(batch), T), engine.tokenizer.bos)
        targets, calls = torch.full((len(batch), T), -1), torch.zeros(len(batch), T, dtype=torch.int64)
        for row, (answer, _) in enumerate(batch):
            ids = (answer.prompt + answer.ids)[:-1]
            answered = slice(len(answer.prompt) - 1, len(ids))
            inputs[row, :len(ids)] = torch.tensor(ids)
            targets[row, answered] = torch.tensor(answer.ids).where(torch.tensor(answer.sampled), -1)
            calls[row, answered] = torch.tensor(answer.in_call)
        advantages = torch.tensor([advantage for _, advantage in batch])
        yield tuple(each.to(engine.model.device) for each in (inputs, targets, calls, advantages))

def policy_loss(model: GPT, forbidden: Tensor, temperature: float, inputs: Tensor, targets: Tensor,
                calls: Tensor, advantages: Tensor) -> Tensor:
    """- sum of advantage * log-probability of what was drawn, in the distribution that it was drawn from:
    `forbidden` (2, V) as the engine has it, the rest as rollouts() makes it. Its gradient is REINFORCE's."""
    logprobs, where = token_logprobs(model, forbidden, temperature, inputs, targets, calls)
    return -(logprobs * advantages[:, None].expand_as(where)[where]).sum()

def token_logprobs(model: GPT, forbidden: Tensor, temperature: float, inputs: Tensor, targets: Tensor,
                   calls: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities (N,) of the N targets that are not -1, in order, and where they are: (B, T) bool."""
    def score(states: Tensor, drawn: Tensor, call: Tensor) -> Tensor:       # (n, C), (n,), (n,) -> (n,)
        logits = (model.logits(states) / temperature).masked_fill(forbidden[call], float("-inf"))
        return logits.log_softmax(-1).gather(-1, drawn[:, None]).squeeze(-1)
    where = targets != -1
    states = model.trunk(inputs, Rows())[where]
    chunks = zip(*(each.split(CHUNK) for each in (states, targets[where], calls[where])), strict=True)
    return torch.cat([recomputed(score, *chunk, use_reentrant=False) for chunk in chunks]), where
