import asyncio
import socket

import pytest

from gateway.config.mistakes import ConfigError, Mistake
from gateway.workers.channel import Channel, Handed, Stop
from gateway.workers.worker import Orders
from tests.gateway.harness import settings


class Signals:
    def __init__(self):
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self.hangup = None

    def on_hangup(self, act):
        self.hangup = act


class Running:
    """A gateway that notes what it is told, with the settings that it would read."""

    def __init__(self, load):
        self.did = []
        self._load = load

    def hang_up(self):
        self.did.append(("renew", self._load()))

    async def reload(self):
        try:
            self.did.append(("reload", self._load()))
        except ConfigError as error:
            self.did.append(("refuse", str(error)))


@pytest.fixture
async def supervisor():
    ours, theirs = socket.socketpair()
    channel, other = await Channel.over(ours), await Channel.over(theirs)
    channel.other = other
    yield channel
    channel.close()
    other.close()


@pytest.fixture
async def orders(supervisor, tmp_path):
    made = Orders(supervisor.other, settings(tmp_path, {}), Signals())
    made.obeying = asyncio.ensure_future(made.obey())
    yield made
    made.obeying.cancel()


async def eventually(condition):
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - whatever it looks at
            await asyncio.sleep(0.005)


async def test_a_stop_is_a_signal_and_a_cut_is_two(supervisor, orders):
    """A worker alone would stop so, too."""
    supervisor.send(Stop())
    await asyncio.wait_for(orders.signals.first.wait(), 10)
    assert not orders.signals.second.is_set()
    supervisor.send(Stop(at_once=True))
    await asyncio.wait_for(orders.signals.second.wait(), 10)


async def test_the_supervisors_end_is_an_order_to_stop(supervisor, orders, told):
    """However it came: nobody is left to say so. The log tells."""
    supervisor.close()
    await asyncio.wait_for(orders.obeying, 10)

    assert orders.signals.first.is_set()
    assert not orders.signals.second.is_set()
    assert "the supervisor is gone" in str(told)


async def test_what_is_handed_down_is_what_the_gateway_reads(supervisor, orders, tmp_path):
    """Good or bad; the certificate is renewed where that was asked for."""
    running = Running(orders.load)
    orders.serve(running)
    assert running.did == []
    other = settings(tmp_path, {}, digest="another")
    wrong = Mistake(1, "lisen", "is no setting", "remove it", "f.yaml")
    for file in (Handed(other), Handed(mistakes=(wrong,)), Handed(other, renews=True)):
        supervisor.send(file)
        await eventually(lambda file=file: orders._file == file)
        await asyncio.sleep(0)
    await eventually(lambda: len(running.did) == 3)

    assert running.did == [("reload", other), ("refuse", str(wrong)), ("renew", other)]
    assert orders.signals.hangup == running.hang_up


async def test_what_came_during_the_start_is_done_after_it(supervisor, orders, tmp_path):
    """A file may change at any moment."""
    other = settings(tmp_path, {}, digest="another")
    supervisor.send(Handed(other))
    await eventually(lambda: orders.load() == other)
    running = Running(orders.load)
    orders.serve(running)

    assert running.did == [("renew", other)]
