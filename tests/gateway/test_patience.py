import asyncio
import math

import pytest

from gateway import clock
from gateway.patience import Patience


async def waits(*steps, deadline=30.0):
    """Run (name, argument, seconds of sleep) steps inside a Patience; say which one it ended in, else None."""
    patience = Patience(clock.monotonic() + deadline)
    number = 0
    try:
        with patience:
            for number, (name, argument, seconds) in enumerate(steps):  # noqa: B007 - told in the end
                getattr(patience, name)(*argument)
                await asyncio.sleep(seconds)
    except TimeoutError:
        return number, patience.spent
    return None


@pytest.mark.parametrize(
    ("steps", "deadline", "ended"),
    [
        ([("wait", (0.05,), 5)], 30, (0, False)),
        ([("wait", (1.0,), 0.01)], 30, None),
        ([("wait", (1.0,), 0.25)] * 5, 30, None),
        ([("wait", (1.0,), 0.25)] * 4 + [("wait", (0.2,), 5)], 30, (4, False)),
        ([("wait", (0.5,), 0.01), ("rest", (), 0.7)], 30, None),
        ([("wait", (0.5,), 0.01), ("rest", (), 0.7), ("wait", (0.05,), 5)], 30, (2, False)),
        ([("wait", (10,), 0.01), ("wait", (0.05,), 5)], 30, (1, False)),
        ([("wait", (10,), 5)], 0.1, (0, True)),
        ([("wait", (10,), 0.01), ("rest", (), 5)], 0.5, (1, True)),
        ([("wait", (10,), 0.1)], -1, (0, True)),
    ],
)
async def test_patience_ends_where_it_was_last_said_to(steps, deadline, ended):
    """Later, earlier or never; a rest counts against the call's own deadline alone."""
    assert await waits(*steps, deadline=deadline) == ended


async def test_patience_sets_no_timer_for_a_chunk(monkeypatch):
    """A thousand streams of fifty chunks a second would otherwise fill the loop's heap."""
    loop = asyncio.get_running_loop()
    set_timers, call_later = [], loop.call_later
    monkeypatch.setattr(loop, "call_later", lambda *what: set_timers.append(what) or call_later(*what))
    with Patience(clock.monotonic() + 60) as patience:
        for _ in range(1000):
            patience.rest()
            patience.wait(30)

    assert len(set_timers) == 1


async def test_a_cancellation_from_outside_stays_one():
    """Also where time was up too."""

    async def waiting():
        with Patience() as patience:
            patience.wait(30)
            await asyncio.sleep(30)

    task = asyncio.ensure_future(waiting())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_who_is_patient_goes_on_after_its_time():
    """The cancellation that it made is taken back."""
    assert await waits(("wait", (0.01,), 30)) == (0, False)
    await asyncio.sleep(0.01)

    assert not asyncio.current_task().cancelling()


async def test_without_a_deadline_a_rest_has_no_end():
    """And no timer."""
    with Patience(math.inf) as patience:
        patience.wait(0.01)
        patience.rest()
        await asyncio.sleep(0.05)

    assert patience.spent


def test_only_a_task_has_patience():
    """There would be nothing to cancel."""
    with pytest.raises(RuntimeError):
        Patience().__enter__()


async def test_what_is_left_is_the_nearer_of_both_ends():
    """Upstreams that want to know how long they are waited for are told no more."""
    patience = Patience(clock.monotonic() + 30.0)
    with patience:
        patience.wait(5.0)
        assert 4.0 < patience.left <= 5.0
        patience.wait(500.0)
        assert 29.0 < patience.left <= 30.0
