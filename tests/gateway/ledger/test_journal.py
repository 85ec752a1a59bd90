import asyncio
import resource
import stat
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gateway.ledger.journal import Journal, forget, read_all
from tests.house import ROOT

ENTRIES = [b"first", b"", b"\x00" * 40, b"the last one"]

WRITER = """
import asyncio, sys
from pathlib import Path
from gateway.ledger.journal import Journal

async def main():
    journal, number = Journal(Path(sys.argv[1]), "killed"), 0
    while True:
        for _ in range(50):
            journal.append(b"entry %d" % number)
            number += 1
        assert await journal.flushed()
        print(number, flush=True)

asyncio.run(main())
"""
"""A gateway that says how many entries are on disk, until it is killed."""


def read(folder):
    return dict(read_all(folder))


async def written(folder, *entries, gateway="one"):
    """Return the path of a journal with these entries, whose gateway is gone."""
    journal = Journal(folder, gateway)
    for entry in entries:
        journal.append(entry)
    assert await journal.flushed()
    await journal.close()
    return folder / f"{gateway}.journal"


async def on_disk(journal):
    """Wait until the disk takes again what it refused."""
    async with asyncio.timeout(10):
        while not await journal.flushed():
            assert journal.fault
    assert journal.fault is None


async def test_what_was_appended_is_read_by_the_next_life_in_its_order(tmp_path):
    await written(tmp_path / "new", *ENTRIES)
    await written(tmp_path / "new", b"of another", gateway="two")

    assert list(read_all(tmp_path / "new")) == [("one", ENTRIES), ("two", [b"of another"])]


async def test_the_file_is_its_owners_alone_and_exists_only_while_it_holds_something(tmp_path):
    journal = Journal(tmp_path, "one")
    assert await journal.flushed()
    assert list(tmp_path.iterdir()) == []

    journal.append(b"x")
    await journal.flushed()
    assert stat.S_IMODE((tmp_path / "one.journal").stat().st_mode) == 0o600
    await journal.drop()
    assert list(tmp_path.iterdir()) == []


async def test_a_journal_whose_gateway_lives_is_not_another_ones_to_read_or_to_forget(tmp_path):
    journal = Journal(tmp_path, "alive")
    journal.append(b"x")
    await journal.flushed()

    assert read(tmp_path) == {}
    forget(tmp_path, "alive")
    await journal.close()
    assert read(tmp_path) == {"alive": [b"x"]}


async def test_what_was_told_to_the_store_is_forgotten(tmp_path):
    for gateway in ("one", "two"):
        await written(tmp_path, b"x", gateway=gateway)

    for gateway, _ in read_all(tmp_path):
        forget(tmp_path, gateway)
        forget(tmp_path, gateway)

    assert list(tmp_path.iterdir()) == []
    assert read(tmp_path / "never made") == {}


async def test_a_journal_that_is_dropped_begins_anew_with_what_comes_later(tmp_path):
    journal = Journal(tmp_path, "one")
    journal.append(b"before")
    await journal.flushed()
    journal.append(b"before, too")
    dropping = asyncio.ensure_future(journal.drop())
    await asyncio.sleep(0)
    journal.append(b"after")
    await dropping
    assert await journal.flushed()
    await journal.close()

    assert read(tmp_path) == {"one": [b"after"]}


async def test_whoever_waits_for_what_is_dropped_meanwhile_waits_no_longer(tmp_path):
    journal = Journal(tmp_path, "one")
    waiting = []
    for number in range(20):
        journal.append(b"%d" % number)
        waiting += [asyncio.ensure_future(journal.flushed()), asyncio.ensure_future(journal.drop())]
        await asyncio.sleep(0.001 * (number % 3))
    async with asyncio.timeout(10):
        await asyncio.gather(*waiting)
    await journal.close()

    assert read(tmp_path) == {}


async def test_a_file_cut_off_at_any_byte_yields_the_whole_entries_before_and_nothing_else(tmp_path):
    path = await written(tmp_path, *ENTRIES)
    whole, ends, place = path.read_bytes(), [], 0
    for entry in ENTRIES:
        place += 8 + len(entry)
        ends.append(place)
    assert place == len(whole)

    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        assert read(tmp_path) == {"one": ENTRIES[: sum(end <= size for end in ends)]}


async def test_a_byte_that_changed_ends_the_file_before_its_entry(tmp_path):
    path = await written(tmp_path, *ENTRIES)
    whole = path.read_bytes()

    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :])
        found = read(tmp_path)["one"]
        assert found == ENTRIES[: len(found)]
        assert len(found) < len(ENTRIES)


@given(junk=st.binary(max_size=200))
def test_what_never_was_a_journal_yields_no_entry_and_no_error(tmp_path_factory, junk):
    folder = tmp_path_factory.mktemp("junk")
    (folder / "x.journal").write_bytes(b"\xff" + junk)

    assert read(folder) == {"x": []}


