"""What it costs to decide where a call goes, and what is kept for it, however long it runs."""

import gc
import random

import pytest

from gateway.config.settings import Backend
from gateway.upstream.fleet import Fleet
from policies.affinity import KEPT, Beginning, beginning
from policies.domain import Deadlines, Deployment, Estimate, Model, Price
from policies.live import Ticket
from policies.request import read
from policies.routing import route
from policies.terms import RoutingTerms
from tests.bench.scenarios import chat
from tests.bench.yardstick import YARDSTICK, microseconds, yardstick

BARS = {8: 40.0, 500: 400.0}
"""Microseconds there, snapshots included; measured: 33 and 220."""
CALL = Estimate(7_000, 350, 1_000, 16_384)


def fleet_of(count):
    """Return a fleet of so many deployments of one model, with the model."""
    fleet = Fleet()
    for number in range(count):
        fleet.add(Backend(f"gpu-{number}", "vllm", "http://127.0.0.1:9/v1", probe_every=0))
    text = frozenset({"text"})
    places = tuple(Deployment(f"gpu-{number}", "vllm", "m", 262_144, text, Price(0, 0)) for number in range(count))
    return fleet, Model("m", (), places, (), RoutingTerms(), Deadlines())


@pytest.mark.ci
@pytest.mark.parametrize("count", BARS)
def test_a_decision_keeps_to_its_bar(count):
    """With everything learned, a long prompt, and a third of all with its beginning; interleaved with the yardstick."""
    fleet, model = fleet_of(count)
    request, dice = read("chat", chat("m", padding=30_000)), random.Random(1)
    begins = beginning(request, "acme")
    for number, place in enumerate(model.deployments):
        live = fleet.live(place)
        for call in range(20):
            live.first_token(float(call), 0.3, 1_000)
            live.latency.observe_pace(float(call), 0.02, 3)
        if number % 3 == 0:
            live.noted(begins, 20.0)

    def decide():
        return route(request, [model], {"m": fleet.snapshots(model, 20.5, begins)}, CALL, dice)

    assert decide().order
    gc.collect()
    gc.freeze()
    rounds = [(microseconds(decide, 10), microseconds(yardstick, 10)) for _ in range(400)]
    # Short rounds, and the quick ones of each: what else the machine does is in the slow ones.
    took, yard = (sorted(times)[len(rounds) // 20] for times in zip(*rounds, strict=True))
    ratio = took / yard
    print(f"\n{count} candidates: {took:.1f} us, {ratio:.2f} yardsticks")
    assert ratio <= BARS[count] / YARDSTICK


@pytest.mark.ci
def test_what_is_kept_is_bounded_at_a_thousand_deployments_over_ten_hours():
    """The eleventh hour holds no more than the second: 20,000 calls an hour, each of a conversation of its own."""
    fleet, model = fleet_of(1000)
    dice = random.Random(1)
    held = []
    for hour in range(11):
        for number in range(20_000):
            now = hour * 3600.0 + number * 0.18
            live = fleet.live(model.deployments[dice.randrange(1000)])
            marks = tuple(dice.getrandbits(32) for _ in range(8))
            ticket = Ticket(live, 8_000, now, Beginning(marks, 32_768))
            ticket.prefilled(now + 0.5)
            live.first_token(now + 0.5, 0.5, ticket.ahead)
            ticket.close()
            live.answered("chat", now + 5.0)
        held.append(sum(len(live.prefilled._seen) for live in map(fleet.live, model.deployments)))

    assert max(held[2:]) < 1.1 * held[1]
    assert held[-1] < 8 * (20_000 * (KEPT / 3600.0) + 1000 * 20)
    assert len(fleet.fresh) <= fleet.fresh.maxlen
    assert all(live.in_flight == live.queued_tokens == 0 for live in map(fleet.live, model.deployments))
