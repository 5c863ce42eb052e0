"""Inference: requests with their own prompt, settings, randomness and tool state share one running batch.

step() is the only loop body: one forward pass over a token of every running request and chunks of the prompts
of those that join, then a draw for each whose prompt is complete. generate() and completions() drive it
for many prompts; terminal and web server call it themselves and take() the pieces. A finished request leaves
at once, so that no time goes into idle rows.

The python tool: what the model writes between <|python_start|> and <|python_end|> goes to the calculator, and
its result is put into the context between <|output_start|> and <|output_end|>, as in training data."""
import math
import random
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from os.path import commonprefix
import torch
from torch import Tensor
from nanochat import calculator, decode
from nanochat.chat import AnswerDecoder, fit_prompt, render_part, visible_text
from nanochat.gpt import GPT
from nanochat.past import KVCache, Rows
from nanochat.sampler import Detail, Draw, Sampler, SamplingParams, measure, read_detail, require
from nanochat.tokenizer import SPECIAL_TOKENS, Tokenizer

PREFILL_TOKENS = 16384                                  # per forward pass: bounds its memory
CHUNK_TOKENS = 512                                      # of prompts, where others wait for their next token
SCORED_TOKENS = 512                                     # whose logits are made at once
WORTH_KEEPING = 16                                      # tokens of a prompt that are copied, not computed
STOPS = ("<|assistant_end|>", "<|bos|>")
NEVER_SAMPLED = ("<|user_start|>", "<|user_end|>", "<|assistant_start|>", "<|output_start|>",
                 "<|output_end|>")

