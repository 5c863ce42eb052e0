"""Inference: requests with their own prompt, settings, randomness and tool state share one running batch.

step() is the only loop body: it makes one token for every running request and lets waiting ones join.
generate() and completions() (many prompts) and stream() (one answer, piece by piece) drive it; the web server
calls it from its own thread. A finished request leaves at once, so that no time goes into idle rows.

The python tool: what the model writes between <|python_start|> and <|python_end|> goes to the calculator, and
its result is forced into the context between <|output_start|> and <|output_end|>, as in training data."""

import math
import random
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nanochat import calculator
from nanochat.chat import AnswerDecoder, render_part, render_prompt, visible_text
from nanochat.gpt import GPT
from nanochat.past import KVCache
from nanochat.tokenizer import SPECIAL_TOKENS, Tokenizer

# B running requests, V vocab, n rows that are sampled alike

PREFILL_TOKENS = 16384                                  # per forward pass: bounds its memory
COLDEST = 1e-4                                          # lower temperatures are greedy: logits would overflow
STOPS = ("<|assistant_end|>", "<|bos|>")
NEVER_SAMPLED = ("<|user_start|>", "<|user_end|>", "<|assistant_start|>", "<|output_start|>",
                 "<|output_end|>")


def _require(ok: bool, name: str, value: object, rule: str) -> None:
    if not ok:
        raise ValueError(f"{name} is {value}, must be {rule}")


@dataclass(frozen=True)
class SamplingParams:
    """How to draw tokens. ValueError where a value is out of its range."""
    temperature: float = 1.0                            # 0 = always the likeliest token
    top_k: int | None = None                            # only among the k likeliest
    top_p: float | None = None                          # only among the likeliest that sum to this
    max_tokens: int | None = None                       # tool output included; None = up to the context's end
    seed: int | None = None                             # None = different every time

    def __post_init__(self):
        _require(0 <= self.temperature <= 100, "temperature", self.temperature, "0 to 100")
        _require(self.top_k is None or self.top_k >= 1, "top_k", self.top_k, "at least 1")
        _require(self.top_p is None or 0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        _require(self.max_tokens is None or self.max_tokens >= 1, "max_tokens", self.max_tokens, "at least 1")

    @property
    def narrow(self) -> bool:
        """Whether the candidates have to be ranked first."""
        return self.top_k is not None or self.top_p is not None


@dataclass(eq=False)
class Request:
    """A prompt and its answer, as far as it got: `ids` and so on with the stop token, `parts` without."""
    prompt: list[int]
    params: SamplingParams
    random: random.Random
    limit: int                                          # tokens that the answer may have at most
    decoder: AnswerDecoder
    ids: list[int] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)   # of each id: drawn by us, not forced as tool output
    logprobs: list[float] = field(default_factory=list)     # of each id, as it was drawn; 0 where forced
    finish_reason: str | None = None                    # in the end "stop", "length" or "cancelled"
    pieces: list[tuple[str, str]] = field(default_factory=list)     # what take() will give out
    forced: deque[int] = field(default_factory=deque)   # tool output that still has to be fed
    expression: list[int] | None = None                 # ids of the tool call that is being written

    @property
    def done(self) -> bool:
        return self.finish_reason is not None

    @property
    def parts(self) -> list[dict]:
        """The answer as the content of a message, see chat.py."""
        return self.decoder.parts

    @property
    def text(self) -> str:
        return visible_text(self.parts)

    def finish(self, reason: str) -> None:
        self.pieces += self.decoder.flush()
        self.finish_reason = reason

    def take(self) -> list[tuple[str, str]]:
        """(type, text) pieces since the last call; type is "text", "python" or "python_output"."""
        pieces, self.pieces = self.pieces, []
        return pieces


