"""Faults at random, over three deployments: the short form of the soak."""

import asyncio

import pytest
import uvloop

from tests.faults.composed import composed

pytestmark = [pytest.mark.ci, pytest.mark.timeout(180)]

CALLS = 300


@pytest.mark.parametrize("transport", ["pooled", "httpx"])
def test_no_composition_of_faults_breaks_a_law(tmp_path, transport):
    """Late, cut and looking whole, tried too often, booked wrong, or something left behind."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        seen = runner.run(composed(tmp_path, 7, CALLS, transport))

    assert seen.complaints == []
    assert seen.left == []
    assert seen.calls == CALLS
    assert seen.ends["200 whole"] > CALLS // 3
