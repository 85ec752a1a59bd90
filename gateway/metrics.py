"""The one door to Prometheus: what is counted, under which names.

Law: a label's values are a closed set (configured names and the enums of `policies`), never what a caller typed; so the
number of series is bounded by the configuration and the replicas there are.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import NamedTuple, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

Metric = TypeVar("Metric", Counter, Gauge, Histogram)

_OVERHEAD = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024)
_SECONDS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8)


class Vitals(NamedTuple):
    """What a backend's probes found, in the order of the metrics, None where unknown: `up` is 1 or 0."""

    up: float | None
    running: float | None
    waiting: float | None
    kv_use: float | None


_VITALS = (
    ("sluiceway_backend_up", "1 while a backend's free probes find that it serves, 0 while they do not."),
    ("sluiceway_engine_running", "Calls that a backend's engine says it runs."),
    ("sluiceway_engine_waiting", "Calls that a backend's engine says it has queued."),
    ("sluiceway_engine_kv_use", "Share of its KV cache that a backend's engine says is in use, 0 to 1."),
)


class _Engines(Collector):
    """What is told of the backends, read when scraped: one that has gone is in it no more."""

    def __init__(self) -> None:
        self.read: Callable[[], Mapping[str, Vitals]] = dict

    def collect(self) -> Iterator[GaugeMetricFamily]:
        told = self.read()
        for number, (name, text) in enumerate(_VITALS):
            family = GaugeMetricFamily(name, text, labels=["backend"])
            for backend, vitals in told.items():
                value = vitals[number]
                if value is not None:
                    family.add_metric([backend], value)
            yield family


class _Registry(CollectorRegistry):
    """A registry whose series of a backend can be dropped: by each of `drops`."""

    def __init__(self) -> None:
        super().__init__()
        self.drops: list[Callable[[str], None]] = []


class Metrics:
    """Every series of one gateway, in a registry of its own.

    A metric with labels is a function of their values that returns the series. Each is looked up once: the client's own
    `labels` costs 2 us, and a call needs six.
    """

    def __init__(self) -> None:
        self.registry = registry = _Registry()
        self._engines = _Engines()
        registry.register(self._engines)
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
        self.waits, self.wait = _waiting(registry)
        self._config, self.config_reloads, self.config_stale, self.config_waiting = _configs(registry)
        self.continued = Counter(
            "sluiceway_streams_continued", "Streams that broke off and were made whole elsewhere.", registry=registry
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

    def config(self, digest: str) -> None:
        """Tell which configuration is in force, and no other."""
        self._config.clear()
        self._config.labels(digest).set(1)

    def engines(self, read: Callable[[], Mapping[str, Vitals]]) -> None:
        """Tell what `read` says of each backend when scraped."""
        self._engines.read = read

    def forget(self, backend: str) -> None:
        """Drop every series of a backend that has gone for good."""
        for drop in self.registry.drops:
            drop(backend)

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a gauge that is read when scraped."""
        Gauge(name, text, registry=self.registry).set_function(read)

    def render(self) -> bytes:
        """Return the exposition text."""
        return generate_latest(self.registry)


def _waiting(registry: _Registry) -> tuple[Callable[..., Counter], Callable[..., Histogram]]:
    """Return what is counted of calls that found every place taken, and for how long they waited."""
    waits = "Calls that found every place taken, by what became of them."
    seconds = "How long calls waited for a place, by priority."
    return (
        _labelled(registry, Counter, "waits", waits, "model outcome"),
        _labelled(registry, partial(Histogram, buckets=_SECONDS), "wait_seconds", seconds, "priority"),
    )


def _configs(registry: _Registry) -> tuple[Gauge, Callable[..., Counter], Gauge, Gauge]:
    """Return what is told of a configuration that changes while it is in force."""
    outcomes = "Changed configurations, by what became of them."
    reloads = _labelled(registry, Counter, "config_reloads", outcomes, "outcome")
    for outcome in ("taken", "refused"):
        reloads(outcome)  # at 0, so that the first one is seen as a rise
    stale = "1 while what is in force is not what files say now: one was refused, or does not answer."
    waiting = "Settings that were changed and wait for a restart."
    return (
        Gauge("sluiceway_config_info", "1, by the digest in force.", ["digest"], registry=registry),
        reloads,
        Gauge("sluiceway_config_stale", stale, registry=registry),
        Gauge("sluiceway_config_waiting", waiting, registry=registry),
    )


def _labelled(
    registry: _Registry, kind: Callable[..., Metric], name: str, text: str, labels: str
) -> Callable[..., Metric]:
    """Return the function from label values to the series of a new metric, which looks each up once."""
    metric = kind(f"sluiceway_{name}", text, labels.split(), registry=registry)
    series = cache(metric.labels)

    def drop(backend: str) -> None:
        metric.remove_by_labels({"backend": backend})
        series.cache_clear()  # it holds what was removed

    if "backend" in labels.split():
        registry.drops.append(drop)
    return series
