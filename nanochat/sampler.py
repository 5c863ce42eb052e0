"""How tokens are drawn: the settings of a request, and the draw for all running requests at once.

Rows that are drawn alike are worked on together, and those that need little cost little: the likeliest tokens
are found before the softcap, which keeps their order, and only they are capped. What a request draws depends
on its own seed and logits, never on its neighbours. Used by engine.py."""
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import NamedTuple
import torch
from torch import Tensor

# R rows, n rows that are drawn alike, V vocabulary, k candidates; z logits before the softcap

COLDEST = 1e-4                                          # lower temperatures are greedy: logits would overflow

def require(ok: bool, name: str, value: object, rule: str) -> None:
    """ValueError that names the value and the rule, where it is not kept."""
    if not ok:
        raise ValueError(f"{name} is {value}, must be {rule}")

def _setting(default: object, what: str, low: float = -math.inf, high: float = math.inf):
    """A field of SamplingParams: what it does, as chat_cli.py tells it, and its range."""
    return field(default=default, metadata={"what": what, "low": low, "high": high})

@dataclass(frozen=True)
class SamplingParams:
    """How to draw tokens; None is without. ValueError where a value is out of its range."""
    temperature: float = _setting(1.0, "0 is always the likeliest token", 0, 100)
    top_k: int | None = _setting(None, "only among the k likeliest tokens", 1)
    top_p: float | None = _setting(None, "only among the likeliest that sum to this probability", 0, 1)
    max_tokens: int | None = _setting(None, "of the longest answer, tool output included", 1)
    seed: int | None = _setting(None, "the same answer every time")
    min_p: float | None = _setting(None, "only tokens at least this share as likely as the likeliest", 0, 1)
    repetition_penalty: float = _setting(1.0, "above 1, tokens that were seen are less likely", 0.01, 100)
    frequency_penalty: float = _setting(0.0, "for each time that a token was answered already", -2, 2)
    presence_penalty: float = _setting(0.0, "once for a token that was answered already", -2, 2)
    stop: tuple[str, ...] = _setting((), "a text that ends the answer, up to four")
    top_logprobs: int | None = _setting(None, "alternatives told for each token (Request.details)", 0, 20)

    def __post_init__(self):
        for each in fields(self):
            value, low, high = getattr(self, each.name), each.metadata["low"], each.metadata["high"]
            if isinstance(value, int | float):
                rule = f"{low} to {high}" if high < math.inf else f"at least {low}"
                require(low <= value <= high, each.name, value, rule)
        require(len(self.stop) <= 4 and all(self.stop), "stop", self.stop, "up to 4 texts, none empty")

    @property
    def penalised(self) -> bool:
        return (self.repetition_penalty, self.frequency_penalty, self.presence_penalty) != (1, 0, 0)

    @property
    def way(self) -> str:
        """How a token is found: the "likeliest", by its rank among "ranked" ones, or drawn from "all"."""
        if self.temperature < COLDEST:
            return "likeliest"
        return "all" if (self.top_k, self.top_p, self.min_p) == (None, None, None) else "ranked"

class Detail(NamedTuple):
    """What the model thought of a token that came, by its own distribution, before any setting; in nats."""
    id: int
    logprob: float
    entropy: float
    top: list[tuple[int, float]]                        # (id, logprob) of the likeliest

class Draw(NamedTuple):
    """A token, its log-probability in what it was drawn from, and its detail where that is wanted."""
    id: int
    logprob: float
    detail: Detail | None

def measure(logits: Tensor, ids: Tensor, top: int) -> Tensor:
    """logits (n, V) fp32, ids (n,) that came -> (n, 3 + 2 top): what read_detail() reads, as numbers."""
    logprobs = logits.log_softmax(-1)
    entropy = torch.special.entr(logprobs.exp()).sum(-1)
    chosen = logprobs.gather(-1, ids[:, None]).squeeze(-1)
    best, best_ids = logprobs.topk(min(top, logits.size(-1)))
    return torch.cat((torch.stack((ids, chosen, entropy), dim=1), best_ids, best), dim=1)   # ids < 2 ** 24

def read_detail(numbers: list[float], top: int) -> Detail:
    token, logprob, entropy, *best = numbers
    half = len(best) // 2
    return Detail(int(token), logprob, entropy,
                  [(int(id), value) for id, value in zip(best[:half], best[half:], strict=True)][:top])

