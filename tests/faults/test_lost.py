"""Gateways and stores that are lost in the middle of calls, and what becomes of the books: mostly waiting, in all."""

import pytest

from tests.faults import failover, killing, outage, upstreams, widow

pytestmark = [pytest.mark.ci, pytest.mark.timeout(240)]

SERVICE_BACK = 5.0
"""Seconds without an answer that a failover may cost."""

ROUNDING = 1
"""Calls by which a share may be exceeded: a gateway knows what others took as of its last answer."""


async def test_what_a_killed_gateway_held_comes_back_charged_to_its_last_heartbeat(tmp_path):
    """100 streams: their slots are free within 25 s."""
    seen = await killing.killing(tmp_path)

    assert seen.refused_while_held == 429
    assert seen.back_after <= killing.BACK_WITHIN
    assert seen.admitted_after <= killing.BACK_WITHIN
    assert seen.expired == seen.reaped == killing.STREAMS
    assert seen.outside == []
    assert seen.slots_left == 0
    assert seen.differences == []


@pytest.mark.parametrize("lag", [0.0, 0.4])
@pytest.mark.parametrize("kind", ["cluster", "sentinels"])
async def test_a_replica_takes_over_and_the_books_are_equal(tmp_path, kind, lag):
    """Also where the server that died had acknowledged what its replica never heard of."""
    seen = await failover.failover(tmp_path, kind, lag)

    assert seen.repeated > 0
    assert seen.bytes_lost > 0 or not lag
    assert seen.gap <= SERVICE_BACK
    assert seen.told_wrong == []
    assert seen.unbooked <= seen.lost
    assert seen.tokens_booked == seen.tokens_told - seen.tokens_unbooked
    assert seen.refused > 0
    assert seen.beyond_rate <= seen.lost
    assert seen.differences == []


@pytest.mark.parametrize(("kind", "gateways"), [("stop", 2), ("tear", 1)])
async def test_callers_see_nothing_of_an_outage_and_the_books_are_equal_afterwards(
    tmp_path, monkeypatch, kind, gateways
):
    """Where plans say `local`: each gateway lets in its share; what the store had lost it is told again."""
    monkeypatch.setattr(outage, "AFTER", 3.0)
    monkeypatch.setattr(upstreams, "LONG_WORDS", 200)
    seen = await outage.outage(tmp_path, kind, gateways, 4.0)

    assert seen.failures == []
    assert seen.served_alone > 0
    assert bool(seen.repeated) is (kind == "tear")
    assert seen.beyond_share <= ROUNDING
    assert seen.beyond_rate <= ROUNDING
    assert 0 < seen.purse_share <= 1
    assert 0 < seen.purse <= outage.PURSE
    assert 0 < seen.slots_away <= outage.SLOTS // gateways
    assert seen.long_streams_whole == outage.LONG_STREAMS
    assert seen.expired == seen.reaped == 0
    assert seen.unbooked == []
    assert seen.told_wrong == []
    assert seen.cut_outside == []
    assert seen.differences == []


async def test_what_a_gateway_that_was_killed_in_an_outage_had_settled_is_booked_by_its_next_life(tmp_path):
    """From its journal; the streams that it held are charged as a lost gateway's are."""
    seen = await widow.widow(tmp_path)

    assert seen.away > 0
    assert seen.unbooked == []
    assert seen.told_wrong == []
    assert seen.expired >= widow.HOLDING
    assert seen.held == seen.slots == 0
    assert seen.differences == []
