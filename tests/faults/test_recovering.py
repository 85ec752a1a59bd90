"""A primary that is down for a minute and comes back, under steady load: no caller sees any of it."""

import pytest

from tests.faults import recovering, scripts

pytestmark = [pytest.mark.ci, pytest.mark.timeout(120)]

DOWN = {"resets": scripts.reset_before, "503": scripts.answers(503), "garbage": scripts.not_http}

SEVERAL = 12
"""Calls that may meet a primary that is down: three until it is ejected, what was under way then, and its probes."""


@pytest.mark.parametrize("transport", ["pooled", "httpx"])
@pytest.mark.parametrize("down", DOWN)
async def test_the_other_one_serves_while_the_primary_is_down_and_the_primary_soon_after(
    tmp_path, monkeypatch, down, transport
):
    """It is looked for seldom while it is away, and has all of its calls again once it was found."""
    seen = await recovering.recovering(tmp_path, monkeypatch, transport, DOWN[down], stream=down == "resets")

    assert seen.complaints == []
    assert set(seen.before) == {0}
    assert set(seen.away) == {1}
    assert seen.tried <= SEVERAL
    assert seen.found
    assert set(seen.after) == {0}
    assert seen.left == []
