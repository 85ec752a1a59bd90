"""What a run is of: the machines, the calls, the policy, and what goes wrong.

Law: a scenario and its seed say all; two that differ in the policy alone meet the same calls, the same luck of the
hosted endpoint and the same faults. Load 1.0 is the rate at which the fleet's machines would be just busy if every call
found all that any of them has cached: no policy gets there.
"""

import random
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import lru_cache

from msgspec import Struct
from msgspec.structs import replace

from policies.deadlines import MOST_FIRST
from policies.domain import Deployment, Price
from policies.live import Elsewhere
from policies.simulation.calls import BLOCK, Call, Engine
from policies.simulation.faults import Fault
from policies.simulation.hardware import Hardware
from policies.simulation.hosted import Endpoint, Hosted
from policies.simulation.outcome import TOKEN_TARGET
from policies.simulation.replica import Replica
from policies.simulation.workloads import Name, generate
from policies.terms import RoutingTerms

SAMPLE = 3000
"""Calls by which a workload's mean work is measured, of a seed of their own: the load of a run is no seed's luck."""

NO_WEIGHTS = 10**9
"""A batch so large that a call's share of reading the weights is nothing."""

MODEL = "m"
"""The model's name."""

ASK_AGAIN = 0.1
"""Seconds after which a call that waits for a place asks again, as `gateway/waiting.py` ticks."""

FREE = Price(0, 0)
"""Machines of one's own are paid for whether they work or not."""

_SEEN = frozenset({"text", "image"})


class Machine(Struct, frozen=True):
    """One of our own: its hardware, and the share of that hardware's usual speed at which it really works.

    `max_in_flight`: calls at once that gateways send it (None: any number), whatever they route by.
    """

    hardware: Hardware
    speed: float = 1.0
    max_in_flight: int | None = None


class Scenario(Struct, frozen=True):
    """One run.

    `calls`: how many of `workload`; or `given` ones, whose times are stretched to the load. `load`: calls a second, as
    a share of `capacity`. `gateways`: how many share the calls in turn. `hosted`: the endpoint beside the machines;
    `told`: calls a minute that our own policy is told that it takes (0: nothing, so that it learns by being refused).
    `terms`: how our own policy, and the oracle, weigh time against money.
    """

    replicas: tuple[Machine, ...]
    workload: Name = "conversation"
    load: float = 1.0
    policy: str = "sluiceway"
    seed: int = 0
    calls: int = 1500
    given: tuple[Call, ...] = ()
    gateways: int = 1
    hosted: Endpoint | None = None
    told: int = 0
    faults: tuple[Fault, ...] = ()
    terms: RoutingTerms = RoutingTerms()

    @property
    def stale(self) -> float:
        """Seconds between two exchanges of the gateways, as the product has them."""
        return max(0.1, 0.01 * self.gateways)


class Next(Struct, frozen=True):
    """What a gateway does next with a call: send it to a `place`, ask it `again` after so many seconds, or give up.

    `patience`: seconds that the first token is waited for.
    """

    place: int | None = None
    again: float | None = None
    patience: float = MOST_FIRST


GIVE_UP = Next()


class Told(Struct, frozen=True):
    """What one gateway tells the others: its own load by deployment, and the beginnings that were prefilled since."""

    loads: Mapping[str, Elsewhere] = {}
    fresh: Sequence[tuple[str, tuple[int, ...]]] = ()


def calls_of(scenario: Scenario) -> list[Call]:
    """Return the calls of a scenario, in the order of their arrival."""
    rate = scenario.load * capacity(scenario.replicas, scenario.workload, scenario.given)
    if scenario.given:
        return stretched(scenario.given, rate)
    return generate(scenario.workload, random.Random(f"calls/{scenario.seed}"), scenario.calls, rate)  # noqa: S311 - no secret


def deployments_of(scenario: Scenario) -> tuple[Deployment, ...]:
    """Return the places of a scenario, our machines first."""
    ours = tuple(
        Deployment(f"gpu-{number}", "vllm", MODEL, None, _SEEN, FREE, max_in_flight=machine.max_in_flight)
        for number, machine in enumerate(scenario.replicas)
    )
    if scenario.hosted is None:
        return ours
    return (*ours, Deployment("hosted", "nvidia", MODEL, None, _SEEN, scenario.hosted.price, hosted=True))


def engines_of(scenario: Scenario) -> list[Engine]:
    """Return the engines behind the places."""
    engines: list[Engine] = [Replica(machine.hardware) for machine in scenario.replicas]
    if scenario.hosted is not None:
        luck = random.Random(f"hosted/{scenario.seed}")  # noqa: S311 - no secret
        engines.append(Hosted(scenario.hosted, luck))
    return engines


@lru_cache(maxsize=64)
def capacity(replicas: tuple[Machine, ...], workload: Name, given: tuple[Call, ...] = ()) -> float:
    """Return the calls a second at which `replicas` are just busy.

    The cache is one for all, as large as all together, the least recently used block going first.
    """
    calls = list(given) or generate(workload, random.Random("capacity"), SAMPLE, float(len(replicas)))  # noqa: S311 - no secret
    cached = spared(calls, sum(machine.hardware.room for machine in replicas) // BLOCK)
    return sum(machine.speed * alone(machine.hardware, calls, cached) for machine in replicas)


def alone(hardware: Hardware, calls: Sequence[Call], cached: Sequence[int]) -> float:
    """Return the calls a second at which one machine is just busy; `cached`: prompt tokens that each call is spared.

    Its time goes to prefill, to each call's own part of the decode steps, and to reading the weights, which a batch
    shares: as large a one as keeps the target of an output token (Little's law: rate x tokens x target calls), if so
    many fit.
    """
    count = len(calls)
    own = sum(hardware.work(c.prompt, hit, c.answer, NO_WEIGHTS) for c, hit in zip(calls, cached, strict=True)) / count
    tokens = sum(c.answer for c in calls) / count
    fit = min(hardware.sequences, hardware.room * count / sum(c.prompt + c.answer / 2 for c in calls))
    rate = (1.0 - hardware.step / TOKEN_TARGET) / own
    if rate * tokens * TOKEN_TARGET <= fit:
        return rate
    return 1.0 / (own + tokens * hardware.step / fit)


def spared(calls: Sequence[Call], room: int) -> list[int]:
    """Return for each call the prompt tokens that a cache of `room` blocks spares, which has seen all before it."""
    seen: OrderedDict[int, None] = OrderedDict()
    spares = []
    for call in calls:
        hits = 0
        while hits < len(call.blocks) and call.blocks[hits] in seen:
            hits += 1
        spares.append(min(hits * BLOCK, call.prompt - 1))
        for block in reversed(call.blocks):
            seen[block] = None
            seen.move_to_end(block)
        while len(seen) > room:
            seen.popitem(last=False)
    return spares


def stretched(calls: Sequence[Call], rate: float) -> list[Call]:
    """Return the calls at so many a second, the times between them in proportion."""
    begin, end = calls[0].at, calls[-1].at
    factor = (len(calls) - 1) / rate / (end - begin) if end > begin else 1.0
    return [replace(call, at=(call.at - begin) * factor) for call in calls]
