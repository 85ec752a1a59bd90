"""What the demo's gateway runs on: settings built in code, over simulated backends.

Law: the same settings that a file would compile to; nothing in the gateway knows that it is a demo.
"""

from pathlib import Path

from gateway.config.settings import (
    STANDARD,
    Backend,
    Limits,
    Listen,
    Organization,
    Settings,
    StoreSettings,
    Telemetry,
)
from gateway.demo.backend import Simulated
from gateway.demo.cast import GPUS, HOSTED, MODEL, ORGANIZATION
from gateway.demo.fleet import Fleet
from policies.domain import Deadlines, Deployment, Meter, MeterKind, Model, Plan, Price
from policies.terms import RoutingTerms

HOSTED_PRICE = Price(input=1_500_000, output=7_500_000)
"""1.5 and 7.5 USD per million tokens."""

DEMO = Plan(
    name="demo",
    meters=(
        Meter(MeterKind.REQUESTS_PER_MINUTE, limit=6_000, burst=6_000),
        Meter(MeterKind.TOKENS_PER_MINUTE, limit=4_000_000, burst=4_000_000),
        Meter(MeterKind.CONCURRENT_REQUESTS, limit=64, burst=64),
    ),
)

STORE_DEADLINE = 2.0
"""Seconds that the store may take. All that the tour runs shares one machine, and that it is busy is no outage."""

TINY = Plan(name="tiny", meters=(Meter(MeterKind.REQUESTS_PER_MINUTE, limit=60, burst=3),))


def demo_settings(fleet: Fleet, port: int, data_dir: Path, *, failover: bool) -> Settings:
    """Return the settings of a gateway over `fleet`; without `failover` a call is tried once.

    Waits until every simulated backend listens; raises `FleetFailed`.
    """
    routing = RoutingTerms() if failover else RoutingTerms(max_attempts=1)
    gpus = tuple(_deployment(how, "vllm", Price(0, 0)) for how in GPUS)
    deployments = (*gpus, _deployment(HOSTED, "openai", HOSTED_PRICE))
    return Settings(
        listen=Listen("127.0.0.1", port),
        operations=Listen("127.0.0.1", 0),
        admin_key=None,
        store=StoreSettings("embedded", data_dir, deadline=STORE_DEADLINE),
        limits=Limits(),
        backends=tuple(Backend(each.backend, each.kind, fleet[each.backend].url + "/v1") for each in deployments),
        models=(Model(MODEL, (), deployments, (), routing, Deadlines()),),
        plans={plan.name: plan for plan in (STANDARD, DEMO, TINY)},
        organizations={ORGANIZATION: Organization(DEMO, {})},
        telemetry=Telemetry(),
        digest="demo",
    )


def _deployment(how: Simulated, kind: str, price: Price) -> Deployment:
    text = frozenset({"text"})
    return Deployment(how.name, kind, how.model, how.max_model_len, text, price, hosted=how is HOSTED)
