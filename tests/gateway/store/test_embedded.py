import asyncio
import contextlib
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import structlog

from gateway.store import embedded as module
from gateway.store.door import Store, StoreDown
from gateway.store.embedded import DataDirLocked, embedded
from gateway.store.notes import note_at
from tests.parts.gateway import STORE_DEADLINE
from tests.parts.processes import lives

OWNER = """
import asyncio, sys
from pathlib import Path
from gateway.store.embedded import embedded

async def main():
    async with embedded(Path(sys.argv[1])) as url:
        print(url, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


BEQUEATHED = """
import asyncio, subprocess, sys
from pathlib import Path
from gateway.store.embedded import shared

async def main():
    async with shared(Path(sys.argv[1])) as store:
        heir = subprocess.Popen(["sleep", "600"], pass_fds=[store.lifeline], stdout=subprocess.DEVNULL)
        print(store.url, heir.pid, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


@contextlib.contextmanager
def owner(data_dir, program=OWNER):
    """Another process that runs a store in `data_dir`; yields it and the store's URL."""
    with subprocess.Popen(
        [sys.executable, "-c", program, str(data_dir)], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@contextlib.asynccontextmanager
async def opened(url):
    store = Store(url, deadline=STORE_DEADLINE)
    try:
        yield store
    finally:
        await store.close()


async def pid_of(store):
    (info,) = await store.send(["INFO", "server"])
    return info["process_id"]


async def comes_true(condition, seconds=5.0):
    for _ in range(int(seconds / 0.01)):
        if condition():
            return True
        await asyncio.sleep(0.01)
    return False


def runtime_of(url):
    return Path(url.removeprefix("unix://")).parent


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


async def test_it_answers_when_it_is_yielded_and_keeps_what_was_written(tmp_path):
    data_dir = tmp_path / "a directory" / "data"
    for expected in (1, 2, 3):
        async with embedded(data_dir) as url, opened(url) as store:
            assert await store.send(["INCR", "n"]) == [expected]


async def test_it_loses_nothing_that_a_killed_owner_wrote_and_is_free_again_at_once(tmp_path):
    with owner(tmp_path) as (process, url):
        async with opened(url) as store:
            await store.send(["SET", "n", "1"])
            pid = await pid_of(store)
        process.kill()
        process.wait()

        async with embedded(tmp_path) as again, opened(again) as store:
            assert not lives(pid)  # two stores would have shared one file
            assert await store.send(["GET", "n"]) == [b"1"]


async def test_a_shared_one_outlives_a_killed_owner_by_those_who_have_its_lifeline(tmp_path):
    """Workers whose supervisor was killed have calls to settle."""
    with owner(tmp_path, BEQUEATHED) as (process, told):
        url, heir = told.split()
        async with opened(url) as store:
            pid = await pid_of(store)
            process.kill()
            process.wait()
            assert await store.send(["INCR", "n"]) == [1]
            os.kill(int(heir), signal.SIGKILL)
        assert await comes_true(lambda: not lives(pid))

        async with embedded(tmp_path) as again, opened(again) as store:
            assert await store.send(["GET", "n"]) == [b"1"]


async def test_it_dies_with_an_owner_that_is_killed_and_leaves_no_runtime_directory(tmp_path):
    with owner(tmp_path) as (process, url):
        async with opened(url) as store:
            pid = await pid_of(store)
        runtime = runtime_of(url)
        assert mode_of(runtime) == 0o700

        process.kill()

        assert await comes_true(lambda: not lives(pid))
        assert await comes_true(lambda: not runtime.exists())


async def test_a_terminals_interrupt_does_not_reach_it(tmp_path):
    with owner(tmp_path) as (process, url):
        async with opened(url) as store:
            pid = await pid_of(store)

            assert os.getsid(pid) != os.getsid(process.pid)
            os.killpg(os.getpgid(pid), signal.SIGHUP)
            assert await store.send(["PING"]) == [True]


async def test_a_second_owner_is_told_who_holds_the_directory(tmp_path):
    with owner(tmp_path) as (process, _):
        message = f"{tmp_path} is in use by process {process.pid}:"
        with pytest.raises(DataDirLocked, match=message):
            await embedded(tmp_path).__aenter__()

    async with embedded(tmp_path):
        with pytest.raises(DataDirLocked, match=f"process {os.getpid()}:"):
            await embedded(tmp_path).__aenter__()


async def test_its_files_are_for_nobody_else_and_it_listens_on_no_port(tmp_path):
    data_dir = tmp_path / "data"
    async with embedded(data_dir) as url, opened(url) as store:
        (told,) = await store.send(["CONFIG", "GET", "port", "maxmemory-policy", "appendfsync"])

        assert told == {b"port": b"0", b"maxmemory-policy": b"noeviction", b"appendfsync": b"everysec"}
        assert [mode_of(path) for path in (data_dir, runtime_of(url), runtime_of(url) / "store")] == [0o700] * 3
        assert (data_dir / "appendonlydir").is_dir()


async def test_one_that_cannot_start_says_why(tmp_path):
    (tmp_path / "appendonlydir").write_text("in the way")

    with pytest.raises(StoreDown, match=r"ended with code 1: .*append"):
        await embedded(tmp_path).__aenter__()

    (tmp_path / "appendonlydir").unlink()
    async with embedded(tmp_path) as url, opened(url) as store:
        assert await store.send(["PING"]) == [True]


async def test_one_that_does_not_stop_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "STOPPED_WITHIN", 0.2)
    async with embedded(tmp_path) as url, opened(url) as store:
        pid = await pid_of(store)
        os.kill(pid, signal.SIGSTOP)

    assert await comes_true(lambda: not lives(pid))


@pytest.fixture
def log():
    with structlog.testing.capture_logs() as entries:
        yield entries


def told(log, event):
    """Return the lines of the log that say so."""
    return [line for line in log if line["event"] == f"the embedded store {event}"]


SAFELY = ("CONFIG", "SET", "appendfsync", "always")
"""Makes a store write what follows before it answers, be its disk as busy as it may."""

AGAIN = "has ended and is started again"
OFTEN = "has ended too often; it is tried again from time to time: mend what it says"
KILLED = "killed (SIGKILL), perhaps for memory"


async def answers(url):
    """Return the pid of the store that answers at `url`, once one does."""
    async with asyncio.timeout(10), opened(url) as store:
        while True:
            with contextlib.suppress(StoreDown):
                return await pid_of(store)
            await asyncio.sleep(0.01)


async def test_one_that_is_killed_is_started_again_at_its_place_with_all_that_it_had(tmp_path, log):
    """Whoever has its door open finds it again by itself."""
    async with embedded(tmp_path) as url, opened(url) as store:
        for ended_before in range(2):
            assert await store.send(SAFELY, ["INCR", "n"]) == [b"OK", 1 + ended_before]
            pid = await pid_of(store)
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(StoreDown):
                await store.send(["PING"])
            assert await comes_true(lambda: store.down is None)
            assert await pid_of(store) != pid
            assert not lives(pid)
        assert await store.send(["GET", "n"]) == [b"2"]
        last = await pid_of(store)

    assert not lives(last)
    assert [(line["code"], line["next_in_s"]) for line in told(log, AGAIN)] == [(137, 0.1), (137, 0.2)]
    assert {line["said"] for line in told(log, AGAIN)} == {KILLED}  # its last words were about something else


async def test_one_that_ends_again_and_again_is_tried_seldom_and_for_ever(tmp_path, log, monkeypatch):
    """Whoever uses it is told why it is away, and until when; the log tells when it ends so, and when it is back."""
    monkeypatch.setattr(module, "SOONEST", 0.001)
    monkeypatch.setattr(module, "SELDOM", 1.0)
    async with embedded(tmp_path) as url:
        for number in range(1, module.RESTARTS + 4):
            os.kill(pid := await answers(url), signal.SIGKILL)
            assert await comes_true(lambda pid=pid: not lives(pid))
            assert await comes_true(lambda n=number: len(told(log, AGAIN) + told(log, OFTEN)) == n)
            if number > module.RESTARTS:
                why = f"cannot be reached: the embedded store has ended {number} times in a row ({KILLED}), and is"
                async with opened(url) as store:
                    with pytest.raises(StoreDown, match=re.escape(why)):
                        await store.send(["PING"])
                assert await comes_true(lambda n=number: len(told(log, "is back")) == n - module.RESTARTS)
        await answers(url)

    assert [line["next_in_s"] for line in told(log, AGAIN)] == [0.0] * module.RESTARTS
    assert {(line["code"], line["said"]) for line in told(log, OFTEN)} == {(137, KILLED)}
    assert [line["ended"] for line in told(log, "is back")] == [6, 7, 8]
    assert not runtime_of(url).exists()


async def test_ends_of_long_ago_do_not_count(tmp_path, log, monkeypatch):
    monkeypatch.setattr(module, "SOONEST", 0.001)
    monkeypatch.setattr(module, "WITHIN", 0.01)
    async with embedded(tmp_path) as url:
        for _ in range(module.RESTARTS + 2):
            os.kill(await answers(url), signal.SIGKILL)
            await asyncio.sleep(0.02)
        await answers(url)

    assert not told(log, OFTEN)


async def test_one_that_cannot_be_started_again_is_tried_as_often_as_one_that_ends(tmp_path, log, monkeypatch):
    """The system may have no memory for it either, or no process; here it has no place. It is told once."""
    monkeypatch.setattr(module, "SOONEST", 0.001)
    monkeypatch.setattr(module, "SELDOM", 0.05)
    data_dir = tmp_path / "data"
    async with embedded(data_dir) as url:
        pid, note = await answers(url), note_at(url)
        data_dir.rename(tmp_path / "elsewhere")
        os.kill(pid, signal.SIGKILL)
        assert await comes_true(lambda: f"has ended {module.RESTARTS + 5} times" in (note.read() or ""))
        (tmp_path / "elsewhere").rename(data_dir)
        assert await comes_true(lambda: told(log, "is back"))
        await answers(url)
        assert note.read() is None

    why = f"it cannot be started: [Errno 2] No such file or directory: '{data_dir}'"
    assert [line["said"] for line in told(log, AGAIN)] == [KILLED, *[why] * (module.RESTARTS - 1)]
    assert [line["said"] for line in told(log, OFTEN)] == [why]
    assert len(told(log, "is back")) == 1


@pytest.mark.parametrize("pause", [0.0, 5.0])
async def test_a_stop_while_it_is_started_again_leaves_nobody(tmp_path, log, monkeypatch, pause):
    """Be it in the pause before, or when the next one has just begun and cannot hear a signal yet."""
    monkeypatch.setattr(module, "SOONEST", pause)
    stops = []
    async with embedded(tmp_path) as url:
        os.kill(await answers(url), signal.SIGKILL)
        async with asyncio.timeout(10):
            while not told(log, AGAIN):  # noqa: ASYNC110 - it is the log that changes
                await asyncio.sleep(0)  # so as to be there at that very moment
        for _ in range(3):
            await asyncio.sleep(0)
        stops.append(time.monotonic())

    assert time.monotonic() - stops[0] < module.STOPPED_WITHIN / 2
    assert not runtime_of(url).exists()
    async with embedded(tmp_path) as url, opened(url) as store:  # which would be refused while anybody has the lock
        assert await store.send(["PING"]) == [True]


async def test_its_watchdogs_end_alone_changes_nothing(tmp_path, log):
    """Two stores would share one file."""
    async with embedded(tmp_path) as url, opened(url) as store:
        pid = await pid_of(store)
        os.kill(os.getpgid(pid), signal.SIGKILL)
        await asyncio.sleep(0.3)
        assert await pid_of(store) == pid

    assert not lives(pid)
    assert not told(log, AGAIN)


async def test_one_whose_watchdog_was_killed_before_it_is_started_again(tmp_path, log):
    """Whoever waits for our end then is nobody's child, and would be taken for it."""
    async with embedded(tmp_path) as url:
        pid = await answers(url)
        group = os.getpgid(pid)
        os.kill(group, signal.SIGKILL)
        await asyncio.sleep(0.1)
        os.kill(pid, signal.SIGKILL)
        assert await answers(url) != pid
        assert members(group) == []

    assert [line["code"] for line in told(log, AGAIN)] == [None]


async def test_one_of_which_nothing_can_be_read_is_started_again(tmp_path, log):
    """We may have no descriptor left for its log at that moment."""
    async with embedded(tmp_path) as url:
        pid = await answers(url)
        (tmp_path / "store.log").unlink()
        (tmp_path / "store.log").mkdir()
        os.kill(pid, signal.SIGTERM)
        assert await comes_true(lambda: told(log, AGAIN))
        (tmp_path / "store.log").rmdir()
        assert await answers(url) != pid

    assert told(log, AGAIN)[0]["said"] == f"see {tmp_path / 'store.log'}"


async def test_one_is_started_again_where_no_thread_is_left(tmp_path, log, monkeypatch):
    """Or all that there are wait for names that nobody looks up."""

    async def none_left(*_):
        raise RuntimeError("can't start new thread")

    async with embedded(tmp_path) as url:
        pid = await answers(url)
        monkeypatch.setattr(module.asyncio, "to_thread", none_left)
        os.kill(pid, signal.SIGKILL)
        assert await comes_true(lambda: told(log, AGAIN))
        assert await answers(url) != pid


async def test_what_a_killed_one_has_left_behind_ends_before_it_is_started_again(tmp_path, log):
    """One that rewrites the file for it may go on for minutes, and has its lock."""
    async with embedded(tmp_path) as url, opened(url) as store:
        slowly = ("CONFIG", "SET", "rdb-key-save-delay", "30000000")
        await store.send(SAFELY, ["SET", "n", "1"], slowly, ["BGREWRITEAOF"])
        pid = await pid_of(store)
        group = os.getpgid(pid)
        assert len(members(group)) == 4  # the watchdog and who waits for our end, the store and who rewrites
        os.kill(pid, signal.SIGKILL)
        assert await answers(url) != pid
        assert members(group) == []
    async with embedded(tmp_path) as url, opened(url) as store:
        assert await store.send(["GET", "n"]) == [b"1"]


def members(group):
    """Return the processes of a group that have not ended."""
    listed = subprocess.run(["ps", "-A", "-o", "pgid=,pid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    return [int(pid) for its, pid, state in rows if int(its) == group and not state.startswith("Z")]


async def test_a_shared_one_that_was_started_again_hangs_on_the_same_lifeline(tmp_path):
    """Whoever inherited it before has calls to settle, too."""
    with owner(tmp_path, BEQUEATHED) as (process, said):
        url, heir = said.split()
        os.kill(await answers(url), signal.SIGKILL)
        pid = await answers(url)
        process.kill()
        process.wait()
        async with opened(url) as store:
            assert await store.send(["INCR", "n"]) == [1]
        os.kill(int(heir), signal.SIGKILL)
        assert await comes_true(lambda: not lives(pid))


async def test_a_long_temporary_directory_does_not_make_the_sockets_path_too_long(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))

    async with embedded(tmp_path / "data") as url, opened(url) as store:
        assert await store.send(["PING"]) == [True]


async def test_it_starts_within_a_moment(tmp_path):
    times = []
    for _ in range(3):
        start = time.monotonic()
        async with embedded(tmp_path):
            times.append(time.monotonic() - start)

    assert min(times) < 0.75  # 40 ms on a quiet machine