@dataclass(eq=False)
class Request:
    """A prompt and its answer, as far as it got: `ids` and so on with the stop token, `parts` without."""
    prompt: list[int]
    params: SamplingParams
    random: random.Random
    limit: int                                          # tokens that the answer may have at most
    decoder: AnswerDecoder
    ids: list[int] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)   # of each id: drawn by us, not begun or tool output
    in_call: list[bool] = field(default_factory=list)   # of each id: a tool call was being written
    logprobs: list[float] = field(default_factory=list)     # of each id, as it was drawn; 0 where it was not
    details: list[Detail] = field(default_factory=list)     # of ids that we drew or forced, if asked for
    finish_reason: str | None = None                    # in the end "stop", "length" or "cancelled"
    reused: int = 0                                     # tokens of the prompt that an earlier one had left
    pieces: list[tuple[str, str]] = field(default_factory=list)     # what take() will give out
    pending: list[int] = field(default_factory=list)    # tokens that the model has yet to see
    twins: list["Request"] = field(default_factory=list)    # same prompt: they wait for what becomes of it
    expression: list[int] | None = None                 # ids of the tool call that is being written
    call: str = ""                                      # the last one that was

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
    """At most `max_batch` requests run at once; more wait in order of arrival. One thread drives it. Of the
    last `keep` conversations the cache is kept: a prompt that begins as one of them is read from there on."""
    def __init__(self, model: GPT, tokenizer: Tokenizer, max_batch: int = 64, keep: int = 0):
        assert model.shape.vocab_size == tokenizer.vocab_size, (model.shape.vocab_size, tokenizer.vocab_size)
        self.tokenizer, self.max_batch, self.context = tokenizer, max_batch, model.shape.sequence_len
        self.model, self._device, self._keep = model, model.device, keep
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []               # in the order of the cache's rows
        self._kept: dict[tuple[int, ...], KVCache] = {}         # the latest used last
        self._cache: KVCache | None = None
        self._weights: GPT | None = None                # the model as it is drawn from, and when it was made
        self._versions: list[int] = []
        self._sampler: Sampler | None = None
        self._drawing: list[tuple[int, bool]] = []      # for whom it was made, and who was in a tool call
        special = tokenizer.special
        self._stops = {special(name) for name in STOPS}
        self._python_start, self._python_end = special("<|python_start|>"), special("<|python_end|>")
        self._special_ids = torch.tensor([special(name) for name in SPECIAL_TOKENS], device=self._device)
        self.forbidden = torch.zeros(2, tokenizer.vocab_size, dtype=torch.bool, device=self._device)
        for bans, marker in zip(self.forbidden, ("<|python_end|>", "<|python_start|>"), strict=True):
            bans[[special(name) for name in (*NEVER_SAMPLED, marker)]] = True   # outside, in a tool call

    @property
    def busy(self) -> bool:
        return bool(self._running or self._waiting)

    def fit(self, conversation: dict, params: SamplingParams = SamplingParams(),
            is_base: bool = False) -> tuple[list[int], int]:
        """Token ids that ask for the next answer, cut (see fit_prompt) so that `params.max_tokens`, but no
        more than half of the context, are left for it; and how many old turns were left out for that. A base
        model knows no conversation, it continues the last message. ValueError when it is none."""
        room = min(params.max_tokens or self.context, self.context // 2)
        if not is_base:
            return fit_prompt(self.tokenizer, conversation, self.context - room + 1)
        *before, last = conversation["messages"]
        ids = self.tokenizer.encode(visible_text(last["content"]))
        return [self.tokenizer.bos, *ids[room - self.context:]], len(before) // 2

    def prompt(self, conversation: dict, params: SamplingParams = SamplingParams()) -> list[int]:
        """The ids of fit()."""
        return self.fit(conversation, params)[0]

    def submit(self, prompt: Sequence[int], params: SamplingParams = SamplingParams(), sample: int = 0,
               begun: Sequence[int] = ()) -> Request:
        """Queue one prompt. A seeded request draws the same whoever its neighbours are; `sample` numbers
        several answers to one prompt and seed. `begun`: ids that the answer begins with; max_tokens counts
        those after them. ValueError if prompt and beginning are empty or longer than the context."""
        length = len(prompt) + len(begun)
        fits = 1 <= len(prompt) and length <= self.context
        require(fits, "prompt length", length, f"1 to {self.context} tokens")
        for token in begun:
            can_go_on = 0 <= token < self.tokenizer.vocab_size and token not in self._stops
            require(can_go_on, "an id of the answer", token, "one that it can go on from")
        entropy = random.Random() if params.seed is None else random.Random(f"{params.seed}/{sample}")
        # a full context still yields one token
        limit = len(begun) + min(self.context - length + 1, params.max_tokens or self.context)
        request = Request(list(prompt), params, entropy, limit, AnswerDecoder(self.tokenizer, params.stop),
                          pending=list(prompt))
        for token in begun:
            self._push(request, token)
        if self._python_end in request.ids:             # a call whose output is not, or half, there
            last = len(begun) - 1 - request.ids[::-1].index(self._python_end)
            self._answer_call(request, request.ids[last + 1:])
        self._waiting.append(request)
        return request

    def cancel(self, request: Request) -> None:
        """Stop computing a request that nobody wants any more; its slot is free at once."""
        if request.done:
            return
        for queue in (self._waiting, *(each.twins for each in self._running)):
            if request in queue:
                queue.remove(request)
        if request in self._running:                    # else a step may have failed while it was joining
            self._leave(self._running.index(request))
        self._waiting.extendleft(reversed(request.twins))
        request.finish("cancelled")

    def reset(self) -> None:
        """Forget all requests, the cache and the weights in use: after a step that failed half-way, or to
        have the memory back while the model is trained."""
        self._running.clear()
        self._waiting.clear()
        self._kept.clear()
        self._cache, self._weights, self._drawing = None, None, []

    def generate(self, prompts: Sequence[Sequence[int]],
                 params: SamplingParams | Sequence[SamplingParams]) -> list[Request]:
        """Answers in the order of `prompts`. Equal prompts get independent answers, with a seed too."""
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else params
        return [answer for _, answer in sorted(self.completions(prompts, each))]

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

    @torch.no_grad()
    def score(self, ids: Sequence[int], top: int = 0) -> list[Detail]:
        """What the model thinks of each token of a text but the first. ValueError if it is too long,
        FloatingPointError where the logits are NaN."""
        require(1 <= len(ids) <= self.context, "length", len(ids), f"1 to {self.context} tokens")
        if not self._running:
            self._refresh()
        idx, found = torch.tensor([ids], device=self._device), []
        states = self._weights.trunk(idx, Rows())[0, :-1]
        for some, came in zip(states.split(SCORED_TOKENS), idx[0, 1:].split(SCORED_TOKENS), strict=True):
            numbers = measure(self._weights.logits(some), came, top).tolist()
            found += [read_detail(row, top) for row in numbers]
        if any(math.isnan(detail.logprob) for detail in found):
            raise FloatingPointError("the model's logits are NaN")
        return found

    def step(self) -> None:
        """One more token for every running request; those that join read their prompt first, in chunks."""
        self._join()
        if not self._running:
            return
        budget, tokens = self._budget(), []
        for request in self._running:
            count = max(1, min(len(request.pending), budget))
            budget -= count if count > 1 else 0
            tokens.append(request.pending[:count])
            del request.pending[:count]
        z = self._weights.step(tokens, self._cache)
        rows = [row for row, request in enumerate(self._running) if not request.pending]
        for row in list(rows):
            for twin in self._running[row].twins:       # goes on from a copy of what was read
                twin.pending.clear()
                self._cache.insert(len(self._running), self._cache, row)
                self._running.append(twin)
                rows.append(row)
            self._running[row].twins = []
        drawing = [request for request in self._running if not request.pending]
        if not drawing:
            return
        z = z if len(rows) == len(z) else z[rows]
        for request, draw in zip(drawing, self._draw(drawing, z), strict=True):
            self._accept(request, draw)
        for row in reversed(range(len(self._running))):     # backwards: a gap is filled by one that stays
            if self._running[row].done:
                self._leave(row)

    def _budget(self) -> int:
        """Tokens of prompts that a forward pass may read: few where others wait for their next token."""
        return CHUNK_TOKENS if any(request.ids for request in self._running) else PREFILL_TOKENS

    def _join(self) -> None:
        """Give waiting requests a row, as far as there are rows and a pass may read their prompts."""
        if not self._waiting:
            return
        if not self._running:
            self._refresh()
        if self._cache is None:
            self._cache = self._new_cache(self.max_batch, self.context)
        if self._weights.kernel is None:
            self._weights.kernel = decode.make(self._weights, self._cache)
        reading = {tuple(each.prompt): each for each in self._running if each.pending and not each.ids}
        taken = len(self._running) + sum(len(each.twins) for each in self._running)
        budget = self._budget() - sum(len(each.pending) for each in self._running if len(each.pending) > 1)
        while self._waiting and taken < self.max_batch and budget > 0:
            request, taken = self._waiting.popleft(), taken + 1
            leader = None if request.ids else reading.setdefault(tuple(request.prompt), request)
            if leader not in (None, request):
                leader.twins.append(request)
                continue
            self._cache.reset(len(self._running))
            self._running.append(request)
            self._reuse(request, len(self._running) - 1)
            budget -= len(request.pending)

    def _reuse(self, request: Request, row: int) -> None:
        """Begin a row with what is kept of the conversation that its prompt has most in common with."""
        found, most, prompt = None, WORTH_KEEPING - 1, tuple(request.pending[:-1])
        for tokens, cache in self._kept.items():
            shared = len(commonprefix((tokens, prompt)))
            if shared > most and cache.can_cut(0, shared):
                found, most = tokens, shared
        if found is None:
            return
        last = torch.tensor([found[most - 1]], device=self._device)
        self._cache.insert(row, self._kept[found], 0, most, self._weights.embed(last)[0])
        request.reused = most
        del request.pending[:most]
        if most == len(found):                          # it goes on; otherwise another may begin like it
            del self._kept[found]

    def _draw(self, drawing: list[Request], z: Tensor) -> list[Draw]:
        """z (R, V) -> a token for each of R requests."""
        key = [(id(request), request.expression is not None) for request in drawing]
        if key != self._drawing:
            banned = self.forbidden[:, self._special_ids][[int(in_call) for _, in_call in key]]
            self._sampler = Sampler(drawing, self._special_ids, banned, self.model.cap, z.size(1))
            self._drawing = key
        return self._sampler(z)

    def _accept(self, request: Request, draw: Draw) -> None:
        """Record a drawn token, answer the tool call that it ends, see whether the request is finished."""
        self._push(request, draw.id, draw.logprob)
        if draw.id in self._stops:
            return request.finish("stop")
        if draw.detail:
            request.details.append(draw.detail)
        if draw.id == self._python_end:
            self._answer_call(request)
        if request.decoder.stopped:
            request.finish("stop")
        elif len(request.ids) >= request.limit:
            request.finish("length")

    def _push(self, request: Request, token: int, logprob: float | None = None) -> None:
        """A token of the answer, drawn with `logprob` or forced: to be seen by the model, and shown."""
        request.ids.append(token)
        request.sampled.append(logprob is not None)
        request.logprobs.append(logprob or 0.0)
        request.in_call.append(request.expression is not None)
        if token in self._stops:
            return
        request.pending.append(token)
        if token == self._python_start:
            request.expression = []
        elif token == self._python_end:
            request.call, request.expression = self.tokenizer.decode(request.expression or []), None
        elif request.expression is not None:
            request.expression.append(token)
        request.pieces += request.decoder.push(token)

    def _answer_call(self, request: Request, there: Sequence[int] = ()) -> None:
        """Put the value of the last call behind it, as far as there is room, but for what is `there`."""
        value = calculator.evaluate(request.call) or calculator.INVALID
        ids = render_part(self.tokenizer, {"type": "python_output", "text": value})
        missing = ids[len(there):] if ids[:len(there)] == list(there) else []
        for token in missing[:request.limit - len(request.ids)]:
            self._push(request, token)
            if request.params.top_logprobs is not None:
                request.details.append(Detail(token, 0.0, 0.0, []))

    def _leave(self, row: int) -> None:
        """The last row moves into the gap, so that the rows in use stay the first ones of the cache."""
        request, last, length = self._running[row], self._running.pop(), self._cache.lengths[row]
        if self._keep and length >= WORTH_KEEPING:
            tokens = tuple((request.prompt + request.ids)[:length])
            self._kept.pop(tokens, None)
            self._kept[tokens] = self._new_cache(1, length)
            self._kept[tokens].insert(0, self._cache, row)
            if len(self._kept) > self._keep:
                del self._kept[next(iter(self._kept))]
        if row < len(self._running):
            self._running[row] = last
            self._cache.insert(row, self._cache, len(self._running))

    def _refresh(self) -> None:
        """Make the weights to draw with, unless those of the last time are still the model's."""
        versions = [each._version for each in self.model.parameters()]
        if self._weights is None or versions != self._versions:
            self._weights, self._versions = self.model.for_inference(), versions
            self._kept.clear()

    def _new_cache(self, rows: int, length: int) -> KVCache:
        return KVCache(self.model.shape, rows, length, self._device, self.model.dtype)
