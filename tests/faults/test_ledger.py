"""The ledger under many callers, over real gateways and real stores: counts, orders and ratios, no absolute times."""

import asyncio

import pytest

from tests.faults import batching, crowding

pytestmark = [pytest.mark.ci, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """Let 64 callers over 3 gateways and one store make 20,000 calls, of which they leave one in five."""
    return asyncio.run(crowding.crowding(tmp_path_factory.mktemp("crowd")))


def test_limits_hold_and_every_token_is_booked(crowd):
    """By the store's clock and by what upstreams told; the audit is clean at the end, and was while calls went on."""
    seen = crowd

    assert seen.calls >= crowding.CALLS
    assert seen.refused > 0
    assert seen.broken == 0
    assert seen.beyond_rate <= 0
    assert 0 < seen.most_slots <= crowding.SLOTS
    assert 0 < seen.most_slots_sampled <= crowding.SLOTS
    assert seen.unbooked == []
    assert seen.told_wrong == []
    assert seen.rows_wrong == []
    assert seen.differences_midway == []
    assert seen.differences == []


def test_a_cut_call_is_charged_what_was_written_when_it_was_left(crowd):
    """Each within the events in flight at the cut; their mean is off by less than an event."""
    assert crowd.cuts >= 1_000
    assert crowd.cut_outside == []
    assert abs(crowd.bias) < 1


@pytest.mark.parametrize("organizations", [1, 8])
async def test_callers_at_a_time_share_round_trips(tmp_path, organizations):
    """32 of them, of one organization or of eight."""
    seen = await batching.batching(tmp_path, organizations)

    assert set(seen.statuses) == {200}
    assert seen.round_trips_a_call <= 0.3
