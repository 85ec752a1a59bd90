"""A whole gateway over a stage of upstreams, the calls that are made there, and the laws that hold for each.

Law: whatever the fault, a call ends within its deadline, after no more attempts than its route has places; what looks
whole is whole, and its model and usage are those of the place that served; what is booked is what was served; and
nothing of it is left.
"""

import asyncio
import contextlib
import json
from dataclasses import dataclass, field

from msgspec.structs import replace

from gateway import server
from gateway.clock import monotonic
from gateway.config.settings import Backend, Organization, StoreSettings
from gateway.ledger import audit
from gateway.store.embedded import embedded
from policies.domain import Deadlines, Deployment, Meter, MeterKind, Model, Plan, Price
from policies.terms import RoutingTerms
from tests.faults.books import Books, calls
from tests.faults.stage import Heard, Played, Said, Stage, ask, behind_strange_tls, said
from tests.gateway.harness import TEXT, eventually, new_key, settings
from tests.parts.gateway import STORE_DEADLINE

ORGANIZATION = "acme"

PLACES = 4
"""Deployments that a call may have."""

LANES = 16
"""Backends for each place, all of them the stage: stock httpx looks at every connection of a pool at each call."""

GRACE = 3.0
"""Seconds beyond a call's deadline that its end may take to arrive while hundreds of others share two cores."""

FROZEN = 10.0
"""Seconds to come from which on a deployment counts as frozen: shorter ones may be over before they are looked at."""

BOOKS = Plan(
    "books",
    tuple(
        Meter(kind, 10**15, 10**15)
        for kind in (
            MeterKind.TOKENS_PER_DAY,
            MeterKind.TOKENS_IN_ALL,
            MeterKind.BUDGET_IN_ALL,
            MeterKind.CONCURRENT_REQUESTS,
        )
    ),
)
"""Meters that refuse nobody here and that an audit can tell."""


@dataclass(frozen=True)
class Cast:
    """One model: what its deployments play, in their order, where they are, and what a call of it may take.

    `number`: no other model's. `at`: where the first is said to be. `fallback`: all but the first belong to a fallback
    model.
    """

    number: int
    plays: tuple
    deadlines: Deadlines
    windows: tuple = (None,) * PLACES
    fallback: bool = False
    at: str = "stage"

    @property
    def name(self):
        """Return the model's name."""
        return f"cast-{self.number}"

    def backend(self, place):
        """Return the name of the backend at a place."""
        return f"place-{place}-{self.number % LANES}" if place or self.at == "stage" else self.at

    @property
    def deployments(self):
        """Return them, the first the cheapest by far, so that the order is known."""
        return tuple(
            Deployment(
                self.backend(place),
                "openai",
                f"{self.name}.{place}",
                self.windows[place],
                TEXT,
                Price(place * 10**9, place * 10**9),
            )
            for place in range(len(self.plays))
        )

    @property
    def models(self):
        """Return the model, and its fallback."""
        split = 1 if self.fallback else PLACES
        own, other = self.deployments[:split], self.deployments[split:]
        second = f"{self.name}-fallback"
        terms = RoutingTerms(value_of_time=0)
        yield Model(self.name, (), own, (second,) if other else (), terms, self.deadlines)
        if other:
            yield Model(second, (), other, (), terms, self.deadlines)


@dataclass
class Call:
    """One call that is over: what its caller heard, what was played for it, and the seconds that it might take."""

    cast: Cast
    stream: bool
    heard: Heard
    played: list[Played]
    deadline: float

    @property
    def said(self) -> Said:
        """What the caller can read."""
        return said(self.heard.body, stream=self.stream and self.heard.status == 200)

    def served_by(self) -> Played | None:
        """Return the last place that was asked, which is the one that served where one did."""
        return self.played[-1] if self.played else None


LARGE = 1000
"""Characters of a prompt that is meant to be about as long as a window."""


