import asyncio
import contextlib
import os
import socket
import threading
from functools import partial

import pytest
import structlog

from gateway import files as module
from gateway.files import Anew, NoThread, Reader, Readers, apart, mark_of, opening
from tests.gateway.harness import eventually
from tests.parts.hung import hanging


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")
    return path


@pytest.fixture
def soon(monkeypatch):
    """Take a file for late after a moment."""
    monkeypatch.setattr(module, "LATE", 0.2)


def reading():
    """Return the threads that read files."""
    return [thread for thread in threading.enumerate() if thread.name == "files"]


async def test_what_is_read_is_returned_or_raised(path, tmp_path):
    """As if it had been read here."""
    reader = Reader(path, "nothing")

    assert await reader.read(path.read_text) == "before"
    with pytest.raises(FileNotFoundError, match="gone"):
        await reader.read((tmp_path / "gone").read_text)
    assert reader.late is None


async def test_a_file_that_does_not_answer_is_told_once_and_again_when_it_has(path, soon):
    """Which, since when, and what is in force meanwhile; whoever waits has what it says then."""
    told = []
    reader = Reader(path, "the last words", told.append)
    with structlog.testing.capture_logs() as logs, hanging(path) as hung:
        waiting = asyncio.ensure_future(reader.read(path.read_text))
        await eventually(lambda: reader.late)
        await asyncio.sleep(0.5)
        (late,) = told
        assert (reader.late, late.filename) == (late, str(path))
        assert late.strerror.startswith("no answer since 20")
        assert logs == [
            {
                "event": "a file does not answer",
                "file": str(path),
                "why": late.strerror,
                "meanwhile": "the last words",
                "log_level": "warning",
            }
        ]
        hung.answer(b"after")
        assert await waiting == "after"

    assert reader.late is None
    assert logs[1:] == [{"event": "a file has answered", "file": str(path), "late": late.strerror, "log_level": "info"}]


async def test_of_several_files_the_one_that_hangs_is_told(path, tmp_path, soon):
    """A configuration refers to many."""
    other = tmp_path / "other"
    other.write_text("")
    reader = Reader(path, "nothing")
    with hanging(other):
        waiting = asyncio.ensure_future(reader.read(lambda: [opening(one).read_text() for one in (path, other)]))
        await eventually(lambda: reader.late)

        assert reader.late.filename == str(other)
        waiting.cancel()


async def test_however_often_somebody_asks_one_thread_hangs(path):
    """Also where those who asked have gone; the next one reads when that thread has come back, and not before."""
    before = reading()
    readers = Readers("nothing")
    with hanging(path) as hung:
        for _ in range(5):
            asked = [asyncio.ensure_future(readers.of(path).read(path.read_text)) for _ in range(5)]
            await asyncio.sleep(0.02)
            for one in asked:
                one.cancel()
            await asyncio.wait(asked)
        last = asyncio.ensure_future(readers.of(path).read(path.read_text))
        await asyncio.sleep(0.05)
        assert len([one for one in reading() if one not in before]) == 1
        hung.answer(b"after")

        assert await last == "after"


async def test_the_files_that_are_late_are_told_of_those_that_matter(path, tmp_path, soon):
    """Of one that nobody wants any more nobody needs to know."""
    other = tmp_path / "other"
    other.write_text("")
    readers = Readers("nothing")
    with hanging(path, other):
        waiting = [asyncio.ensure_future(readers.of(one).read(one.read_text)) for one in (path, other)]
        await eventually(lambda: len(readers.late([(path,), (other,)])) == 2)

        assert [one.filename for one in readers.late([(other,), (other,), (tmp_path / "never",)])] == [str(other)]
    await asyncio.gather(*waiting)
    assert readers.late([(path,), (other,)]) == []


async def test_files_that_hang_keep_no_name_from_being_looked_up(tmp_path):
    """Lookups have a few threads of their own, which as many dead mounts would have for good."""
    paths = [tmp_path / str(number) for number in range((os.cpu_count() or 1) + 40)]
    for path in paths:
        path.touch()
    readers = Readers("nothing")
    with hanging(*paths):
        waiting = [asyncio.ensure_future(readers.of(path).read(path.read_bytes)) for path in paths]
        await asyncio.sleep(0.1)
        async with asyncio.timeout(10):
            found = await asyncio.get_running_loop().getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)

        assert found
        assert not any(one.done() for one in waiting)


async def test_a_thread_that_hangs_is_none_that_the_process_waits_for(path):
    """It is left behind with it."""
    with hanging(path):
        waiting = asyncio.ensure_future(Reader(path, "nothing").read(path.read_bytes))
        await asyncio.sleep(0.05)

        assert {thread.daemon for thread in reading()} == {True}
    await waiting


async def test_where_no_thread_is_left_that_is_what_is_told(path, monkeypatch):
    """It may be tried again."""

    def none_left(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(module.threading.Thread, "start", none_left)
    with pytest.raises(NoThread, match="can't start"):
        await Reader(path, "nothing").read(path.read_text)


async def test_what_is_asked_for_again_and_again_is_done_once_more_and_by_one_task():
    """After the one under way, and not beside it; one that fails keeps none from being done."""
    go, begun = asyncio.Event(), []

    async def work():
        begun.append(len(begun))
        await go.wait()
        if len(begun) == 1:
            raise ValueError

    anew = Anew(work, "work")
    first = anew.ask()
    await eventually(lambda: begun)
    others = {anew.ask() for _ in range(100)}
    await asyncio.sleep(0.05)
    assert (begun, len(others)) == ([0], 1)
    go.set()
    await asyncio.wait({first, *others})

    assert (begun, type(first.exception())) == ([0, 1], ValueError)
    await anew.ask()
    assert begun == [0, 1, 2]


async def test_what_is_done_apart_by_whoever_left_breaks_nothing(path):
    """Neither its answer nor its error has anybody to go to."""
    trouble = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: trouble.append(context))
    with hanging(path) as hung:
        for work in (path.read_bytes, partial(int, "no number")):
            one = apart(work)
            one.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await one
        hung.answer(b"")
    await eventually(lambda: not reading())
    await asyncio.sleep(0)

    assert trouble == []


def test_a_mark_tells_every_change_of_a_file(path, tmp_path):
    """Its content, its permissions, its link's end; one that is not there has none."""
    marks = {mark_of(path), mark_of(tmp_path / "gone")}
    path.write_text("after, and longer")
    marks.add(mark_of(path))
    path.chmod(0o600)
    marks.add(mark_of(path))
    (tmp_path / "link").symlink_to(path)

    assert len(marks) == 4
    assert mark_of(tmp_path / "link") == mark_of(path)
    assert mark_of(tmp_path / "gone") == ()
