import asyncio
import contextlib
import os
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


@contextlib.contextmanager
def owner(data_dir):
    """Another process that runs a store in `data_dir`; yields it and the store's URL."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(data_dir)], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@contextlib.asynccontextmanager
async def opened(url):
    store = Store(url)
    try:
        yield store
    finally:
        await store.close()


async def pid_of(store):
    (info,) = await store.send(["INFO", "server"])
    return info["process_id"]


def ended(pid):
    """Tell whether a process has ended, be it that nobody has noticed yet."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    entry = Path(f"/proc/{pid}/stat")
    return entry.exists() and ") Z " in entry.read_text()


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
            assert ended(pid)  # two stores would have shared one file
            assert await store.send(["GET", "n"]) == [b"1"]


async def test_it_dies_with_an_owner_that_is_killed_and_leaves_no_runtime_directory(tmp_path):
    with owner(tmp_path) as (process, url):
        async with opened(url) as store:
            pid = await pid_of(store)
        runtime = runtime_of(url)
        assert mode_of(runtime) == 0o700

        process.kill()

        assert await comes_true(lambda: ended(pid))
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

    assert await comes_true(lambda: ended(pid))


async def test_one_that_ends_by_itself_is_told_with_what_to_do(tmp_path, monkeypatch):
    """Nobody starts another; without this line there would only be calls that fail."""
    monkeypatch.setattr(module, "WATCH_EVERY", 0.01)
    with structlog.testing.capture_logs() as told:
        async with embedded(tmp_path) as url:
            store = Store(url, deadline=5.0)
            (info,) = await store.send(("INFO", "server"))
            await store.close()
            os.kill(info["process_id"], signal.SIGKILL)
            async with asyncio.timeout(10):
                while not told:  # noqa: ASYNC110 - it is the log that changes
                    await asyncio.sleep(0.01)

    assert "restart this gateway" in told[0]["event"]
    assert told[0]["code"]


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
