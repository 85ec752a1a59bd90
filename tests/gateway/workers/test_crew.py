import asyncio

import pytest

from gateway.server import NothingToServeError
from gateway.workers import crew as crews
from gateway.workers.channel import Failed, Handed, Listening, Stop
from gateway.workers.crew import CannotStart, Crew


class Child:
    """A worker without a process: it ends when the test says so, or when it is told to."""

    def __init__(self, number, told=None, how=None, *, obeys=True):
        self.number = number
        self.begun = crews.clock.monotonic()
        self.told = told
        self.code = None
        self.messages = []
        self.missed = 0
        self.hangs = False
        self.spoke = asyncio.Event()
        self._obeys = obeys
        self._end = asyncio.get_running_loop().create_future()
        self.ended = asyncio.ensure_future(self._run())
        if told is not None:
            self.spoke.set()
        if how is not None:
            self.finish(1, how)

    @property
    def port(self):
        return self.told.port if isinstance(self.told, Listening) and not self.ended.done() else None

    async def _run(self):
        how = await self._end
        self.spoke.set()
        return how

    def finish(self, code, how):
        self.code = code
        self._end.set_result(how)

    def hand(self, file):
        self.messages.append(file)

    def stop(self, *, at_once=False):
        self.messages.append(Stop(at_once))
        if self._obeys and not self._end.done():
            self.finish(0, "ended with code 0")

    async def answers(self):
        return not self.hangs

    def kill(self):
        self.messages.append("kill")
        self.finish(-9, "was ended by SIGKILL")


def serving(number, **options):
    return Child(number, Listening(9000 + number, ("a",), ("m",)), **options)


class Dock:
    """Begins workers as the test asks for, and keeps each."""

    def __init__(self, make=serving):
        self.begun = []
        self.make = make

    async def begin(self, number):
        child = self.make(number)
        self.begun.append(child)
        return child


@pytest.fixture
def dock():
    return Dock()


async def eventually(condition):
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - whatever it looks at
            await asyncio.sleep(0.005)


@pytest.fixture
async def crew(dock):
    made = Crew(2, dock.begin)
    await made.start()
    yield made
    await made.stop(0)


async def test_one_that_ends_by_itself_is_replaced_under_its_number(dock, crew, told):
    """It is told how it ended, and counted."""
    assert crew.ports == {1: 9001, 2: 9002}
    dock.begun[1].finish(-9, "was ended by SIGKILL")
    await eventually(lambda: len(dock.begun) == 3)
    await eventually(lambda: crew.ports == {1: 9001, 2: 9002})

    assert dock.begun[2].number == 2
    assert crew.restarts == {1: 0, 2: 1}
    assert "was ended by SIGKILL" in str(told)


async def test_who_dies_young_again_and_again_is_replaced_ever_later(dock, crew, monkeypatch):
    """Else the machine did nothing but start it; one that had lived is replaced at once."""
    monkeypatch.setattr(crews, "SOONEST", 0.05)
    monkeypatch.setattr(crews, "LATEST", 0.2)
    loop = asyncio.get_running_loop()
    gaps = []
    for number in range(3, 7):
        died = loop.time()
        dock.begun[-1].finish(1, "ended with code 1")
        await eventually(lambda number=number: len(dock.begun) == number)
        gaps.append(loop.time() - died)
    monkeypatch.setattr(crews, "YOUNG", 0.0)
    monkeypatch.setattr(crews, "LATEST", 60.0)
    dock.begun[-1].finish(1, "ended with code 1")
    await eventually(lambda: len(dock.begun) == 7)

    assert [gap >= least for gap, least in zip(gaps, (0.05, 0.1, 0.2, 0.2), strict=True)] == [True] * 4


async def test_one_that_cannot_be_started_is_tried_again(dock, crew, monkeypatch):
    """No memory for another process, say; for how long nobody knows."""
    monkeypatch.setattr(crews, "LATEST", 0.01)
    tries = []

    def refuse(number):
        tries.append(number)
        if len(tries) < 3:
            raise OSError(11, "Resource temporarily unavailable")
        return serving(number)

    dock.make = refuse
    dock.begun[0].finish(1, "ended with code 1")
    await eventually(lambda: len(dock.begun) == 3)

    assert tries == [1, 1, 1]


async def test_one_that_hangs_is_killed_and_replaced(dock, crew, monkeypatch, told):
    """After some looks in a row; until then nothing is passed to it."""
    monkeypatch.setattr(crews, "LOOK_EVERY", 0.02)
    dock.begun[0].finish(1, "ended with code 1")  # whoever is there now is looked at every ten seconds
    dock.begun[1].finish(1, "ended with code 1")
    await eventually(lambda: len(dock.begun) == 4)
    hung = dock.begun[2]
    await asyncio.sleep(0.1)
    hung.hangs = True
    await eventually(lambda: hung.missed == 2)
    assert len(crew.answering) == 1
    hung.hangs = False
    await eventually(lambda: len(crew.answering) == 2)
    assert "kill" not in hung.messages, "it went on"
    hung.hangs = True
    await eventually(lambda: len(dock.begun) == 5)

    assert hung.messages == ["kill"]
    assert hung.missed == crews.MISSES
    assert crew.restarts[hung.number] == 2
    assert "it has not answered 6 times in a row" in str(told)


