import asyncio
import hashlib
from itertools import count

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import astuple
from redis import Redis
from redis.exceptions import NoScriptError as Forgotten

from gateway import clock
from gateway.config.settings import Backend
from gateway.store.door import Store
from gateway.upstream import allowances as module
from gateway.upstream.allowances import PREFIX, Allowances
from gateway.upstream.fleet import Home
from policies.allowance import MINUTE, SECOND, Allowance, Shared, kept_until, refused, spacing, take
from policies.failures import Failure, FailureKind
from tests.fakes.window import Window
from tests.gateway.identity.support import come, valkey

START = 4_102_444_800 * SECOND
"""The year 2100: what is kept until some time after it does not vanish while a test runs."""

SCRIPT = module.SCRIPT.replace(b"redis.call('TIME')", b"{ARGV[#ARGV - 1], ARGV[#ARGV]}")
"""The script, but that it is told the time: by two more words at the end."""

KEY = "nvapi-what-nobody-should-see"
TOO_MANY = Failure(FailureKind.RATE_LIMITED, "too many", 429)

_names = count()


class Live:
    """What is asked of a deployment here."""

    def __init__(self, name="hosted/m", per_minute=None):
        self.name, self.allowance = name, Allowance(per_minute)


class Told:
    """A store whose clock says what it is told. `asked`: round trips."""

    def __init__(self, store, time):
        self.store, self.time, self.asked = store, time, 0

    async def send(self, command):
        self.asked += 1
        seconds, us = divmod(int(self.time[0] * SECOND), SECOND)
        return await self.store.send((*command, seconds, us))

    async def load(self, script):
        await self.store.load(script)


@pytest.fixture(scope="module")
def url():
    with valkey() as url:
        yield url


@pytest.fixture(scope="module")
def redis(url):
    with Redis.from_url(url) as redis:
        yield redis


@pytest.fixture
async def store(url, redis):
    redis.flushall()
    store = Store(url, deadline=5.0)
    yield store
    await store.close()


@pytest.fixture
def time(monkeypatch):
    """Make the clock of the store and of all gateways stand, until it is moved."""
    time = [START / SECOND]
    monkeypatch.setattr(module, "SCRIPT", SCRIPT)
    monkeypatch.setattr(module, "SHA", hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest())
    monkeypatch.setattr(clock, "monotonic", lambda: time[0])
    return time


@pytest.fixture
async def opened():
    """Make homes, and close them."""
    homes = []

    def make(api_key=KEY, base_url="https://integrate.api.nvidia.com/v1", name="hosted", kind="nvidia", **settings):
        homes.append(Home(Backend(name, kind, base_url, api_key, **settings)))
        return homes[-1]

    yield make
    for home in homes:
        await home.transport.aclose()


class Caller:
    """One gateway: asks, sends what it is granted, tells what was refused. `refusals`, `served`: when, of all calls."""

    def __init__(self, store, home, time, per_minute):
        self.time, self.home, self.live = time, home, Live(per_minute=per_minute)
        self.allowances = Allowances(Told(store, time))
        self.refusals, self.served = [], []

    async def call(self, window):
        """Send a call if there is room; say whether there was."""
        if await self.allowances.take(self.live, self.home, 1000):
            return False
        if window.refuses():
            self.refusals.append(self.time[0])
            self.allowances.refused(self.live, self.home, TOO_MANY, self.time[0])
            await come(lambda: not self.allowances.telling)
        else:
            self.served.append(self.time[0])
        return True

    async def settled(self):
        await come(lambda: not self.allowances.telling)


async def overload(callers, window, time, minutes, step=0.25):
    """Send all that can be sent, by all in turn, for some minutes."""
    ends = time[0] + 60 * minutes
    while time[0] < ends:
        going = True
        while going:
            going = False
            for caller in callers:
                going |= await caller.call(window)
        time[0] += step


