"""A caller who leaves stops the GPU: its upstream sees the close at once, whatever was going on."""

import statistics

import pytest

from tests.faults.leaving import PHASES, measure, site

AT_ONCE = 0.05
"""Seconds; a median is a few hundred times less on an idle core."""


@pytest.mark.parametrize("phase", PHASES)
async def test_the_upstream_knows_at_once(tmp_path, phase):
    """Before the first byte, between events, and while the gateway waits for room to write."""
    async with site(tmp_path) as (gateway, key):
        took = await measure(gateway, key, phase, 15)

    assert statistics.median(took) < AT_ONCE