async def test_zeros_behind_the_last_entry_are_no_entries(tmp_path):
    """So a file ends that was lengthened but not written when the power went."""
    path = await written(tmp_path, *ENTRIES)
    with path.open("ab") as file:
        file.write(bytes(4096))

    with capture_logs() as logs:
        assert read(tmp_path) == {"one": ENTRIES}
    assert [(each["log_level"], each["bytes"]) for each in logs] == [("warning", 4096)]


async def test_a_life_of_the_same_name_goes_on_behind_the_last_whole_entry(tmp_path):
    path = await written(tmp_path, b"whole", b"cut off")
    path.write_bytes(path.read_bytes()[:-1])
    await written(tmp_path, b"new")

    assert read(tmp_path) == {"one": [b"whole", b"new"]}


def test_a_killed_gateway_leaves_every_entry_that_was_on_disk(tmp_path):
    with subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], cwd=ROOT, stdout=subprocess.PIPE) as process:
        told = [int(process.stdout.readline()) for _ in range(4)][-1]
        process.kill()
    found = read(tmp_path)["killed"]

    assert len(found) >= told == 200
    assert found == [b"entry %d" % number for number in range(len(found))]


async def test_entries_never_wait_for_the_disk_and_go_together(tmp_path):
    journal, slow, batches = Journal(tmp_path, "one"), threading.Event(), []
    save = journal._file.save

    def saving(batch):
        slow.wait(10)
        batches.append(len(batch))
        save(batch)

    journal._file.save = saving
    journal.append(b"first")
    await asyncio.sleep(0.01)
    for _ in range(999):
        journal.append(b"more")
        await asyncio.sleep(0)
    assert batches == []
    slow.set()

    assert await journal.flushed()
    assert batches == [1, 999]
    await journal.close()


async def test_what_no_thread_was_left_to_write_is_told_and_written_when_one_is(tmp_path, monkeypatch):
    """As with a disk that fails: a later entry must not take the place of one that was paid for."""
    journal = Journal(tmp_path, "one")

    def none_left(_work):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr("gateway.ledger.journal.apart", none_left)
        journal.append(b"first")
        async with asyncio.timeout(10):
            assert not await journal.flushed()
        await journal.drop()
        journal.append(b"second")
        assert journal.fault == "can't start new thread"
    await on_disk(journal)
    with monkeypatch.context() as patched:
        patched.setattr("gateway.ledger.journal.apart", none_left)
        await journal.close()

    await asyncio.to_thread(journal._file.close)
    assert read(tmp_path) == {"one": [b"second"]}


async def test_a_disk_that_hangs_has_a_thread_that_nobody_waits_for(tmp_path):
    """Not one of those that look up names, and none that the process waits for at its end."""
    journal, hung = Journal(tmp_path, "one"), threading.Event()
    threads = []

    def saving(batch):
        threads.append(threading.current_thread())
        hung.wait(20)

    journal._file.save = saving
    journal.append(b"first")
    waiting = asyncio.ensure_future(journal.flushed())
    async with asyncio.timeout(10):
        while not threads:  # noqa: ASYNC110 - a thread's doing
            await asyncio.sleep(0.005)

    assert [thread.daemon for thread in threads] == [True]
    hung.set()
    assert await waiting


async def test_a_disk_that_cannot_be_written_is_logged_once_told_and_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr("gateway.ledger.journal.RETRY", 0.01)
    folder = tmp_path / "folder"
    folder.write_text("a file where the folder should be")
    journal = Journal(folder, "one")

    with capture_logs() as logs:
        for entry in (b"1", b"2"):
            journal.append(entry)
            assert not await journal.flushed()
            assert "folder" in journal.fault
        await asyncio.sleep(0.1)
        folder.unlink()
        await on_disk(journal)

    assert [each["log_level"] for each in logs] == ["error", "warning"]
    await journal.close()
    assert read(folder) == {"one": [b"1", b"2"]}


@pytest.fixture
def full_disk():
    """Let no file of this process grow beyond 1 MiB: the write that reaches it is cut short, the next one fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_full_disk_fails_no_call_and_costs_no_entry(tmp_path, monkeypatch, full_disk):
    monkeypatch.setattr("gateway.ledger.journal.RETRY", 0.01)
    journal = Journal(tmp_path, "one")
    large = [bytes([number]) * 300_000 for number in range(5)]
    for entry in large:
        journal.append(entry)
        await journal.flushed()

    assert journal.fault is not None
    assert (tmp_path / "one.journal").stat().st_size == 1 << 20
    full_disk()
    await on_disk(journal)
    await journal.close()
    assert read(tmp_path) == {"one": large}


async def test_a_full_disk_that_is_dropped_is_done_with(tmp_path, monkeypatch, full_disk):
    monkeypatch.setattr("gateway.ledger.journal.RETRY", 0.01)
    journal = Journal(tmp_path, "one")
    journal.append(bytes(2 << 20))
    assert not await journal.flushed()

    await journal.drop()
    assert journal.fault is None
    assert list(tmp_path.iterdir()) == []
    journal.append(b"small")
    assert await journal.flushed()
    await journal.close()
    assert read(tmp_path) == {"one": [b"small"]}