TAKE = st.just(("take",))
REFUSED = st.tuples(
    st.just("refused"),
    st.one_of(st.just(-1), st.integers(0, 3 * MINUTE)),
    st.integers(0, 500),
    st.booleans(),
)
PASSES = st.tuples(
    st.just("passes"),
    st.one_of(
        st.integers(0, SECOND),
        st.integers(0, 90 * SECOND),
        st.sampled_from([MINUTE, 11 * MINUTE]),
        st.integers(-MINUTE, 0),
        st.integers(-30 * MINUTE, 0),
    ),
)
LIMITS = st.sampled_from([0, 0, 1, 2, 7, 12, 25, 40, 600])
TELLS = st.tuples(st.just("tells"), LIMITS)
MINUTES = st.tuples(st.just("minutes"), st.integers(1, 12))
STORM = st.tuples(st.just("storm"), st.integers(1, 8))


class Twins:
    """The script and its twin, over one state and one clock."""

    def __init__(self, redis, told):
        self.redis, self.told, self.key = redis, told, f"twin{next(_names)}"
        self.shared, self.now = Shared(), START

    def tells(self, told):
        """Change the file."""
        self.told = told

    def passes(self, us):
        self.now += us

    def take(self):
        self.shared, answer = take(self.shared, self.told, self.now)
        return self.compare(answer, "take", self.told)

    def refused(self, pause, sent, knew):
        self.shared, answer = refused(self.shared, self.told, self.now, pause=pause, sent=sent, knew=knew)
        return self.compare(answer, "refused", self.told, pause, sent, int(knew))

    def minutes(self, count):
        """Let minutes pass, and use up what there is at the end of each."""
        for _ in range(count):
            self.passes(MINUTE)
            for _ in range(10):
                answer = self.take()
                if answer.room or answer.wait:
                    break

    def storm(self, count):
        """Be refused as often as it may be asked."""
        for _ in range(count):
            self.passes(self.refused(-1, 30, True).wait)

    def compare(self, answer, *words):
        redis, key = self.redis, self.key
        assert redis.eval(SCRIPT, 1, key, *words, *divmod(self.now, SECOND)) == list(astuple(answer))
        assert kept(redis, key) == self.shared
        if self.shared != Shared():
            expires = redis.pexpiretime(key) * 1000
            assert expires > kept_until(self.shared) >= expires - 1000
        return answer


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    LIMITS,
    st.lists(st.one_of(TAKE, REFUSED, PASSES, MINUTES, STORM, PASSES, TELLS), min_size=1, max_size=30),
)
@example(40, [("refused", -1, 0, True), ("passes", 5 * SECOND + MINUTE), ("refused", -1, 0, True)])
@example(12, [("refused", -1, 0, True), ("minutes", 3), ("passes", -MINUTE), ("take",), ("passes", -1), ("take",)])
@example(40, [("refused", 99 * MINUTE, 0, True), ("passes", -MINUTE), ("take",), ("passes", -1), ("take",)])
def test_the_script_and_its_twin_agree_on_every_answer_and_every_number(redis, told, history):
    """Both decide for the same upstream, the one when the store is there and the other when it is not."""
    twins = Twins(redis, told)
    for what, *rest in history:
        getattr(twins, what)(*rest)


def kept(redis, key):
    fields = redis.hgetall(key)
    return Shared(**{name.decode(): int(number) for name, number in fields.items()})


