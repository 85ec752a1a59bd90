import asyncio
import gc

import pytest

from gateway.ledger import wire
from gateway.ledger.holdings import Holding
from gateway.ledger.operations import Admission, Growth, Settlement
from gateway.store.door import StoreDown
from policies.domain import Claim, Level, Meter, MeterKind, Reservation, Standing, Usage
from policies.rejections import Reason
from tests.gateway.ledger.support import DOWN

MINUTE = 60_000_000
LEVELS = (
    Level("organization", "organization", ()),
    Level(
        "key",
        "key:1",
        (Meter(MeterKind.REQUESTS_PER_MINUTE, 60, 60, MINUTE), Meter(MeterKind.TOKENS_PER_MINUTE, 10, 20, MINUTE)),
    ),
)
CLAIM = Claim("acme", "k", "m", LEVELS, tokens=5, prompt_tokens=2)


@pytest.fixture
def holding():
    return Holding("acme")


@pytest.fixture
def released():
    return []


@pytest.fixture
async def admission(holding, released):
    return Admission("r", CLAIM, b"plan", holding, lambda organization, id_: released.append((organization, id_)))


async def test_a_grant_is_open_and_tells_the_tightest_standings(admission, holding):
    admission.answered([wire.DONE, 0, 0, 0, 2, 1, MINUTE, 2, 2, 15 * MINUTE])

    assert await admission.outcome == Reservation(
        "r", CLAIM, requests=Standing(60, 59, 1_000_000), tokens=Standing(10, 5, 90_000_000)
    )
    assert set(holding.open) == {"r"}


async def test_a_refusal_names_the_level_and_meter_of_its_place_in_the_claim(admission, holding):
    admission.answered([wire.REFUSED, 2, 2, 1500, 0, 0, 0, 2, 2, 20 * MINUTE])

    rejection = await admission.outcome
    assert (rejection.level, rejection.meter, rejection.retry_after_us) == ("key", "tokens_per_minute", 1500)
    assert (rejection.requests, rejection.tokens) == (None, Standing(10, 0, 120_000_000))
    assert holding.open == {}


async def test_what_is_larger_than_the_bucket_has_no_time(admission):
    admission.answered([wire.TOO_LARGE, 2, 2, 0, 0, 0, 0, 0, 0, 0])

    rejection = await admission.outcome
    assert (rejection.reason, rejection.retry_after_us) == (Reason.TOO_LARGE_FOR_LIMIT, None)


async def test_an_admission_whose_caller_is_gone_is_not_wanted_and_its_grant_is_released(admission, holding, released):
    assert admission.wanted()
    admission.outcome.cancel()

    assert not admission.wanted()
    admission.answered([wire.REFUSED, 2, 2, 1500, 0, 0, 0, 0, 0, 0])
    assert released == []
    admission.answered([wire.DONE, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    assert released == [("acme", "r")]
    assert holding.open == {}


@pytest.mark.parametrize("sent", [True, False])
async def test_a_lost_admission_is_told_and_released_if_it_may_have_been_granted(admission, released, sent):
    admission.sent = sent

    assert admission.failed(DOWN) is False

    with pytest.raises(StoreDown, match="away"):
        await admission.outcome
    assert released == ([("acme", "r")] if sent else [])


async def test_an_admission_is_lost_quietly_when_its_caller_is_gone(admission, released):
    admission.sent = True
    admission.outcome.cancel()

    assert admission.failed(DOWN) is False
    assert released == [("acme", "r")]


async def test_a_loss_that_its_caller_did_not_wait_for_is_not_reported(admission):
    reports = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    admission.failed(DOWN)

    admission.outcome = None
    gc.collect()

    assert reports == []


async def test_growth_tells_what_the_script_says_or_that_the_store_is_down():
    reservation = Reservation("r", CLAIM, None, None)
    granted, refused, lost, gone = (Growth(reservation, step, 7) for step in (1, 2, 3, 4))

    assert granted.body(wire.Arguments()) == (wire.GROW, "r", 1, 7)
    granted.answered([wire.DONE])
    refused.answered([wire.REFUSED])
    assert lost.failed(DOWN) is False
    gone.outcome.cancel()
    gone.answered([wire.DONE])

    assert await granted.outcome is True
    assert await refused.outcome is False
    with pytest.raises(StoreDown):
        await lost.outcome
    assert not gone.wanted()


def test_a_settlement_is_known_until_it_is_answered_and_is_repeated_until_then(holding):
    settlement = Settlement("r", Usage(3, 4, estimated=True), holding)

    assert holding.settling == {"r"}
    assert settlement.body(wire.Arguments()) == (wire.SETTLE, "r", True, 3, 4, True)
    assert settlement.failed(DOWN) is True
    settlement.answered([wire.REFUSED])
    assert holding.settling == set()


def test_a_release_books_nothing(holding):
    assert Settlement("r", None, holding).body(wire.Arguments()) == (wire.SETTLE, "r", False, 0, 0, False)
