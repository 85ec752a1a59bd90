"""What a call will probably use, learned from what calls did use.

Law: nothing worst-case. A prompt is its bytes times the tokens a byte that this model's prompts had; an output is a
high quantile of what this key got from this model, capped by the caller's own bound. Memory is bounded: the keys heard
of least recently are forgotten first.
"""

import math
from collections import OrderedDict

from policies.domain import Estimate, InferenceRequest

TOKENS_PER_BYTE = 0.25
"""Prior of prompt tokens a byte of JSON (arXiv 2604.09613 learns the same quantity)."""
LEAST_PER_BYTE, MOST_PER_BYTE = 0.05, 1.0
"""What a sample may say of tokens a byte: what lies outside is no text, and one caller must not teach it to all."""
TOKENS_PER_MEDIUM = 1000
"""Prior of prompt tokens an image, a sound or a file."""
LONGEST_OUTPUT = 16_384
"""Output tokens that an answer without a bound may well have."""
OUTPUT_MEAN = 350.0
OUTPUT_HIGH = 1000.0
"""Priors of output tokens: mean of the Mooncake conversation trace, and about its 98th percentile."""
QUANTILE = 0.9
"""The share of calls whose output the reservation should cover without growing."""
MEMORY = 10_000
"""(key, model) pairs that are remembered."""

_RATE = 0.05
_STEP = 0.2
_EAGERNESS = 4.0


class _Pair:
    """What one key got from one model: the mean and a running quantile of output tokens a choice."""

    __slots__ = ("_calls", "high", "mean")

    def __init__(self) -> None:
        self._calls = 0
        self.mean = OUTPUT_MEAN
        self.high = OUTPUT_HIGH

    def learn(self, tokens: int) -> None:
        self.mean += _RATE * (tokens - self.mean)
        # Robbins-Monro on the logarithm: up by step*q when exceeded, down by step*(1-q) otherwise, so that in the
        # long run a share q of the calls stays below; the first steps are larger, so that the prior is soon left.
        self._calls += 1
        step = min(1.0, _STEP + _EAGERNESS / self._calls)
        up = tokens > self.high
        self.high = max(1.0, self.high * math.exp(step * (QUANTILE if up else QUANTILE - 1.0)))


class Estimates:
    """The learned figures of one gateway."""

    def __init__(self) -> None:
        self._pairs: OrderedDict[tuple[str, str], _Pair] = OrderedDict()
        self._per_byte: OrderedDict[str, float] = OrderedDict()
        self._per_event: OrderedDict[str, float] = OrderedDict()

    def of(self, key: str, request: InferenceRequest) -> Estimate:
        """Return what `request` by `key` will probably use; output counts over all of its choices."""
        per_byte = self._per_byte.get(request.model, TOKENS_PER_BYTE)
        pair = self._pair(key, request.model)
        return Estimate(
            prompt_tokens=max(1, round(request.text_bytes * per_byte) + request.media * TOKENS_PER_MEDIUM),
            output_tokens=_bounded(request, pair.mean),
            reserved_output=_bounded(request, pair.high),
            longest_output=_bounded(request, request.max_tokens or LONGEST_OUTPUT),
        )

    def counted_output(self, request: InferenceRequest, events: int, answer_bytes: int) -> int:
        """Return the output tokens of an answer that told none: what it showed, never less than one an event."""
        if request.api == "embeddings":
            return 0
        if not events:
            return round(answer_bytes * TOKENS_PER_BYTE)
        return max(events, round(events * self._per_event.get(request.model, 1.0)))

    def learn(self, key: str, request: InferenceRequest, prompt: int, completion: int, events: int) -> None:
        """Take in what a call was told it used; `events` is 0 for a plain answer."""
        if request.text_bytes and prompt and not request.media:
            per_byte = min(MOST_PER_BYTE, max(LEAST_PER_BYTE, prompt / request.text_bytes))
            _blend(self._per_byte, request.model, TOKENS_PER_BYTE, per_byte)
        if events and completion:
            _blend(self._per_event, request.model, 1.0, completion / events)
        if request.api != "embeddings":
            self._pair(key, request.model).learn(completion // request.choices)

    def _pair(self, key: str, model: str) -> _Pair:
        pair = self._pairs.get((key, model))
        if pair is None:
            pair = self._pairs[key, model] = _Pair()
            if len(self._pairs) > MEMORY:
                self._pairs.popitem(last=False)
        self._pairs.move_to_end((key, model))
        return pair


def _bounded(request: InferenceRequest, tokens: float) -> int:
    if request.api == "embeddings":
        return 0
    capped = tokens if request.max_tokens is None else min(tokens, request.max_tokens)
    return max(1, round(capped)) * request.choices


def _blend(learned: OrderedDict[str, float], model: str, prior: float, sample: float) -> None:
    """Move the figure of `model` towards `sample`; the first sample counts for half, so that a prior is soon left."""
    old = learned.get(model)
    learned[model] = (prior + sample) / 2 if old is None else old + _RATE * (sample - old)
    learned.move_to_end(model)
    if len(learned) > MEMORY:
        learned.popitem(last=False)
