"""One streamed answer that several deployments make, each going on from where the one before broke off.

Law: what is sent is kept, so that the next can be asked to go on from it; an upstream's own words about its failure are
not sent, since the answer may yet become whole. Whoever called pays for the prompt once and for all of the output; that
the prompt was read again is the operator's cost.
"""

from policies.continuation import Seam, Transcript, continued, without_errors
from policies.dialects import Dialect
from policies.domain import Deployment, InferenceRequest, Usage
from policies.failures import Failure
from policies.parts import Part


class Continuing:
    """The parts of one answer so far. `parts`: what each broken one used; `last`: who made the last of them."""

    def __init__(self, request: InferenceRequest) -> None:
        self.parts: list[Part] = []
        self.last: Deployment | None = None
        self._request = request
        self._transcript = Transcript()
        self._seam: Seam | None = None

    @property
    def output_tokens(self) -> int:
        """Output tokens of the parts so far."""
        return sum(part.usage.completion_tokens for part in self.parts)

    def asks(self, dialect: Dialect) -> InferenceRequest:
        """Return what the next deployment is asked, and be ready to join its answer."""
        if not self.parts:
            return self._request
        text, prefill = self._transcript.text, dialect.prefill
        # llama.cpp repeats what it goes on from in a plain answer alone, never in a stream.
        self._seam = Seam(text, self.output_tokens, exact=prefill is not None or self._request.api == "completions")
        return continued(self._request, text, self.output_tokens, prefill)

    def passes(self, events: bytes) -> bytes:
        """Return what of `events` the caller is sent. Raises policies.continuation.SeamError."""
        events = without_errors(events)
        if self._seam is not None:
            events = self._seam.mend(events)
        self._transcript.take(events)
        return events

    def goes_on(self, failure: Failure) -> bool:
        """Say whether the answer can still become whole after `failure`."""
        return failure.meaning.elsewhere and self._transcript.whole

    @property
    def unseen(self) -> bool:
        """Whether the caller has seen nothing of the part under way."""
        return self._seam is not None and self._seam.open

    def broke(self, deployment: Deployment, usage: Usage) -> None:
        """Keep what a broken part used."""
        self.parts.append(Part(deployment.price, usage))
        self.last = deployment
