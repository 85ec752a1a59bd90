import asyncio
import os
import sys
from tempfile import TemporaryFile

import pytest

from gateway.workers import child
from gateway.workers.channel import Listening, Task
from tests.fakes.identity_provider import IdentityProvider
from tests.gateway.harness import settings


@pytest.fixture
def begin(monkeypatch, tmp_path):
    """Start a program in place of a worker; it finds its channel's descriptor in sys.argv."""
    with TemporaryFile() as file:

        async def begun(program):
            monkeypatch.setattr(child, "COMMAND", (sys.executable, "-c", program))
            return await child.begin(Task(3, 4, file.fileno(), file.fileno(), settings(tmp_path, {}), False), [])

        yield begun


@pytest.mark.parametrize(
    ("end", "how", "code"),
    [
        ("os._exit(3)", "ended with code 3", 3),
        ("os.kill(os.getpid(), 9)", "was ended by SIGKILL", -9),
        ("os.kill(os.getpid(), 40)", "was ended by signal 40", -40),
    ],
)
async def test_how_a_worker_ended_is_told(begin, end, how, code):
    """By its exit code, or the signal; and whoever waits for its first word waits no longer."""
    one = await begin(f"import os, sys; os.read(int(sys.argv[1]), 1); {end}")
    assert (one.number, one.code, one.port) == (3, None, None)
    await asyncio.wait_for(one.spoke.wait(), 20)

    assert await one.ended == how
    assert (one.code, one.told) == (code, None)


async def test_a_worker_has_a_session_of_its_own_and_no_secret_among_its_arguments(begin):
    """Ctrl-C is for the supervisor; what is in arguments anybody can read."""
    one = await begin("import os, sys; os.read(int(sys.argv[1]), 1); os._exit(os.getsid(0) != os.getpid())")

    assert await one.ended == "ended with code 0"
    assert os.getsid(0) != one._process.pid
    assert one._process.args[:-1] == list(child.COMMAND)
    assert one._process.args[-1].isdecimal()


async def test_whether_one_answers_is_asked_of_it(begin, monkeypatch):
    """One that listens and does not answer hangs; one that does not listen yet cannot answer."""
    one = await begin("import time; time.sleep(600)")
    assert not await one.answers()
    async with IdentityProvider() as server:
        server.instead["/livez"] = (200, b"ok")
        one.told = Listening(server.port)
        assert await one.answers()
        monkeypatch.setattr(child, "ANSWERS_WITHIN", 0.1)
        server.held.clear()
        assert not await one.answers()
        server.held.set()
    one.kill()
    await one.ended


async def test_a_start_that_is_given_up_half_way_leaves_no_process(begin, monkeypatch):
    """Nobody else knows of it yet."""
    processes, spawned = [], child._spawned

    def noted(*told):
        process, end = spawned(*told)
        processes.append(process)
        return process, end

    async def over(end):
        raise asyncio.CancelledError

    monkeypatch.setattr(child, "_spawned", noted)
    monkeypatch.setattr(child.Channel, "over", over)
    with pytest.raises(asyncio.CancelledError):
        await begin("import time; time.sleep(600)")

    assert [process.returncode for process in processes] == [-9]


async def test_one_that_hangs_can_be_killed(begin):
    """Nothing outlives a stop."""
    one = await begin("import time; time.sleep(600)")
    one.stop()
    one.kill()

    assert await one.ended == "was ended by SIGKILL"