class Theatre:
    """A running gateway, the stage behind it, and a key."""

    def __init__(self, stage, running, url, key):
        self.stage = stage
        self._url = url
        self.running = running
        self.services = running.gateway.services
        self._key = key

    async def call(self, cast, id_, *, stream, prompt="hi there", within=None):
        """Make one call of a model; its caller says that it wants the answer `within` so many seconds."""
        headers = {} if within is None else {"x_request_timeout": f"{within:g}"}
        body = {"model": cast.name, "stream": stream, "messages": [{"role": "user", "content": prompt}]}
        if len(prompt) > LARGE:  # with a longer answer expected it would be sent to a larger window at once
            body["max_tokens"] = 8
        if stream:
            body["stream_options"] = {"include_usage": True}
        heard = await ask(self.running.url, self._key, id_, json.dumps(body).encode(), **headers)
        deadline = min(cast.deadlines.total, cast.deadlines.total if within is None else within)
        return Call(cast, stream, heard, self.stage.played.pop(id_, []), deadline)

    def live(self, deployment):
        """Return what the gateway knows of a deployment."""
        return self.services.fleet.live(deployment)

    def state(self, deployment):
        """Say how the gateway takes a deployment."""
        seen = self.live(deployment).snapshot(deployment, monotonic())
        if seen.retired:
            return "retired"
        if seen.off is not None:
            return "off"
        if seen.lacks:
            return "lacks"
        if seen.ejected or seen.down is not None:
            return "ejected"
        return "frozen" if seen.frozen_for > FROZEN else "well"

    def held(self, cast):
        """Return the load that the gateway still believes a model's deployments to have."""
        return sum(abs(self.live(d).in_flight) + abs(self.live(d).queued_tokens) for d in cast.deployments)

    async def left(self):
        """Say what is left when no call is under way: complaints, of which there should be none."""
        await self.running.gateway.ledger._batches.drain(10.0)
        with contextlib.suppress(TimeoutError):
            await eventually(lambda: not any(self._open().values()), within=5.0)
        found = [f"{count} {what} are left" for what, count in self._open().items() if count]
        levels = (await audit.levels_of(self.running.gateway.store, ORGANIZATION))[ORGANIZATION]
        findings = await audit.check(self.running.gateway.store, ORGANIZATION, levels)
        found += [f"the audit: {line}" for line in findings.differences]
        async with Books(self._url, ORGANIZATION) as books:
            open_ = sum((await books.reservations()).values())
            found += [f"{open_} reservations are open in the store"] if open_ else []
            found += [f"slots are taken: {taken}" for taken in (await books.slots()).values() if taken]
        return found

    def _open(self):
        fleet = self.services.fleet
        return {
            "calls": self.services.intake.open_calls,
            "bytes of bodies": self.services.intake.buffered,
            "open reservations": self.running.gateway.ledger.open_reservations,
            "calls in flight": sum(abs(live.in_flight) for live in fleet._live.values()),
            "queued tokens": sum(abs(live.queued_tokens) for live in fleet._live.values()),
            "connections with a call": sum(map(busy, [home.transport for home in fleet.homes.values()])),
            "upstream calls": self.stage.running,
            "tasks": len(_tasks() - self._tasks),
        }

    def begin(self):
        """Note the tasks that run when nothing is under way."""
        self._tasks = _tasks()

    async def booked(self):
        """Return the record of every call, by request id."""
        async with Books(self._url, ORGANIZATION) as books:
            return calls(await books.records())


def _tasks():
    """Return the tasks of the gateway that a call may leave behind.

    One that waits for an idle connection's next request is the stage's, and there is always one that waits for changes.
    """
    others = {"upstream connection", "a round trip to the stream of changes"}
    return {task for task in asyncio.all_tasks() if task.get_name() not in others}


def outlived():
    """Say what has outlived a theatre: only whoever asks should be left."""
    return [
        f"the task {task.get_name()} outlived the gateway" for task in asyncio.all_tasks() - {asyncio.current_task()}
    ]


def busy(transport):
    """Count a transport's connections that carry a call."""
    if hasattr(transport, "_pools"):
        return sum(pool.open - len(pool) for pool in transport._pools.values())
    return sum(not (one.is_idle() or one.is_closed()) for one in transport._pool.connections)


