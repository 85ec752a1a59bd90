"""The one door to Prometheus: what is counted, under which names.

Law: a label's values are a closed set (configured names and the enums of `policies`), never what a caller typed; so the
number of series is bounded by the configuration.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_OVERHEAD = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024)
_SECONDS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8)


class Metrics:
    """Every series of one gateway, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "sluiceway_requests", "Calls answered, by status.", ["api", "model", "status"], registry=self.registry
        )
        self.rejections = Counter(
            "sluiceway_rejections",
            "Calls refused by the gateway; level and meter where a limit refused.",
            ["reason", "level", "meter"],
            registry=self.registry,
        )
        self.attempts = Counter(
            "sluiceway_attempts", "Attempts on deployments, by outcome.", ["backend", "outcome"], registry=self.registry
        )
        self.tokens = Counter(
            "sluiceway_tokens",
            "Tokens booked; source says whether the upstream told them or they were counted here.",
            ["model", "direction", "source"],
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "sluiceway_in_flight", "Attempts under way, by backend.", ["backend"], registry=self.registry
        )
        self.cut = Counter(
            "sluiceway_streams_cut",
            "Streams that ended after their first content, by cause.",
            ["cause"],
            registry=self.registry,
        )
        self.malformed = Counter(
            "sluiceway_malformed_events",
            "Stream events passed on although they were not JSON.",
            registry=self.registry,
        )
        self.ttft = Histogram(
            "sluiceway_time_to_first_token_seconds",
            "From sending to a stream's first content, by backend.",
            ["backend"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.overhead = Histogram(
            "sluiceway_overhead_seconds",
            "From a call's body to its first attempt: our own share of the waiting.",
            buckets=_OVERHEAD,
            registry=self.registry,
        )

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a gauge that is read when scraped."""
        Gauge(name, text, registry=self.registry).set_function(read)

    def render(self) -> bytes:
        """Return the exposition text."""
        return generate_latest(self.registry)