class Sampler:
    """Draws a token for each of R requests (engine.py has them), until one joins, leaves, or may draw other
    specials. banned (R, specials): which of the ids `specials` each must not draw. cap: z -> logits."""
    def __init__(self, requests: Sequence, specials: Tensor, banned: Tensor,
                 cap: Callable[[Tensor], Tensor], vocab_size: int):
        self._requests, self._cap = requests, cap
        alike: dict[tuple[str, bool], list[int]] = {}
        for row, request in enumerate(requests):
            alike.setdefault((request.params.way, request.params.penalised), []).append(row)
        self._groups = [_Group(rows, requests, specials, banned, cap, vocab_size) for rows in alike.values()]
        self._detailed = [row for row, each in enumerate(requests) if each.params.top_logprobs is not None]
        self._alternatives = max((requests[row].params.top_logprobs for row in self._detailed), default=0)

    def __call__(self, z: Tensor) -> list[Draw]:
        """z (R, V), before the softcap; changed in place. FloatingPointError where it is NaN."""
        logits = self._cap(z[self._detailed]) if self._detailed else None       # before anything is banned
        drawn = torch.empty(2, len(z), device=z.device)
        for group in self._groups:
            ids, logprobs = group(z)
            drawn[0, group.rows], drawn[1, group.rows] = ids.float(), logprobs
        if logits is None:
            numbers, found = drawn.tolist(), {}
        else:
            came = measure(logits, drawn[0, self._detailed].long(), self._alternatives)
            flat = torch.cat((drawn.flatten(), came.flatten())).tolist()        # the one wait of a step
            numbers, wide = (flat[:len(z)], flat[len(z):2 * len(z)]), came.size(1)
            found = {row: read_detail(flat[at:at + wide], self._requests[row].params.top_logprobs)
                     for row, at in zip(self._detailed, range(2 * len(z), len(flat), wide), strict=True)}
        if not all(map(math.isfinite, numbers[1])):
            raise FloatingPointError("the model's logits are NaN")
        return [Draw(int(id), logprob, found.get(row))
                for row, (id, logprob) in enumerate(zip(*numbers, strict=True))]

class _Group:
    """Rows that are found in the same way, with penalties or without."""
    def __init__(self, rows: list[int], requests: Sequence, specials: Tensor, banned: Tensor,
                 cap: Callable[[Tensor], Tensor], vocab_size: int):
        self._requests, self._cap, device = [requests[row] for row in rows], cap, specials.device
        self.rows = slice(None) if len(rows) == len(requests) else torch.tensor(rows, device=device)
        self._specials, self._banned = specials, banned[self.rows]
        settings = [request.params for request in self._requests]
        self._way, self._penalised = settings[0].way, settings[0].penalised
        def column(values: list) -> Tensor:
            return torch.tensor(values, device=device)[:, None]                 # (n, 1)
        self._temperature = column([each.temperature for each in settings])
        widths = [min(each.top_k or vocab_size, vocab_size) for each in settings]
        self._widest = max(widths)
        self._top_k = column(widths) if min(widths) < self._widest else None
        self._by_share = any((each.top_p, each.min_p) != (None, None) for each in settings)
        self._top_p = column([math.inf if each.top_p is None else each.top_p for each in settings])
        self._min_p = column([each.min_p or 0.0 for each in settings])

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z (R, V) -> ids (n,), by inverting the distribution at random numbers, and logprobs (n,)."""
        scores, is_capped = z[self.rows], self._way == "all" or self._penalised
        if is_capped:
            scores = self._cap(scores)
        if self._penalised:
            self._penalise(scores)
        scores[:, self._specials] = scores[:, self._specials].masked_fill(self._banned, -math.inf)
        if self._way == "likeliest":
            best, ids = scores.max(-1)
            return ids, best.float() * 0                                        # probability 1, NaN stays
        if self._way == "ranked":
            scores, candidates = scores.topk(self._widest)                      # (n, k)
        if not is_capped:
            scores = self._cap(scores).masked_fill(scores == -math.inf, -math.inf)
        scaled = scores / self._temperature
        if self._way == "ranked":
            scaled = self._narrow(scaled)
        probs = scaled.softmax(-1)
        # With 24 random bits the product stays below the total in fp32: no token of probability 0 is hit.
        # A GPU sums in blocks, so that in fp32 the sums may fall.
        cdf = probs.cumsum(-1, dtype=torch.float64 if probs.is_cuda else None)
        uniform = [request.random.getrandbits(24) / (1 << 24) for request in self._requests]
        point = torch.tensor(uniform, device=cdf.device)[:, None] * cdf[:, -1:]
        choice = torch.searchsorted(cdf, point, right=True)                     # (n, 1)
        logprobs = (probs.gather(-1, choice) / cdf[:, -1:]).log().squeeze(-1)
        return (candidates.gather(-1, choice) if self._way == "ranked" else choice).squeeze(-1), logprobs

    def _narrow(self, scaled: Tensor) -> Tensor:
        """Candidates (n, k), the likeliest first: -inf for those that top_k, top_p or min_p leave out."""
        if self._top_k is not None:
            rank = torch.arange(self._widest, device=scaled.device)
            scaled = scaled.masked_fill(rank >= self._top_k, -math.inf)
        if self._by_share:
            probs = scaled.softmax(-1)
            before = probs.cumsum(-1) - probs                           # the one that crosses it stays
            out = (before >= self._top_p) | (probs < self._min_p * probs[:, :1])
            out[:, 0] = False                                                   # also where top_p is 0
            scaled = scaled.masked_fill(out, -math.inf)
        return scaled

    def _penalise(self, logits: Tensor) -> None:
        """For what was there already: in prompt or answer (repetition, as CTRL has it, arXiv 1909.05858), in
        the answer (the other two)."""
        for row, request in zip(logits, self._requests, strict=True):
            params, counts = request.params, Counter(request.ids)
            if params.repetition_penalty != 1:
                seen = torch.tensor(list({*request.prompt, *counts}), device=row.device)
                was = row[seen]
                factor = params.repetition_penalty
                row[seen] = torch.where(was > 0, was / factor, was * factor)
            if counts:
                seen = torch.tensor(list(counts), device=row.device)
                times = torch.tensor(list(counts.values()), device=row.device)
                row[seen] -= params.frequency_penalty * times + params.presence_penalty
