"""The one door to Prometheus: what is counted, under which names.

Law: a label's values are a closed set (configured names and the enums of `policies`), never what a caller typed; so the
number of series is bounded by the configuration.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

Metric = TypeVar("Metric", Counter, Gauge, Histogram)

_OVERHEAD = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024)
_SECONDS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8)


class Metrics:
    """Every series of one gateway, in a registry of its own.

    A metric with labels is a function of their values that returns the series. Each is looked up once: the client's own
    `labels` costs 2 us, and a call needs six.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = _labelled(registry, Counter, "requests", "Calls answered, by status.", "api model status")
        self.rejections = _labelled(
            registry,
            Counter,
            "rejections",
            "Calls refused by the gateway; level and meter where a limit refused.",
            "reason level meter",
        )
        self.attempts = _labelled(
            registry, Counter, "attempts", "Attempts on deployments, by outcome.", "backend outcome"
        )
        self.tokens = _labelled(
            registry,
            Counter,
            "tokens",
            "Tokens booked; source says whether the upstream told them or they were counted here.",
            "model direction source",
        )
        self.cost = _labelled(registry, Counter, "cost_usd", "US dollars booked to callers.", "model")
        self.shadow_refusals = _labelled(
            registry, Counter, "shadow_refusals", "Calls that a meter which does not enforce let pass.", "level meter"
        )
        self.growths = _labelled(
            registry, Counter, "growths", "Reservations that a running call asked to grow, by outcome.", "outcome"
        )
        self.in_flight = _labelled(registry, Gauge, "in_flight", "Attempts under way, by backend.", "backend")
        self.cut = _labelled(
            registry, Counter, "streams_cut", "Answers that broke off after their head was sent, by cause.", "cause"
        )
        self.connections_refused = _labelled(
            registry, Counter, "connections_refused", "Connections not taken, by reason.", "reason"
        )
        self.ttft = _labelled(
            registry,
            partial(Histogram, buckets=_SECONDS),
            "time_to_first_token_seconds",
            "From sending to a stream's first content, by backend.",
            "backend",
        )
        self.malformed = Counter(
            "sluiceway_malformed_events", "Stream events passed on although they were not JSON.", registry=registry
        )
        self.connections = Gauge(
            "sluiceway_connections", "Callers' connections, their TLS handshakes included.", registry=registry
        )
        self.overhead = Histogram(
            "sluiceway_overhead_seconds",
            "From a call's body to its first attempt: our own share of the waiting.",
            buckets=_OVERHEAD,
            registry=registry,
        )

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a gauge that is read when scraped."""
        Gauge(name, text, registry=self.registry).set_function(read)

    def render(self) -> bytes:
        """Return the exposition text."""
        return generate_latest(self.registry)


def _labelled(
    registry: CollectorRegistry, kind: Callable[..., Metric], name: str, text: str, labels: str
) -> Callable[..., Metric]:
    """Return the function from label values to the series of a new metric, which looks each up once."""
    return cache(kind(f"sluiceway_{name}", text, labels.split(), registry=registry).labels)
