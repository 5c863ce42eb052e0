"""
Reinforcement learning on questions that have a judge: GRPO (arXiv 2402.03300), simplified.

A step asks some questions, samples several answers to each through the engine, all in one running batch, and
makes those more likely that did better than the others to the same question: the advantage is r - mean(r),
not divided by anything, each sampled token counts alike whatever the length of its answer (as in DAPO, arXiv
2503.14476), and the policy that is trained is the one that sampled, so that there is neither a ratio to clip
nor a KL term. What is sampled is what is scored: no top-k, the same temperature, the same tokens ruled out;
the stop token is an action like any other; what a tool says is not. Used by chat_rl.
"""

# Q questions of a step on this rank, R answers to each; B rows, T tokens, C width, V vocabulary
# N tokens that were drawn, n of them at once

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed

from nanochat.dataloader import epoch_order
from nanochat.dist import World
from nanochat.engine import Completion, Engine, SamplingParams
from nanochat.gpt import GPT
from nanochat.past import Rows
from nanochat.train import Work

CHUNK = 2048                    # tokens whose logits are there at once; the backward pass makes them again


@dataclass(frozen=True)
class Problem:
    """A question with its judge, who says of a visible reply whether it is right."""
    question: dict
    judge: Callable[[dict, str], bool]
    max_tokens: int


