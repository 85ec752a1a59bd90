import asyncio

import pytest
import structlog

from gateway.store import breaker as module
from gateway.store.breaker import Breaker
from gateway.store.failures import StoreDown


class Away:
    """A store that is away until `back`; `asked` counts the questions."""

    def __init__(self):
        self.asked = 0
        self.back = False
        self.error = StoreDown("still away")

    async def __call__(self):
        self.asked += 1
        await asyncio.sleep(0)
        if not self.back:
            raise self.error


@pytest.fixture
async def away():
    return Away()


@pytest.fixture
async def breaker(away, monkeypatch):
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(module, "LAST_PAUSE", 0.04)
    breaker = Breaker(away)
    yield breaker
    await breaker.close()


@pytest.fixture
def log():
    with structlog.testing.capture_logs() as entries:
        yield entries


async def returned(breaker):
    async with asyncio.timeout(5):
        while breaker.why is not None:  # noqa: ASYNC110 - it has no event, and needs none
            await asyncio.sleep(0.001)


async def test_it_trips_once_and_is_back_once_however_many_calls_fail(breaker, away, log):
    returns = []
    breaker.on_return(lambda: returns.append(breaker.why))

    for _ in range(100):
        breaker.trip("gone", breaker.era)
    assert (breaker.why, breaker.since is None) == ("gone", False)
    away.back = True
    await returned(breaker)

    assert (away.asked, returns, breaker.since) == (1, [None], None)
    assert [(entry["log_level"], entry["event"]) for entry in log] == [
        ("error", "the store is down"),
        ("warning", "the store is back"),
    ]
    assert log[0]["why"] == "gone"
    assert log[1]["away_s"] >= 0


async def test_one_prober_asks_at_once_and_then_ever_more_seldom_and_tells_the_latest_reason(breaker, away, log):
    breaker.trip("gone", 0)
    await asyncio.sleep(0.3)

    assert breaker.why == "still away"
    assert 2 <= away.asked <= 12  # at 0, 10, 30, 70, 110 ... ms
    assert len(log) == 1


async def test_a_failure_of_what_was_sent_before_the_return_says_nothing_about_now(breaker, away):
    before = breaker.era
    breaker.trip("gone", before)
    away.back = True
    await returned(breaker)

    breaker.trip("gone", before)
    assert breaker.why is None

    breaker.trip("gone again", breaker.era)
    assert breaker.why == "gone again"


async def test_a_store_that_flaps_is_asked_no_faster_than_one_that_stays_away(breaker, away):
    away.back = True
    for _ in range(4):
        breaker.trip("gone", breaker.era)
        await returned(breaker)
    breaker.trip("gone", breaker.era)
    await asyncio.sleep(0.005)

    assert breaker.why == "gone"
    assert away.asked == 4


async def test_a_prober_goes_on_after_an_error_that_nobody_foresaw(breaker, away, log):
    away.error = KeyError("a bug")
    breaker.trip("gone", 0)
    await asyncio.sleep(0.03)
    away.back = True
    await returned(breaker)

    assert "asking whether the store is back failed" in [entry["event"] for entry in log]


async def test_a_callback_that_fails_keeps_no_other_from_being_called(breaker, away, log):
    called = []
    breaker.on_return(lambda: 1 // 0)
    breaker.on_return(lambda: called.append(1))
    breaker.trip("gone", 0)
    away.back = True
    await returned(breaker)
    await asyncio.sleep(0)

    assert called == [1]
    assert log[-1]["exc_info"]


async def test_it_asks_no_more_when_it_is_closed(breaker, away):
    breaker.trip("gone", 0)
    await asyncio.sleep(0.02)
    await breaker.close()
    asked = away.asked
    breaker.why = None
    breaker.trip("gone", 0)
    await asyncio.sleep(0.1)

    assert away.asked == asked


async def test_while_it_is_held_it_is_down_and_nobody_asks(breaker, away, log):
    """Its reason may change; a failure of what was sent before tells nothing new."""
    returns = []
    breaker.on_return(lambda: returns.append(breaker.why))
    breaker.hold("not yet")
    since = breaker.since
    breaker.trip("gone", breaker.era)
    breaker.hold("still not")
    await asyncio.sleep(0.05)
    assert (breaker.why, breaker.since, away.asked, returns) == ("still not", since, 0, [])

    breaker.free()

    assert (breaker.why, breaker.since, breaker.era, returns) == (None, None, 1, [None])
    assert log == []
    breaker.trip("gone", breaker.era)
    away.back = True
    await returned(breaker)


async def test_one_that_is_held_while_it_is_away_does_not_come_back_by_itself(breaker, away, log):
    """It must not be used, whatever it answers; let in, it is asked again as soon as somebody misses it."""
    breaker.trip("gone", breaker.era)
    await asyncio.sleep(0.02)
    breaker.hold("it may forget")
    away.back = True
    asked = away.asked
    await asyncio.sleep(0.1)
    assert (breaker.why, away.asked) == ("it may forget", asked)

    breaker.free()
    assert breaker.why is None
    breaker.trip("gone", breaker.era)
    await returned(breaker)
    assert [entry["event"] for entry in log] == ["the store is down", "the store is down", "the store is back"]