class Engine:
    """At most `max_batch` requests run at once; more wait in order of arrival. One thread drives it."""

    def __init__(self, model: GPT, tokenizer: Tokenizer, max_batch: int = 64):
        assert model.shape.vocab_size == tokenizer.vocab_size, (model.shape.vocab_size, tokenizer.vocab_size)
        self.tokenizer, self.max_batch, self.context = tokenizer, max_batch, model.shape.sequence_len
        self.model, self._device = model, model.device
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []               # in the order of the cache's rows
        self._cache: KVCache | None = None
        self._draws: list[_Draw] = []
        self._stale = False                             # whether _draws and _banned must be made anew
        special = tokenizer.special
        self._stops = {special(name) for name in STOPS}
        self._python_start, self._python_end = special("<|python_start|>"), special("<|python_end|>")
        self._special_ids = torch.tensor([special(name) for name in SPECIAL_TOKENS], device=self._device)
        bans = [[name in (*NEVER_SAMPLED, marker) for name in SPECIAL_TOKENS]
                for marker in ("<|python_end|>", "<|python_start|>")]
        self._bans = torch.tensor(bans, device=self._device)        # (2, specials): outside, in a tool call
        self.forbidden = torch.zeros(2, tokenizer.vocab_size, dtype=torch.bool, device=self._device)
        self.forbidden[:, self._special_ids] = self._bans           # the same for every id: (2, V)

    @property
    def busy(self) -> bool:
        return bool(self._running or self._waiting)

    def prompt(self, conversation: dict, params: SamplingParams = SamplingParams()) -> list[int]:
        """Token ids that ask for the next answer, cut (see render_prompt) so that `params.max_tokens`, but no
        more than half of the context, are left for it. ValueError when it is not a conversation."""
        room = min(params.max_tokens or self.context, self.context // 2)
        return render_prompt(self.tokenizer, conversation, self.context - room + 1)

    def submit(self, prompt: Sequence[int], params: SamplingParams = SamplingParams(),
               sample: int = 0) -> Request:
        """Queue one prompt. A seeded request draws the same whoever its neighbours are; `sample` numbers
        several answers to one prompt and seed. ValueError if it is empty or longer than the context."""
        length = len(prompt)
        _require(1 <= length <= self.context, "prompt length", length, f"1 to {self.context} tokens")
        entropy = random.Random() if params.seed is None else random.Random(f"{params.seed}/{sample}")
        # a full context still yields one token
        limit = min(self.context - length + 1, params.max_tokens or self.context)
        request = Request(list(prompt), params, entropy, limit, AnswerDecoder(self.tokenizer))
        self._waiting.append(request)
        return request

    def in_calls(self, ids: Sequence[int]) -> list[int]:
        """For each id of an answer 1 if it was drawn in a tool call, else 0: the row of `forbidden` then."""
        inside, states = 0, []
        for token in ids:
            states.append(inside)
            inside = int(token == self._python_start or (inside and token != self._python_end))
        return states

    def cancel(self, request: Request) -> None:
        """Stop computing a request that nobody wants any more; its slot is free at once."""
        if request.done:
            return
        if request in self._waiting:
            self._waiting.remove(request)
        elif request in self._running:                  # else a step failed while it was joining
            self._leave(self._running.index(request))
        request.finish("cancelled")

    def reset(self) -> None:
        """Forget all requests and the cache, after a step that failed half-way."""
        self._running.clear()
        self._waiting.clear()
        self._cache, self._stale = None, True

    def generate(self, prompts: Sequence[Sequence[int]],
                 params: SamplingParams | Sequence[SamplingParams]) -> list[Request]:
        """Answers in the order of `prompts`. Equal prompts get independent answers, with a seed too."""
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else params
        answers = dict(self.completions(prompts, each))
        return [answers[i] for i in range(len(prompts))]

    def completions(self, prompts: Sequence[Sequence[int]],
                    params: Sequence[SamplingParams]) -> Iterator[tuple[int, Request]]:
        """(index of the prompt, answer) as they are finished. Leaving the loop early cancels the others."""
        seen: Counter = Counter()
        # equal ones side by side, to be prefilled together
        waiting = deque(sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), *prompts[i])))
        running: dict[int, Request] = {}
        try:
            while waiting or running:
                free = self.max_batch - len(running)
                if free >= self.max_batch / 4:          # several join at once, and are prefilled in one pass
                    for i in [waiting.popleft() for _ in range(min(free, len(waiting)))]:
                        key = (params[i].seed, *prompts[i])
                        running[i] = self.submit(prompts[i], params[i], sample=seen[key])
                        seen[key] += 1
                self.step()
                for i in [i for i, request in running.items() if request.done]:
                    yield i, running.pop(i)
        finally:
            for request in running.values():
                self.cancel(request)

    def stream(self, request: Request) -> Iterator[tuple[str, str]]:
        """(type, text) pieces of a submitted request as they come. Leaving the loop early cancels it."""
        try:
            while not request.done:
                self.step()
                yield from request.take()
        finally:
            self.cancel(request)

    @torch.no_grad()
    def step(self) -> None:
        """One more token for every running request, a first one for those that join."""
        ids = [[request.ids[-1]] for request in self._running]
        logits = [self.model.step(torch.tensor(ids, device=self._device), self._cache)] if ids else []
        logits += self._join(self.max_batch - len(self._running))
        if not self._running:
            return
        drawn = self._choose(logits[0] if len(logits) == 1 else torch.cat(logits))
        for row in reversed(range(len(drawn))):         # backwards: a gap is filled by a row already accepted
            self._accept(self._running[row], *drawn[row])
            if self._running[row].done:
                self._leave(row)

    def _join(self, free: int) -> list[Tensor]:
        """Prefill up to `free` waiting requests, equal prompts once -> logits (1, V) of each."""
        joining = [self._waiting.popleft() for _ in range(min(len(self._waiting), free))]
        if joining and self._cache is None:
            self._cache = self._new_cache(self.max_batch, self.context)
        by_length: dict[int, dict[tuple[int, ...], list[Request]]] = {}
        for request in joining:
            by_prompt = by_length.setdefault(len(request.prompt), {})
            by_prompt.setdefault(tuple(request.prompt), []).append(request)
        logits = []
        for length, by_prompt in by_length.items():
            prompts, rows = list(by_prompt), max(1, PREFILL_TOKENS // length)
            for start in range(0, len(prompts), rows):
                chunk = prompts[start:start + rows]
                cache = self._new_cache(len(chunk), length)
                first = self.model.step(torch.tensor(chunk, device=self._device), cache)     # (chunk, V)
                for row, prompt in enumerate(chunk):
                    for request in by_prompt[prompt]:
                        self._cache.insert(len(self._running), cache, row)
                        self._running.append(request)
                        logits.append(first[row:row + 1])
        self._stale |= len(joining) > 0
        return logits

    def _choose(self, logits: Tensor) -> list[tuple[int, float]]:
        """(B, V) -> a token for each row, the forced one where there is one, and its log-probability."""
        if logits.sum().isnan():
            raise FloatingPointError("the model's logits are NaN")
        if self._stale:
            self._regroup()
        logits[:, self._special_ids] = logits[:, self._special_ids].masked_fill(self._banned, -math.inf)
        tokens, logprobs = logits.argmax(-1), logits.new_zeros(len(logits))     # greedy: probability 1
        for draw in self._draws:
            tokens[draw.rows], logprobs[draw.rows] = draw(logits)
        drawn = zip(self._running, *torch.stack((tokens.float(), logprobs)).tolist(), strict=True)
        return [(request.forced[0], 0.0) if request.forced else (int(token), logprob)
                for request, token, logprob in drawn]

    def _regroup(self) -> None:
        """How each row is drawn: valid until a request joins, leaves, or begins or ends a tool call."""
        groups: dict[bool, list[tuple[int, Request]]] = {True: [], False: []}
        for row, request in enumerate(self._running):
            if request.params.temperature >= COLDEST:
                groups[request.params.narrow].append((row, request))
        vocab_size = self.tokenizer.vocab_size
        self._draws = [_Draw(group, vocab_size, self._device) for group in groups.values() if group]
        in_call = [int(request.expression is not None) for request in self._running]
        self._banned = self._bans[in_call]              # (B, specials)
        self._stale = False

    def _accept(self, request: Request, token: int, logprob: float) -> None:
        """Record one token, show what it completes, run the tool, see whether the request is finished."""
        forced = bool(request.forced)
        request.ids.append(token)
        request.sampled.append(not forced)
        request.logprobs.append(logprob)
        if forced:
            request.forced.popleft()
        elif token in self._stops:
            return request.finish("stop")
        elif token == self._python_start:
            request.expression, self._stale = [], True
        elif token == self._python_end:
            result = calculator.evaluate(self.tokenizer.decode(request.expression)) or calculator.INVALID
            request.forced.extend(render_part(self.tokenizer, {"type": "python_output", "text": result}))
            request.expression, self._stale = None, True
        elif request.expression is not None:
            request.expression.append(token)
        request.pieces += request.decoder.push(token)
        if len(request.ids) >= request.limit:
            request.finish("length")

    def _leave(self, row: int) -> None:
        """The last row moves into the gap, so that the rows in use stay the first ones of the cache."""
        last = self._running.pop()
        if row < len(self._running):
            self._running[row] = last
            self._cache.insert(row, self._cache, len(self._running))
        self._cache.reset(len(self._running))
        self._stale = True

    def _new_cache(self, rows: int, length: int) -> KVCache:
        return KVCache(self.model.shape, rows, length, self._device, self.model.dtype)


class _Draw:
    """Rows that are sampled alike: all with top_k or top_p (their candidates are ranked), or all without."""

    def __init__(self, members: list[tuple[int, Request]], vocab_size: int, device: torch.device):
        rows, self.requests = zip(*members, strict=True)
        settings = [request.params for request in self.requests]
        self.rows = torch.tensor(rows, device=device)                       # (n,); what follows is (n, 1)
        self.temperature = torch.tensor([each.temperature for each in settings], device=device)[:, None]
        self.narrow = settings[0].narrow
        if self.narrow:
            widths = [min(each.top_k or vocab_size, vocab_size) for each in settings]
            self.widest = max(widths)
            self.top_k = torch.tensor(widths, device=device)[:, None]
            self.top_p = torch.tensor([each.top_p or 1.0 for each in settings], device=device)[:, None]

    def __call__(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """logits (B, V) -> ids (n,), by inverting the distribution at random numbers, and logprobs (n,)."""
        scaled = logits[self.rows] / self.temperature                       # (n, V)
        if self.narrow:
            scaled, ids = scaled.topk(self.widest)                          # (n, widest)
            rank = torch.arange(self.widest, device=scaled.device)
            scaled = scaled.masked_fill(rank >= self.top_k, -math.inf)
        probs = scaled.softmax(-1)
        if self.narrow:
            kept = probs.cumsum(-1) - probs < self.top_p                    # the one that crosses top_p stays
            kept[:, 0] = True                                               # a tiny top_p may be 0 in fp32
            probs = probs * kept
        # With 24 random bits the product stays below the total in fp32: no token of probability 0 is hit.
        # A GPU sums in blocks, so that in fp32 the sums may fall.
        cdf = probs.cumsum(-1, dtype=torch.float64 if probs.is_cuda else None)
        uniform = [0.0 if request.forced else request.random.getrandbits(24) / (1 << 24)
                   for request in self.requests]
        point = torch.tensor(uniform, device=cdf.device)[:, None] * cdf[:, -1:]
        choice = torch.searchsorted(cdf, point, right=True)                 # (n, 1)
        logprobs = (probs.gather(-1, choice) / cdf[:, -1:]).log().squeeze(-1)
        return (ids.gather(-1, choice) if self.narrow else choice).squeeze(-1), logprobs
