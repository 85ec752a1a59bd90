import asyncio

import pytest

from gateway import clock
from gateway.identity import strangers
from gateway.identity.fence import Fence
from gateway.identity.keys import new_key
from gateway.identity.strangers import RATE, TOGETHER, Crowded, Strangers
from gateway.store.door import StoreDown

STOOD = Fence(1, b"here")


class Noting:
    """A registry that notes what it is asked; `known` are the ids it has."""

    def __init__(self, known=(), *, down=False):
        self.known, self.down, self.questions = set(known), down, []

    async def existing(self, ids):
        self.questions.append(set(ids))
        if self.down:
            raise StoreDown("away")
        return STOOD, frozenset(self.known & set(ids))


async def test_a_lone_stranger_is_asked_about_at_once():
    """Nobody waits for others who do not come."""
    registry = Noting({"known"})
    lane = Strangers(registry)
    assert await lane.exists("known") == (STOOD, True)
    assert await lane.exists("unknown") == (STOOD, False)
    assert registry.questions == [{"known"}, {"unknown"}]


async def test_those_who_wait_go_together():
    """In one command, whatever their number."""
    registry = Noting({"7"})
    lane = Strangers(registry)
    answers = await asyncio.gather(*(lane.exists(str(number)) for number in range(50)))
    assert answers == [(STOOD, number == 7) for number in range(50)]
    assert registry.questions == [{str(number) for number in range(50)}]


async def test_questions_keep_the_rate_however_many_strangers_knock():
    """The store has more to do than to say no."""
    registry = Noting({"good"})
    lane = Strangers(registry)
    began = clock.monotonic()
    for _ in range(30):
        await lane.exists(new_key()[0])
    assert len(registry.questions) == 30
    assert clock.monotonic() - began >= 29 / RATE * 0.99


async def test_a_full_question_takes_no_more_until_it_is_sent(monkeypatch):
    """That bounds the memory; whoever is turned away may come back."""
    monkeypatch.setattr(strangers, "TOGETHER", 3)
    lane = Strangers(Noting())
    assert TOGETHER > 3
    asked = [clock.spawn(lane.exists(str(number)), "ask") for number in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Crowded):
        await lane.exists("late")
    await asyncio.gather(*asked)
    assert not (await lane.exists("late"))[1]


async def test_a_caller_who_leaves_takes_nobody_along():
    """The question is everybody's."""
    lane = Strangers(Noting({"stays"}))
    leaves = clock.spawn(lane.exists("leaves"), "leaves")
    stays = clock.spawn(lane.exists("stays"), "stays")
    await asyncio.sleep(0)
    leaves.cancel()
    assert await stays


async def test_a_store_that_is_away_fails_all_who_asked_and_the_next_question_is_a_new_one():
    """Nothing of the failure stays."""
    registry = Noting({"a"}, down=True)
    lane = Strangers(registry)
    answers = await asyncio.gather(lane.exists("a"), lane.exists("b"), return_exceptions=True)
    assert all(isinstance(answer, StoreDown) for answer in answers)
    registry.down = False
    assert await lane.exists("a")