@pytest.mark.parametrize("begins", [0, 13, 31, 59])
async def test_ten_minutes_of_overload_by_two_gateways_are_refused_at_most_once(store, opened, time, begins):
    """Calls spill over before the limit of 40 a minute is met, wherever its windows begin."""
    callers = [Caller(store, opened(), time, 40) for _ in range(2)]
    window = Window(40, 60, at_once=True, now=lambda: time[0])
    await callers[0].call(window)
    time[0] += begins

    await overload(callers, window, time, 10)

    assert sum(len(each.refusals) for each in callers) <= 1
    assert sum(len(each.served) for each in callers) >= 36 * 10
    assert min(len(each.served) for each in callers) > 0


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_limit_of_20_where_40_was_believed_is_found_and_kept(store, opened, time, at_once):
    """Refusals are few at first and rarer later, and what the upstream takes is used."""
    callers = [Caller(store, opened(), time, 40) for _ in range(2)]
    window = Window(20, 60, at_once=at_once, now=lambda: time[0])

    await overload(callers, window, time, 10)
    first = sum(len(each.refusals) for each in callers)
    served = sum(len(each.served) for each in callers)
    await overload(callers, window, time, 10)

    assert 2 <= first <= 8
    assert sum(len(each.refusals) for each in callers) - first <= 2
    assert sum(len(each.served) for each in callers) - served >= 0.85 * 200


async def test_an_engine_of_one_host_has_a_limit_there_and_an_account_one_behind_all_proxies(
    store, opened, time, monkeypatch
):
    """Two hosts' engines take twice the calls; two proxies to one endpoint do not."""
    here, granted = "http://127.0.0.1:8000/v1", {}
    for kind in ("vllm", "openai"):
        for gateway, host in (("a", "left"), ("b", "left"), ("c", "right")):
            monkeypatch.setattr(module, "this_host", lambda host=host: host)
            caller = Caller(store, opened(base_url=here, kind=kind), time, 1)
            granted[kind, gateway] = await caller.allowances.take(caller.live, caller.home) == 0.0

    assert [granted["vllm", gateway] for gateway in "abc"] == [True, False, True]
    assert [granted["openai", gateway] for gateway in "abc"] == [True, False, False]


async def test_a_limit_that_rises_again_is_found_again(store, opened, time):
    """Somebody else's calls of the same account are over."""
    caller = Caller(store, opened(), time, 40)
    window = Window(20, 60, at_once=True, now=lambda: time[0])
    await overload([caller], window, time, 5, step=0.5)
    assert caller.live.allowance.limit <= 25

    window.limit = 40
    await overload([caller], window, time, 60, step=0.5)

    assert caller.live.allowance.limit == 40


async def test_where_no_limit_is_known_nothing_is_asked_until_one_is_met(store, opened, time):
    """An own engine has none; a hosted one's is found from what was sent, by all gateways."""
    callers = [Caller(store, opened(), time, None) for _ in range(2)]
    window = Window(50, 60, at_once=True, now=lambda: time[0])
    for _ in range(25):
        for caller in callers:
            assert await caller.call(window)
        time[0] += 0.5
    assert [caller.allowances._store.asked for caller in callers] == [0, 0]

    for caller in callers:
        assert await caller.call(window)
    await overload(callers, window, time, 10)

    assert 35 <= callers[0].live.allowance.limit <= 52
    assert sum(len(each.refusals) for each in callers) <= 8
    assert sum(len(each.served) for each in callers) >= 0.7 * 50 * 10


async def test_an_answer_that_says_no_room_is_believed_until_there_is(store, opened, time):
    """Calls that cannot be sent cost the store nothing."""
    caller = Caller(store, opened(), time, 1)
    assert await caller.allowances.take(caller.live, caller.home) == 0.0

    waits = [await caller.allowances.take(caller.live, caller.home) for _ in range(100)]

    assert set(waits) == {60.0}
    assert caller.allowances._store.asked == 1


async def test_no_more_ask_at_once_than_there_is_room_for(store, opened, time):
    """The others are told to wait without a round trip; whoever was answered, or broke off, is counted no more."""
    caller = Caller(store, opened(), time, 40)
    waits = await asyncio.gather(*(caller.allowances.take(caller.live, caller.home) for _ in range(100)))

    assert sorted(wait > 0 for wait in waits) == [False] * 4 + [True] * 96
    assert caller.allowances._store.asked <= 4 + 4, "once more for the script"
    assert caller.live.allowance.held == 0

    time[0] += 60
    asking = asyncio.ensure_future(caller.allowances.take(caller.live, caller.home))
    await asyncio.sleep(0)
    assert caller.live.allowance.held == 1
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert caller.live.allowance.held == 0