@contextlib.asynccontextmanager
async def theatre(folder, transport, casts):
    """Run a gateway whose models are these casts, reached by `transport`; yield a `Theatre`."""
    async with embedded(folder / "store") as url, Stage() as stage, behind_strange_tls(folder / "tls") as tls:
        for cast in casts:
            stage.plays |= {f"{cast.name}.{place}": play for place, play in enumerate(cast.plays)}
        urls = {f"place-{place}-{lane}": stage.url for place in range(PLACES) for lane in range(LANES)}
        urls |= {"tls": tls, "dns": "http://nowhere.invalid", "name": f"http://{'a' * 64}.invalid"}
        urls["closed"] = "http://127.0.0.1:9"
        backends = tuple(
            Backend(name, "openai", f"{url}/v1", transport=transport, told_hosted=False) for name, url in urls.items()
        )
        models = tuple(model for cast in casts for model in cast.models)
        terms = {"backends": backends, "models": models, "plans": {"books": BOOKS}}
        terms |= {
            "store": StoreSettings(url, folder / "data", deadline=STORE_DEADLINE),
            "organizations": {ORGANIZATION: Organization(BOOKS, {})},
        }
        running = await server.start(replace(settings(folder, {}), **terms))
        try:
            key = await new_key(running.gateway, ORGANIZATION, "books")
            running.gateway.store._deadline = 5.0  # two cores are busy with callers and upstreams as well
            it = Theatre(stage, running, url, key)
            await it.call(Cast(-1, (), Deadlines()), "warm", stream=False)
            it.begin()
            yield it
        finally:
            await running.stop()


@dataclass
class Verdict:
    """What is wrong with some calls."""

    complaints: list[str] = field(default_factory=list)

    def expect(self, holds, *about):
        """Complain unless it holds."""
        if not holds:
            self.complaints.append(" ".join(map(str, about)))


def lawful(verdict, call, *, attempts):
    """Hold one call to what holds for all, with at most so many attempts."""
    heard, read = call.heard, call.said
    expect = verdict.expect
    expect(heard.took <= call.deadline + GRACE, heard.id, "took", round(heard.took, 2), "s")
    expect(len(call.played) <= attempts, heard.id, "was tried", len(call.played), "times")
    told = heard.headers.get("x-sluiceway-attempts")
    expect(told is None or int(told) <= attempts, heard.id, "says", told, "attempts")
    expect(heard.status != 0, heard.id, "got no head")
    if heard.status != 200:
        expect(heard.whole and read.broken == 0, heard.id, "is no whole answer", heard.body[:80])
        return
    if heard.whole and read.looks_whole:
        whole(verdict, call)
    elif call.stream:
        expect(read.error is not None and not read.done, heard.id, "broke off without a word", heard.body[-80:])


def whole(verdict, call):
    """Hold an answer that looks whole to what its place played."""
    last, read, id_ = call.served_by(), call.said, call.heard.id
    if last is None:
        verdict.expect(False, id_, "was served by nobody")
        return
    meant = said(last.body, stream=call.stream)
    backend = call.heard.headers.get("x-sluiceway-backend")
    verdict.expect(read.text == meant.text, id_, "says", repr(read.text[-30:]), "for", repr(meant.text[-30:]))
    verdict.expect(read.model == last.model, id_, "names", read.model, "though", last.model, "served")
    verdict.expect(read.usage == meant.usage, id_, "tells", read.usage, "for", meant.usage)
    verdict.expect(backend == call.cast.backend(last.place), id_, "names", backend, "for place", last.place)


def booked(verdict, call, record):
    """Hold what is booked for a call to what it was: told tokens, counted tokens, or nothing."""
    id_, read, last = call.heard.id, call.said, call.served_by()
    if record is None:
        verdict.expect(call.heard.status == 503, id_, "is not in the books")  # no route: nothing was set aside
        return
    head = record.head
    tokens = head.input, head.output
    if call.heard.status != 200 or last is None:
        verdict.expect(
            tokens == (0, 0) and not record.deployment, id_, "has nothing, is booked", tokens, record.outcome
        )
        return
    served = f"{call.cast.backend(last.place)}/{last.model}"
    verdict.expect(record.deployment == served, id_, "is booked on", record.deployment, "for", served)
    if read.looks_whole and call.heard.whole:
        meant = said(last.body, stream=call.stream).usage
        verdict.expect(tokens == meant and not head.estimated, id_, "is booked as", tokens, "for", meant)
        verdict.expect(record.outcome == "ok", id_, "is booked as", record.outcome)
    else:
        seen = len(read.text) // len("w00 ")
        verdict.expect(head.estimated and head.output >= seen, id_, "saw", seen, "tokens, is booked", tokens)
        verdict.expect(record.outcome != "ok", id_, "is cut, and booked as", record.outcome)
