import asyncio
import contextlib
import ssl
from tempfile import TemporaryFile

import pytest

from gateway.config.settings import Listen
from gateway.connections import Connections
from gateway.listener import listen
from gateway.server import bind
from gateway.tls import server_context
from gateway.workers.turns import SLACK, Turns, room
from tests.parts.certificates import self_signed


@pytest.fixture
def turns():
    with TemporaryFile() as file:
        file.truncate(room(3))
        sides = [Turns(file.fileno(), 3) for _ in range(3)]
        sides[0].begin()
        yield sides
        for side in sides:
            side.close()


def test_whoever_holds_more_than_the_others_lets_them_go_first(turns):
    """And not before it holds some more; the count of one is seen by all."""
    first, second, _ = (side.of(number) for number, side in enumerate(turns, 1))
    second(0)

    assert [first(held) for held in range(SLACK + 2)] == [False] * (SLACK + 1) + [True]
    assert not second(1)
    assert not first(SLACK + 1)


def test_with_many_connections_a_few_more_are_nothing(turns):
    """An eighth."""
    first, second, _ = (side.of(number) for number, side in enumerate(turns, 1))
    second(800)

    assert not first(900)
    assert first(905)


def test_one_that_is_not_there_is_not_waited_for(turns):
    """Before it listens, and after it has ended."""
    first, second, third = (side.of(number) for number, side in enumerate(turns, 1))
    assert not first(1000)
    second(0)
    third(0)
    assert first(1000)
    turns[0].absent(2)
    turns[0].absent(3)
    assert not first(1000)


def test_of_a_burst_each_takes_its_part(turns):
    """Even if one is always the first to be woken."""
    held = {1: 0, 2: 0, 3: 0}
    asked = {number: side.of(number) for number, side in enumerate(turns, 1)}
    for number in held:
        asked[number](0)
    for _ in range(300):
        taker = next(number for number in held if not asked[number](held[number]))
        held[taker] += 1

    assert max(held.values()) <= min(held.values()) * 1.2 + SLACK


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
async def test_two_listeners_of_one_socket_share_a_burst_of_callers(turns, tmp_path, secure):
    """Whichever is woken first; a third that hangs costs them time, and nobody is left waiting."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    bound = bind(Listen("127.0.0.1", 0))
    pair = self_signed(tmp_path) if secure else None
    trust = ssl.create_default_context(cafile=pair[0]) if pair else None
    context = server_context(*pair) if pair else None
    houses = [Connections(1000), Connections(1000)]
    turns[2].of(3)(0)  # it listens, and accepts nobody
    async with contextlib.AsyncExitStack() as stack:
        for number, house in enumerate(houses, 1):
            yields = turns[number - 1].of(number)
            yields(0)
            await listen(stack, app, bound.dup(), house, context=context, yields=yields)
        port = bound.getsockname()[1]
        bound.close()

        async def call():
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust)
            stack.callback(writer.close)
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            assert await reader.readuntil(b"\r\n\r\n")

        await asyncio.gather(*(call() for _ in range(60)))
        held = [len(house) for house in houses]

    assert sum(held) == 60
    assert min(held) >= 20
