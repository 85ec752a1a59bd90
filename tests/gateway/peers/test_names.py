import pytest

from gateway.config.settings import Backend
from gateway.peers import Peers
from gateway.peers import names as module
from gateway.peers.names import Names
from gateway.peers.peers import MOST_TURN
from gateway.store.door import Store
from gateway.upstream.fleet import Fleet, Home
from policies.affinity import Beginning
from policies.breaker import THRESHOLD, State
from policies.domain import Deployment
from policies.failures import Failure, FailureKind
from tests.gateway.peers.support import SLOW

HERE, THERE = "http://127.0.0.1:8000/v1", "http://10.0.0.1:8000/v1"
RESET = Failure(FailureKind.RESET, "x")


class Gateway:
    """A gateway of a host, with an engine of the host's own and one that all hosts share."""

    def __init__(self, url, name, host, monkeypatch, own=HERE):
        monkeypatch.setattr(module, "this_host", lambda: host)
        self.store, self.fleet = Store(url, deadline=5.0), Fleet()
        for backend, place in (("own", own), ("rack", THERE)):
            self.fleet.add(Backend(backend, "vllm", place, probe_every=0))
            self.live(backend)
        self.peers = Peers(self.store, self.fleet, name, beat=SLOW)

    def live(self, backend):
        return self.fleet.live(Deployment(backend, "vllm", "m", None, frozenset({"text"}), None))

    def ejects(self, backend):
        for _ in range(THRESHOLD):
            self.live(backend).convicted(RESET, 0.0, probe=False)

    async def close(self):
        await self.peers.close()
        await self.fleet.close()
        await self.store.close()


@pytest.fixture
async def make(server, monkeypatch):
    """Make gateways over an empty store; they are closed with the test."""
    made = []

    def make(name, host, **options):
        made.append(Gateway(server, name, host, monkeypatch, **options))
        return made[-1]

    store = Store(server, deadline=5.0)
    await store.send(("FLUSHALL",))
    await store.close()
    yield make
    for gateway in made:
        await gateway.close()


@pytest.fixture
async def three(make):
    """Two gateways of one host and one of another, which know one another."""
    them = [make("a", "left"), make("b", "left"), make("c", "right")]
    await beats(*them, *them)
    return them


async def beats(*gateways, now=0.0):
    for gateway in gateways:
        await gateway.peers.beat(now)


async def test_the_load_of_an_engine_of_one_host_is_that_hosts(three):
    """Though all hosts call it the same; what is elsewhere is everybody's."""
    a, b, c = three
    for gateway, calls in zip(three, (1, 2, 4), strict=True):
        for backend in ("own", "rack"):
            gateway.live(backend).in_flight = calls
    await beats(*three, *three)

    assert [one.live("rack").others.in_flight for one in three] == [6, 5, 3]
    assert [one.live("own").others.in_flight for one in three] == [2, 1, 0]
    assert [one.fleet.homes["own"].condition.elsewhere for one in three] == [2, 1, 0]
    a.live("own").in_flight = 0
    await beats(a, b, c)
    assert [one.live("own").others.in_flight for one in (b, c)] == [0, 0]


async def test_a_beginning_is_known_where_it_was_prefilled(three):
    """Another host's engine has never seen it."""
    begins = Beginning((1, 2), 64)
    for backend in ("own", "rack"):
        three[0].live(backend).noted(begins, 0.0)
    await beats(*three)

    known = [[one.live(backend).prefilled.known(begins, 0.0) > 0 for one in three] for backend in ("own", "rack")]
    assert known == [[True, True, False], [True, True, True]]


async def test_what_becomes_of_a_breaker_is_told_to_its_host(three):
    """Word of another host's closing is no reason to probe here."""
    a, b, c = three
    for one in three:
        one.ejects("own")
    await beats(*three, *three)
    a.live("own").breaker.due(1.0)
    assert a.live("own").breaker.sent(100.0)
    a.live("own").answered("chat", 100.0)
    await beats(*three)

    assert a.live("own").breaker.state is State.CLOSED
    assert b.live("own").breaker.passes(1.0 + MOST_TURN)
    assert not c.live("own").breaker.passes(1.0)


async def test_a_probe_waits_for_those_alone_that_can_reach_the_engine(three):
    """Gateways of other hosts have no turn at one of this host; elsewhere each has."""
    for one in three:
        for backend in ("own", "rack"):
            one.ejects(backend)
    await beats(*three, *three)
    turns = [[one.live(backend).breaker.turn for one in three] for backend in ("own", "rack")]

    assert turns[0][2] == 0.0
    assert sorted(turns[0][:2]) == [0.0, MOST_TURN]
    assert sorted(turns[1]) == [0.0, MOST_TURN, MOST_TURN]


async def test_a_backend_that_is_elsewhere_here_is_no_hosts(make):
    """Files may differ: what one gateway has on its own host, another of that host may have on the rack."""
    them = [make("a", "left"), make("b", "left", own=THERE), make("c", "left")]
    for one in them:
        one.live("own").in_flight = 1
    await beats(*them, *them, *them)

    assert [one.live("own").others.in_flight for one in them] == [1, 0, 1]


async def test_names_are_read_as_they_are_told(monkeypatch):
    """Of replicas whose names have paths, and of backends that are not here yet."""
    monkeypatch.setattr(module, "this_host", lambda: "left")
    places = {"own": HERE, "rack": THERE, "list@127.0.0.1:9/a/b": "http://127.0.0.1:9/a/b/v1"}
    homes = {name: Home(Backend(name, "vllm", place)) for name, place in places.items()}
    names = Names(homes)
    told = {name: names.told(name) for name in ("own/org/m", "rack/m", "list@127.0.0.1:9/a/b/m", "later/m")}

    assert told == {
        "own/org/m": "@left own/org/m",
        "rack/m": "rack/m",
        "list@127.0.0.1:9/a/b/m": "@left list@127.0.0.1:9/a/b/m",
        "later/m": "later/m",
    }
    assert {name: names.ours(name) for name in told.values()} == {name: one for one, name in told.items()}
    assert names.ours("@left later/m") == "later/m"
    for other in ("@right own/m", "own/m", "@left rack/m", "@"):
        assert names.ours(other) is None
    for home in homes.values():
        await home.transport.aclose()
