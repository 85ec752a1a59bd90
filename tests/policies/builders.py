"""Values for the tests of the core, each with defaults that a test overrides where it matters."""

import msgspec

from policies.domain import Candidate, Deadlines, Deployment, Model, Pace, Price, Route, Snapshot
from policies.request import read
from policies.terms import RoutingTerms

FREE = Price(0, 0)
HOSTED = Price(1_500_000, 7_500_000)


def deployment(backend="gpu-a", *, window=None, modalities=("text",), price=FREE, kind="vllm"):
    return Deployment(backend, kind, "m", window, frozenset(modalities), price)


def snapshot(
    of=None,
    *,
    in_flight=0,
    queued=0,
    ttft=0.2,
    rate=10_000.0,
    token_time=0.01,
    ejected=False,
    off=None,
    retired=False,
    lacks=(),
    **more,
):
    pace = Pace(ttft, 1 / rate, token_time, 0.02 * token_time)
    return Snapshot(of or deployment(), in_flight, queued, pace, ejected, off, retired, frozenset(lacks), **more)


def model(*deployments, name="m", fallbacks=(), terms=None):
    return Model(name, (), tuple(deployments), tuple(fallbacks), terms or RoutingTerms(), Deadlines())


def request(api="chat", **members):
    body = {"model": "m", **members}
    if api == "chat":
        body.setdefault("messages", [{"role": "user", "content": "hi"}])
    return read(api, msgspec.json.encode(body))


def candidate(of=None, *, ttft=0.2, seconds=1.0):
    return Candidate(of or deployment(), ttft, seconds, seconds, 0, 1.0, "in time")


def route(*candidates, terms=None):
    of = model(*(c.deployment for c in candidates), terms=terms)
    return Route(of, tuple(candidates), (), terms or RoutingTerms())
