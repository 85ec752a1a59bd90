"""What a call will probably use, learned from what calls did use.

Law: nothing worst-case. A prompt is its bytes times the tokens a byte that this key's prompts to this model had, and
for each image, sound or file the tokens that one of theirs had, whatever its bytes; at least one token for each of
several inputs. An output is a high quantile of what this key got from this model, capped by the caller's own bound, for
each choice of each prompt. What only counts tokens uses none. Memory is bounded: the keys heard of least recently are
forgotten first.
"""

import math
from collections import OrderedDict

from policies.apis import APIS
from policies.domain import Estimate, InferenceRequest

TOKENS_PER_BYTE = 0.25
"""Prior of prompt tokens a byte of JSON (arXiv 2604.09613 learns the same quantity)."""
LEAST_PER_BYTE, MOST_PER_BYTE = 0.05, 1.0
"""What a sample may say of tokens a byte: what lies outside is no text."""
PRIOR_BYTES, MEMORY_BYTES = 4_000, 40_000
"""Bytes of prompt that the prior counts for, and over which a density is remembered."""
MOST_PER_EVENT = 16.0
"""Tokens that an engine may put into one event."""
TOKENS_PER_MEDIUM = 1000
"""Prior of prompt tokens an image, a sound or a file: an image of about a megapixel, by most models' patches."""
LEAST_PER_MEDIUM, MOST_PER_MEDIUM = 16, 16_384
"""What a sample may say of tokens a medium."""
LONGEST_OUTPUT = 16_384
"""Output tokens that an answer without a bound may well have."""
OUTPUT_MEAN = 350.0
OUTPUT_HIGH = 1000.0
"""Priors of output tokens: mean of the Mooncake conversation trace, and about its 98th percentile."""
QUANTILE = 0.9
"""The share of calls whose output the reservation should cover without growing."""
MEMORY = 10_000
"""(key, model) pairs that are remembered."""

NOTHING = Estimate(0, 0, 0, 0)
"""What a call of an API that charges nothing uses."""

_RATE = 0.05
_STEP = 0.2
_EAGERNESS = 4.0


class _Pair:
    """What one key got from one model: the mean and a running quantile of output tokens a choice, and its densities."""

    __slots__ = ("_bytes", "_calls", "_tokens", "high", "mean", "per_event", "per_medium")

    def __init__(self) -> None:
        self._calls = 0
        self._bytes = float(PRIOR_BYTES)
        self._tokens = PRIOR_BYTES * TOKENS_PER_BYTE
        self.per_event = 1.0
        self.per_medium = float(TOKENS_PER_MEDIUM)
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

    @property
    def per_byte(self) -> float:
        """Prompt tokens a byte, within what text can have."""
        return min(MOST_PER_BYTE, max(LEAST_PER_BYTE, self._tokens / self._bytes))

    def learn_density(self, prompt_tokens: int, text_bytes: int) -> None:
        """Take in a prompt; each counts by its size, since of a short one most is the chat template's."""
        tokens = min(prompt_tokens, text_bytes * MOST_PER_BYTE)
        kept = min(1.0, max(0.0, MEMORY_BYTES - text_bytes) / self._bytes)
        self._tokens = self._tokens * kept + tokens
        self._bytes = self._bytes * kept + text_bytes

    def learn_media(self, prompt_tokens: int, text_bytes: int, media: int) -> None:
        """Take in a prompt with media; it counts by their share, since the rest is text of roughly known density."""
        text = text_bytes * self.per_byte
        sample = min(MOST_PER_MEDIUM, max(LEAST_PER_MEDIUM, (prompt_tokens - text) / media))
        share = media * self.per_medium / (text + media * self.per_medium)
        self.per_medium += _STEP * share * (sample - self.per_medium)

    def learn_events(self, completion_tokens: int, events: int) -> None:
        """Take in the tokens an event of a whole stream."""
        sample = min(MOST_PER_EVENT, max(1.0, completion_tokens / events))
        self.per_event += _RATE * (sample - self.per_event)


class Estimates:
    """The learned figures of one gateway, by key and model: what one caller does teaches nothing of another."""

    def __init__(self) -> None:
        self._pairs: OrderedDict[tuple[str, str], _Pair] = OrderedDict()

    def of(self, key: str, request: InferenceRequest) -> Estimate:
        """Return what `request` by `key` will probably use; output counts over all of its choices."""
        return _estimate(self._pair(key, request.model), request) if APIS[request.api].charged else NOTHING

    def peek(self, key: str, request: InferenceRequest) -> Estimate:
        """Return what `of` would, and remember nothing: neither that the key was heard of, nor that just now."""
        pair = self._pairs.get((key, request.model)) or _Pair()
        return _estimate(pair, request) if APIS[request.api].charged else NOTHING

    def counted_output(self, key: str, request: InferenceRequest, events: int, answer_bytes: int) -> int:
        """Return the output tokens of an answer that told none: what it showed, never less than one an event."""
        if not APIS[request.api].generates:
            return 0
        if not events:
            return round(answer_bytes * TOKENS_PER_BYTE)
        return max(events, round(events * self._pair(key, request.model).per_event))

    def events_within(self, key: str, request: InferenceRequest, tokens: int) -> int:
        """Return the content events after which an answer has probably more than so many output tokens."""
        return int(tokens / self._pair(key, request.model).per_event) + 1

    def learn(self, key: str, request: InferenceRequest, prompt: int, completion: int, events: int) -> None:
        """Take in what a call was told it used; `events` is 0 for a plain answer."""
        pair = self._pair(key, request.model)
        if request.media and prompt:
            pair.learn_media(prompt, request.text_bytes, request.media)
        elif request.text_bytes and prompt:
            pair.learn_density(prompt, request.text_bytes)
        if events and completion:
            pair.learn_events(completion, events)
        if APIS[request.api].generates:
            pair.learn(completion // request.choices)

    def _pair(self, key: str, model: str) -> _Pair:
        pair = self._pairs.get((key, model))
        if pair is None:
            pair = self._pairs[key, model] = _Pair()
            if len(self._pairs) > MEMORY:
                self._pairs.popitem(last=False)
        self._pairs.move_to_end((key, model))
        return pair


def _estimate(pair: _Pair, request: InferenceRequest) -> Estimate:
    inputs = 1 if APIS[request.api].generates else request.choices
    prompt_tokens = round(request.text_bytes * pair.per_byte + request.media * pair.per_medium)
    return Estimate(
        prompt_tokens=max(inputs, prompt_tokens),
        output_tokens=_bounded(request, pair.mean),
        reserved_output=_bounded(request, pair.high),
        longest_output=_bounded(request, request.max_tokens or LONGEST_OUTPUT),
    )


def _bounded(request: InferenceRequest, tokens: float) -> int:
    if not APIS[request.api].generates:
        return 0
    capped = tokens if request.max_tokens is None else min(tokens, request.max_tokens)
    return max(1, round(capped)) * request.choices