class Rollouts(Iterator[Work]):
    """
    Endless work for train_steps: what `engine` samples at step start, start + 1, ... from its model as it is
    then. The problems come in an order drawn anew every epoch; ranks share those of a step, and what is drawn
    does not depend on how many they are.
    """

    def __init__(self, engine: Engine, problems: Sequence[Problem], *, per_step: int, samples: int,
                 temperature: float, tokens: int, seed: int, world: World = World(), start: int = 0):
        """`tokens`: of a micro-batch, at most, padding included."""
        self.engine, self.problems, self.world, self.step = engine, problems, world, start
        self.per_step, self.samples, self.temperature = per_step, samples, temperature
        self.tokens, self.seed = tokens, seed

    def __next__(self) -> Work:
        first = self.step * self.per_step
        numbers = range(first, first + self.per_step)[self.world.rank::self.world.size]
        self.step += 1
        problems = [self._problem(number) for number in numbers]
        prompts, answers = self._draw(problems, numbers)
        right = [[problem.judge(problem.question, each.text) for each in group]
                 for problem, group in zip(problems, answers, strict=True)]
        rewards = torch.tensor(right, dtype=torch.float32).view(-1, self.samples)           # (Q, R)
        advantages = rewards - rewards.mean(dim=1, keepdim=True)
        scored = [(prompt, completion, advantage)
                  for prompt, group, row in zip(prompts, answers, advantages.tolist(), strict=True)
                  for completion, advantage in zip(group, row, strict=True) if advantage != 0]
        facts, actions = self._facts(answers, rewards)
        return Work(actions.to(self.engine.model.device), list(self._micro_batches(scored)), facts)

    def _problem(self, number: int) -> Problem:
        epoch, place = divmod(number, len(self.problems))
        return self.problems[epoch_order(len(self.problems), self.seed, epoch)[place]]

    def _draw(self, problems: list[Problem],
              numbers: Sequence[int]) -> tuple[list[list[int]], list[list[Completion]]]:
        """Prompts and answers. A problem's number, not who else is asked, decides what is drawn for it."""
        prompts, settings = [], []
        for problem, number in zip(problems, numbers, strict=True):
            seed = random.Random(f"rollout {self.seed} {number}").getrandbits(62)
            params = SamplingParams(temperature=self.temperature, max_tokens=problem.max_tokens, seed=seed)
            prompts.append(self.engine.prompt(problem.question["conversation"], params))
            settings.append(params)
        flat = self.engine.generate([prompt for prompt in prompts for _ in range(self.samples)],
                                    [params for params in settings for _ in range(self.samples)])
        self.engine.reset()                             # its cache would stand beside the training step
        return prompts, [flat[start:start + self.samples] for start in range(0, len(flat), self.samples)]

    def _facts(self, answers: list[list[Completion]], rewards: Tensor) -> tuple[dict[str, float], Tensor]:
        """What happened in this step on all ranks; how many tokens were drawn on this one, () int64."""
        flat = [completion for group in answers for completion in group]
        drawn = sum(sum(completion.sampled) for completion in flat)
        mixed = (rewards.min(1).values < rewards.max(1).values).sum().item()
        surprise = -sum(sum(completion.logprobs) for completion in flat)
        cut = sum(completion.finish_reason == "length" for completion in flat)
        totals = torch.tensor([len(flat), drawn, rewards.sum(), cut, surprise, mixed], dtype=torch.float32)
        totals = self.world.sum(totals.to(self.engine.model.device))
        count, tokens, reward, cut, surprise, mixed = totals.tolist()
        facts = {"reward": reward / count, "length": tokens / count, "truncated": cut / count,
                 "entropy": surprise / tokens,          # nats per token, estimated by what was drawn
                 "mixed": mixed * self.samples / count}             # problems that have something to teach
        return facts, torch.tensor(drawn)

    def _micro_batches(self, scored: list[tuple[list[int], Completion, float]]) -> Iterator[tuple]:
        """As many answers of similar lengths at once as fit."""
        def length(item) -> int:
            return len(item[0]) + len(item[1].ids) - 1  # the last token is a target only

        scored = sorted(scored, key=length, reverse=True)
        while scored:
            rows = max(1, self.tokens // length(scored[0]))
            yield self._micro_batch(scored[:rows], length(scored[0]))
            scored = scored[rows:]

    def _micro_batch(self, scored: list[tuple[list[int], Completion, float]], T: int) -> tuple[Tensor, ...]:
        """
        Padded rows: inputs (B, T), targets (B, T; -1 where nothing was drawn), whether that was in a tool
        call (B, T), advantages (B,).
        """
        inputs = torch.full((len(scored), T), self.engine.tokenizer.bos)
        targets = torch.full((len(scored), T), -1)
        calls = torch.zeros(len(scored), T, dtype=torch.int64)
        for row, (prompt, completion, _) in enumerate(scored):
            ids, before = prompt + completion.ids, len(prompt) - 1
            inputs[row, :len(ids) - 1] = torch.tensor(ids[:-1])
            drawn = [token if sampled else -1
                     for token, sampled in zip(completion.ids, completion.sampled, strict=True)]
            targets[row, before:len(ids) - 1] = torch.tensor(drawn)
            calls[row, before:len(ids) - 1] = torch.tensor(self.engine.in_calls(completion.ids))
        advantages = torch.tensor([advantage for _, _, advantage in scored])
        return tuple(tensor.to(self.engine.model.device) for tensor in (inputs, targets, calls, advantages))


def policy_loss(model: GPT, forbidden: Tensor, temperature: float, inputs: Tensor, targets: Tensor,
                calls: Tensor, advantages: Tensor) -> Tensor:
    """
    - sum of advantage * log-probability of what was drawn, in the distribution that it was drawn from:
    `forbidden` (2, V) as the engine has it, and the rest as Rollouts makes it. Its gradient is REINFORCE's.
    """
    logprobs, where = token_logprobs(model, forbidden, temperature, inputs, targets, calls)
    return -(logprobs * advantages[:, None].expand_as(where)[where]).sum()


def token_logprobs(model: GPT, forbidden: Tensor, temperature: float, inputs: Tensor, targets: Tensor,
                   calls: Tensor) -> tuple[Tensor, Tensor]:
    """
    Log-probabilities (N,) of the N targets that are not -1, row by row, and where they are: (B, T) bool.
    """
    def score(states: Tensor, drawn: Tensor, call: Tensor) -> Tensor:       # (n, C), (n,), (n,) -> (n,)
        logits = (model.logits(states) / temperature).masked_fill(forbidden[call], float("-inf"))
        return logits.log_softmax(-1).gather(-1, drawn[:, None]).squeeze(-1)

    where = targets != -1
    states = model.trunk(inputs, Rows())[where]
    chunks = zip(*(each.split(CHUNK) for each in (states, targets[where], calls[where])), strict=True)
    return torch.cat([recomputed(score, *chunk, use_reentrant=False) for chunk in chunks]), where