async def test_one_that_hangs_at_its_start_holds_up_nobody_and_is_replaced(dock, monkeypatch, told):
    """Calls are taken as soon as any other listens, which is replaced meanwhile as ever."""
    monkeypatch.setattr(crews, "SILENT", 1.0)
    made = {1: lambda: Child(1)}
    dock.make = lambda number: made.pop(number, lambda: serving(number))()
    crew = Crew(2, dock.begin)
    assert await crew.start() == Listening(9002, ("a",), ("m",))
    assert crew.ports == {1: None, 2: 9002}
    dock.begun[1].finish(1, "ended with code 1")
    await eventually(lambda: len(dock.begun) == 3)
    assert crew.ports == {1: None, 2: 9002}
    await eventually(lambda: crew.ports == {1: 9001, 2: 9002})

    assert dock.begun[0].messages == ["kill"]
    assert "has not said within 1 s how its start went" in str(told)
    assert await crew.stop(0)


async def test_where_all_hang_at_their_start_it_fails(dock, monkeypatch):
    """And whoever started us learns that nothing will come of it."""
    monkeypatch.setattr(crews, "SILENT", 0.05)
    dock.make = Child
    crew = Crew(2, dock.begin)
    with pytest.raises(CannotStart, match="worker 1 was ended by SIGKILL before it listened"):
        await crew.start()


async def test_a_stop_does_not_wait_for_one_that_is_starting(dock, crew):
    """It may hang, and has no calls; that it was ended is no fault of it."""
    dock.make = Child
    dock.begun[0].finish(1, "ended with code 1")
    await eventually(lambda: len(dock.begun) == 3)
    assert await asyncio.wait_for(crew.stop(3600), 10)

    assert dock.begun[2].messages == ["kill"]


async def test_a_start_that_is_given_up_leaves_nobody(dock):
    """A stop was told meanwhile."""
    dock.make = Child
    crew = Crew(2, dock.begin)
    starting = asyncio.ensure_future(crew.start())
    await eventually(lambda: len(dock.begun) == 2)
    starting.cancel()
    await asyncio.wait({starting})
    await asyncio.wait_for(crew.end(), 10)

    assert [child.messages for child in dock.begun] == [["kill"]] * 2


async def test_a_start_waits_for_one_that_listens_and_it_is_enough(dock):
    """The others are replaced, once it is known that it can work at all."""
    made = {1: lambda: Child(1, Failed("the store is full"), "ended with code 2"), 2: lambda: serving(2)}
    dock.make = lambda number: made.pop(number, lambda: serving(number))()
    crew = Crew(2, dock.begin)

    assert await crew.start() == Listening(9002, ("a",), ("m",))
    await eventually(lambda: crew.ports == {1: 9001, 2: 9002})
    assert await crew.stop(0)


@pytest.mark.parametrize(
    ("told", "error", "words"),
    [
        (Failed("the store is full"), CannotStart, "^the store is full$"),
        (Failed(None), NothingToServeError, "^$"),
        (None, CannotStart, "worker 1 ended with code 7 before it listened"),
    ],
)
async def test_where_none_comes_up_the_start_fails_with_what_one_of_them_said(dock, told, error, words):
    """And nobody is tried again: what is wrong is the same for all."""
    dock.make = lambda number: Child(number, told, "ended with code 7")
    crew = Crew(3, dock.begin)
    with pytest.raises(error, match=words):
        await crew.start()
    await crew.end()

    assert [child.number for child in dock.begun] == [1, 2, 3]


async def test_what_the_file_says_goes_to_all(dock, crew):
    """In order."""
    crew.hand(Handed(mistakes=()))
    crew.hand(Handed(unread=None, renews=True))

    assert [child.messages for child in dock.begun] == [[Handed(), Handed(renews=True)]] * 2


async def test_after_a_stop_nobody_is_replaced(dock, crew):
    """Not even one that waits for its turn to be."""
    dock.begun[0].finish(1, "ended with code 1")
    await eventually(lambda: crew.restarts[1])
    well = await crew.stop(1)

    assert len(dock.begun) == 2
    assert not well, "one had not ended as it should"
    assert crew.stopping


async def test_whoever_has_not_ended_in_time_is_killed(dock, monkeypatch, told):
    """A stop ends, whatever a worker does."""
    monkeypatch.setattr(crews, "LAST", 0.05)
    dock.make = lambda number: serving(number, obeys=number == 1)
    crew = Crew(2, dock.begin)
    await crew.start()
    well = await asyncio.wait_for(crew.stop(0.05), 10)

    assert not well
    assert [child.messages[-1] for child in dock.begun] == [Stop(), "kill"]
    assert "is killed" in str(told)


async def test_a_second_signal_cuts_and_waits_for_no_grace(dock, monkeypatch):
    """However long that would have been."""
    monkeypatch.setattr(crews, "LAST", 0.05)
    dock.make = lambda number: serving(number, obeys=False)
    crew = Crew(2, dock.begin)
    await crew.start()
    stop = asyncio.ensure_future(crew.stop(3600))
    await eventually(lambda: crew.stopping)
    crew.cut()
    await asyncio.wait_for(stop, 10)

    assert [child.messages for child in dock.begun] == [[Stop(), Stop(at_once=True), "kill"]] * 2