async def test_a_refusal_is_told_once_for_all_calls_that_were_refused_together(store, opened, time, redis):
    """And what it says holds for the other gateways from their next call on."""
    one, other = (Caller(store, opened(), time, 40) for _ in range(2))
    told = Failure(FailureKind.RATE_LIMITED, "too many", 429, retry_after=30.0)

    for _ in range(20):
        one.allowances.refused(one.live, one.home, told, time[0])
    await one.settled()

    assert one.allowances._store.asked <= 2, "and once more for the script"
    assert one.live.allowance.wait(time[0]) == 30.0
    assert await other.allowances.take(other.live, other.home, 1000) == 30.0
    assert other.live.allowance.limit == 32


async def test_a_script_that_the_store_has_forgotten_is_given_to_it_again(store, opened, time, redis):
    """After a restart it knows none."""
    caller = Caller(store, opened(), time, 40)
    assert await caller.allowances.take(caller.live, caller.home) == 0.0
    redis.script_flush()
    with pytest.raises(Forgotten):
        redis.evalsha(module.SHA, 0)
    time[0] += 10

    assert await caller.allowances.take(caller.live, caller.home) == 0.0


async def test_with_the_store_away_a_gateway_keeps_to_half_and_forgets_that_when_it_is_back(url, opened, time, redis):
    """Two that cannot hear each other keep together to what one may."""
    store = Store("redis://127.0.0.1:1")
    caller = Caller(store, opened(), time, 40)
    window = Window(20, 60, at_once=True, now=lambda: time[0])

    await overload([caller], window, time, 5)
    assert caller.refusals == []
    assert 18 * 5 - 2 <= len(caller.served) <= 100

    caller.allowances.refused(caller.live, caller.home, TOO_MANY, time[0])
    await caller.settled()
    assert await caller.allowances.take(caller.live, caller.home) == 5.0
    await store.close()

    back = caller.allowances._store.store = Store(url, deadline=5.0)
    time[0] += 5
    assert await caller.allowances.take(caller.live, caller.home) == 0.0
    assert caller.live.allowance.wait(time[0]) == 0.0, "a burst is left of the whole"
    await back.close()


async def test_a_refusal_that_cannot_be_told_hurts_nobody(opened, caplog):
    """It runs apart from the call: nobody would hear it fail."""

    class Broken:
        async def send(self, *commands):
            raise RuntimeError("a bug")

    allowances, live = Allowances(Broken()), Live(per_minute=40)
    allowances.refused(live, opened(), TOO_MANY, 0.0)

    await come(lambda: not allowances.telling)

    assert live.allowance.limit == 40


async def test_one_account_and_model_are_one_key_that_tells_neither(store, opened, redis):
    """Under whatever names gateways have them; the store's clock is the real one here."""
    allowances = Allowances(store)
    places = [
        (Live("hosted/m", 40), opened()),
        (Live("elsewhere/m", 40), opened(name="elsewhere")),
        (Live("hosted/other", 40), opened()),
        (Live("hosted/m", 40), opened(api_key="nvapi-another")),
        (Live("hosted/m", 40), opened(api_key=None)),
        (Live("hosted/m", 40), opened(base_url="https://nim.example/v1")),
        (Live("hosted/m", 40), opened(address="192.0.2.1")),
    ]

    for live, home in places:
        assert await allowances.take(live, home) == 0.0

    keys = [key.decode() for key in redis.scan_iter()]
    assert len(keys) == len(places) - 1
    assert all(key.startswith(PREFIX) and len(key) == len(PREFIX) + 32 for key in keys)
    everything = b"".join(key.encode() + b"".join(redis.hgetall(key)) for key in keys)
    assert not any(word in everything for word in (b"nvapi", b"nvidia", b"hosted"))
    assert all(0 < redis.pttl(key) <= 2 * spacing(40)[1] / 1000 for key in keys), "what is paid for is forgotten"
