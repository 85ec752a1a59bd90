import asyncio
import os
import threading
from ipaddress import ip_network
from pathlib import Path

import pytest
import structlog
from msgspec.structs import replace

from gateway import files
from gateway import reloading as module
from gateway.config import load
from gateway.config.settings import Backend, Listen, StoreSettings, Telemetry, Tls
from gateway.metrics import Metrics
from gateway.reloading import Reloading, Watch, attainable, trusted
from tests.gateway.harness import eventually, settings
from tests.parts.certificates import self_signed
from tests.parts.hung import hanging

FILE = """\
admin_key: admin-key-of-the-tests
operations: {port: 8700}
backends:
  gpu: {kind: vllm, base_url: "http://127.0.0.1:9/v1", api_key: {file: secret}}
plans:
  small: {requests_per_minute: %d}
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Look at files all the time."""
    monkeypatch.setattr(module, "LOOK_EVERY", 0.01)


class Kept:
    """A gateway that takes whatever it is given; `slow`: only once this is set."""

    def __init__(self, path):
        self.path = path
        self.settings = load(path, {})
        self.config_fault, self.config_waiting = None, ()
        self.metrics = Metrics()
        self.taken, self.renewed, self.reads, self.at_once = [], 0, 0, 0
        self.slow = asyncio.Event()
        self.slow.set()
        self.late = []
        self.reloading = Reloading(
            self, self.metrics, self.read, take=self.take, renew=self.renew, late=lambda: self.late
        )
        self.watch = self.reloading.watch

    def read(self):
        self.reads += 1
        return load(self.path, {})

    async def take(self, settings):
        self.at_once += 1
        assert self.at_once == 1
        await self.slow.wait()
        self.at_once -= 1
        self.taken.append(settings)
        self.settings = settings

    async def renew(self):
        self.renewed += 1

    def metric(self, name, **labels):
        return self.metrics.registry.get_sample_value(name, labels)

    def was_read(self):
        """Say whether it was read once, to the end of what is read beside it."""
        return self.reads == 1 and self.watch._hearing is not None and self.watch._hearing.done()

    @property
    def limit(self):
        """The limit of the plan that is in force."""
        return self.settings.plans["small"].meters[0].limit


def write(path, text):
    """Put a whole file in the place of another, in one step."""
    half = path.with_suffix(".new")
    half.write_text(text)
    half.replace(path)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "sluiceway.yaml"
    path.write_text(FILE % 5)
    (tmp_path / "secret").write_text("first-key-of-the-backend\n")
    return path


@pytest.fixture
async def kept(path):
    """Keep a gateway on the file."""
    one = Kept(path)
    one.watch.start()
    await eventually(lambda: one.reads == 1)
    yield one
    one.slow.set()
    await one.watch.close()


async def test_a_changed_file_is_taken_and_told(kept, path):
    """By itself; the digest is that of the new file."""
    before = kept.settings.digest
    with structlog.testing.capture_logs() as told:
        write(path, FILE % 7)
        await eventually(lambda: kept.taken)

    assert kept.limit == 7
    assert [entry for entry in told if entry["event"] == "the configuration is taken"] == [
        {"event": "the configuration is taken", "config": kept.settings.digest, "before": before, "log_level": "info"}
    ]
    assert kept.metric("sluiceway_config_reloads_total", outcome="taken") == 1
    assert kept.metric("sluiceway_config_stale") == 0


async def test_plans_that_go_from_the_file_are_told_by_name(kept, path):
    """Keys are bound to them, whose calls nobody serves any more; a plan that is changed, or comes, is none."""
    two = "  old: {requests_per_minute: 3}\n  older: {requests_per_minute: 2}\n"
    with structlog.testing.capture_logs() as told:
        for number, text in enumerate((FILE % 5 + two, FILE % 7 + two, FILE % 7), start=1):
            write(path, text)
            await eventually(lambda number=number: len(kept.taken) == number)

    event = "plans have gone from the file: whoever is bound to one gets 403 unless the store has it"
    assert [entry["plans"] for entry in told if entry["event"] == event] == [["old", "older"]]
    assert [entry["log_level"] for entry in told if "plans" in entry] == ["warning"]


async def test_a_bad_file_changes_nothing_and_every_mistake_is_told_once(kept, path):
    """Until it is mended, which is told too."""
    digest = kept.settings.digest
    with structlog.testing.capture_logs() as told:
        write(path, FILE % 7 + "lisen: {}\nplan: {}\n")
        await eventually(lambda: kept.config_fault)
        await kept.watch.read()
        await kept.watch.read()
        write(path, FILE % 5)
        await eventually(lambda: kept.config_fault is None)

    errors = [entry for entry in told if entry["log_level"] == "error"]
    assert [entry["config"] for entry in errors] == [digest]
    assert [why.partition(": is")[0] for why in errors[0]["why"]] == [f"{path}:7: lisen", f"{path}:8: plan"]
    assert kept.taken == []
    assert kept.metric("sluiceway_config_reloads_total", outcome="refused") == 1
    assert kept.metric("sluiceway_config_stale") == 0
    assert told[-1]["event"] == "the configuration is good again, and the one in force"


async def test_what_is_wrong_is_one_line_and_stale_while_it_is(kept, path):
    """For readiness and for the other gateways."""
    write(path, FILE % 7 + "lisen: {}\nplan: {}\n")
    await eventually(lambda: kept.config_fault)

    assert kept.config_fault.startswith(f"{path}:7: lisen: is not a setting")
    assert kept.config_fault.endswith("(and 1 more)")
    assert kept.metric("sluiceway_config_stale") == 1
    write(path, FILE % 9)
    await eventually(lambda: kept.taken)
    assert (kept.limit, kept.config_fault, kept.metric("sluiceway_config_stale")) == (9, None, 0)


async def test_a_file_that_is_gone_or_no_file_keeps_the_last_one(kept, path):
    """And is read again when it is back."""
    path.unlink()
    await eventually(lambda: kept.config_fault)
    assert kept.config_fault == f"{path} cannot be read: No such file or directory"
    path.mkdir()
    await eventually(lambda: "directory" in kept.config_fault and "No such" not in kept.config_fault)
    path.rmdir()
    write(path, FILE % 6)

    await eventually(lambda: kept.taken)
    assert (kept.limit, kept.config_fault) == (6, None)


async def test_a_file_that_stays_as_it_is_is_read_once_and_never_taken(kept):
    """Nor is one that was only touched: what it says is in force."""
    os.utime(kept.path)
    await eventually(lambda: kept.reads == 2)
    for _ in range(20):
        await asyncio.sleep(0.01)

    assert (kept.reads, kept.taken) == (2, [])


async def test_a_symlink_that_is_turned_is_a_change(tmp_path):
    """So Kubernetes puts a ConfigMap in the place of another: the file's own link stays as it is."""
    for name, limit in (("..one", 5), ("..two", 8)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sluiceway.yaml").write_text(FILE % limit)
        (tmp_path / name / "secret").write_text("key-of-the-backend")
    (tmp_path / "..data").symlink_to("..one")
    for name in ("sluiceway.yaml", "secret"):
        (tmp_path / name).symlink_to(Path("..data") / name)
    kept = Kept(tmp_path / "sluiceway.yaml")
    kept.watch.start()
    await eventually(lambda: kept.reads == 1)
    (tmp_path / "..turned").symlink_to("..two")
    (tmp_path / "..turned").rename(tmp_path / "..data")

    await eventually(lambda: kept.taken)
    assert kept.limit == 8
    await kept.watch.close()


async def test_a_file_that_is_being_written_is_left_alone_until_it_rests(monkeypatch, path):
    """Half of it may be a good file, of half the backends."""
    kept = Kept(path)
    stands = [0, 0, *range(1, 40), 40, 40]
    seen = []

    def mark(one):
        if one != path:
            return ()
        seen.append(stands[min(len(seen), len(stands) - 1)])
        return (seen[-1],)

    def read():
        kept.reads += 1
        return replace(kept.settings, digest=f"as at {seen[-1]}")

    monkeypatch.setattr(module, "mark_of", mark)
    watch = Watch(read, [path], kept.reloading._hear)
    watch.start()
    await eventually(lambda: len(seen) > len(stands))

    assert [one.digest for one in kept.taken] == ["as at 0", "as at 40"]
    await watch.close()


async def test_a_rotated_secret_is_taken_though_the_file_is_the_same(kept, tmp_path):
    """The digest is the file's, and stays."""
    digest = kept.settings.digest
    write(tmp_path / "secret", "second-key-of-the-backend")
    await eventually(lambda: kept.taken)

    assert kept.settings.backends[0].api_key == "second-key-of-the-backend"
    assert kept.settings.digest == digest


async def test_a_secret_that_comes_late_mends_the_file(kept, path, tmp_path):
    """The file that was refused for its sake is not touched again."""
    write(path, (FILE % 7).replace("secret", "other"))
    await eventually(lambda: kept.config_fault)
    assert f"its file {tmp_path / 'other'} cannot be read" in kept.config_fault
    (tmp_path / "other").write_text("other-key-of-the-backend")

    await eventually(lambda: kept.taken)
    assert kept.settings.backends[0].api_key == "other-key-of-the-backend"


async def test_a_list_of_replicas_that_was_bad_when_the_file_was_read_mends_it(kept, path, tmp_path):
    """While the file is good, the list is its followers' business alone."""
    (tmp_path / "replicas").write_text("ftp://wrong\n")
    write(path, FILE % 7 + "issuers: {}\n" + "models: {m: {deployments: [{backend: many, model: m}]}}\n")
    text = path.read_text().replace("plans:", "  many: {kind: vllm, list: replicas}\nplans:")
    write(path, text)
    await eventually(lambda: kept.config_fault and "replicas" in kept.config_fault)
    (tmp_path / "replicas").write_text("http://127.0.0.1:9/v1\n")
    await eventually(lambda: kept.taken)
    reads = kept.reads
    (tmp_path / "replicas").write_text("http://127.0.0.1:9/v1\nhttp://127.0.0.1:10/v1\n")
    for _ in range(10):
        await asyncio.sleep(0.01)

    assert kept.reads <= reads + 1  # for the sake of files that the reading before did not know of
    assert kept.config_fault is None


async def test_two_readings_never_overlap_and_the_last_one_wins(kept, path):
    """A hangup comes while the watch has the gateway take what it saw."""
    kept.slow.clear()
    write(path, FILE % 7)
    await eventually(lambda: kept.at_once)
    write(path, FILE % 8)
    asked = [asyncio.ensure_future(kept.watch.read()) for _ in range(3)]
    await asyncio.sleep(0.05)
    kept.slow.set()
    await asyncio.gather(*asked)

    assert kept.limit == 8
    assert [one.plans["small"].meters[0].limit for one in kept.taken] == [7, 8]


async def test_whatever_cannot_be_taken_is_told_and_the_next_one_is_tried(kept, path, monkeypatch):
    """A bug in taking one must not leave the gateway without a watch."""

    async def broken(settings):
        raise RuntimeError("a bug")

    monkeypatch.setattr(kept.reloading, "_take", broken)
    write(path, FILE % 7)
    await eventually(lambda: kept.config_fault)
    assert kept.config_fault == "taken in part at most: RuntimeError('a bug')"
    assert kept.metric("sluiceway_config_stale") == 1
    monkeypatch.setattr(kept.reloading, "_take", kept.take)
    write(path, FILE % 8)

    await eventually(lambda: kept.taken)
    assert (kept.limit, kept.config_fault) == (8, None)


async def test_a_file_that_was_taken_half_way_is_followed_by_whichever_is_good_next(kept, path, monkeypatch):
    """Also by the one before: it is in force no more, and nobody may say that it is."""

    async def broken(settings):
        kept.settings = settings
        raise RuntimeError("a bug")

    monkeypatch.setattr(kept.reloading, "_take", broken)
    write(path, FILE % 7)
    await eventually(lambda: kept.config_fault)
    assert kept.limit == 7
    monkeypatch.setattr(kept.reloading, "_take", kept.take)
    write(path, FILE % 5)

    await eventually(lambda: kept.config_fault is None)
    assert (kept.limit, len(kept.taken)) == (5, 1)


async def test_nothing_is_heard_after_the_end(path):
    """A stop has begun: what was read before is not taken any more."""
    kept = Kept(path)
    write(path, FILE % 7)
    reading = asyncio.ensure_future(kept.watch.read())
    await asyncio.sleep(0)
    await kept.watch.close()
    await reading

    assert kept.taken == []
    await kept.watch.read()
    assert kept.reads <= 1


@pytest.mark.parametrize("by", ["watch", "hangup"])
async def test_what_is_being_taken_at_the_end_is_taken_to_its_end(kept, path, by):
    """Whoever had it read: half of it in force would be neither file."""
    kept.slow.clear()
    write(path, FILE % 7)
    asked = asyncio.ensure_future(kept.watch.read()) if by == "hangup" else None
    await eventually(lambda: kept.at_once)
    closing = asyncio.ensure_future(kept.watch.close())
    await asyncio.sleep(0.05)
    assert not closing.done()
    kept.slow.set()
    await closing

    assert kept.limit == 7
    if asked is not None:
        await asked


async def test_a_taking_that_does_not_end_ends_with_the_watch(kept, path, monkeypatch):
    """It may wait for replicas and backends, and a stop does not; the log says so."""
    monkeypatch.setattr(module, "LAST", 0.01)
    kept.slow.clear()
    write(path, FILE % 7)
    await eventually(lambda: kept.at_once)
    with structlog.testing.capture_logs() as told:
        await asyncio.wait_for(kept.watch.close(), 10)
    kept.slow.set()
    await asyncio.sleep(0.05)

    assert kept.taken == []
    assert [entry["log_level"] for entry in told] == ["warning"]


@pytest.fixture
def hung():
    """Let threads wait for good, as at a network mount whose server is gone; they end with the test."""
    over = threading.Event()
    yield over
    over.set()


async def test_files_that_do_not_answer_hold_up_neither_a_call_nor_the_end(path, hung, monkeypatch):
    """The looks at them are made where nobody else is, one at a time: what hangs costs one thread."""
    looks = []

    def mark(one):
        looks.append(one)
        hung.wait(20)
        return ()

    monkeypatch.setattr(module, "mark_of", mark)
    kept = Kept(path)
    asked = asyncio.ensure_future(kept.watch.read())
    kept.watch.start()
    await eventually(lambda: looks)
    await asyncio.sleep(0.05)
    await asyncio.wait_for(kept.watch.close(), 10)

    assert not hung.is_set()
    assert (len(looks), kept.reads, asked.done()) == (1, 0, False)
    hung.set()
    await asked
    assert kept.taken == []


async def test_a_file_that_is_read_for_good_does_not_hold_up_the_end(path, hung):
    """Nor is there a thread that the process would wait for."""
    kept, before = Kept(path), threading.enumerate()

    def read():
        kept.reads += 1
        hung.wait(20)
        return kept.settings

    watch = Watch(read, [path], kept.reloading._hear)
    watch.start()
    await eventually(lambda: kept.reads)
    more = [thread for thread in threading.enumerate() if thread not in before]
    await asyncio.wait_for(watch.close(), 10)

    assert not hung.is_set()
    assert [thread.daemon for thread in more] == [True]


@pytest.fixture
def late_soon(monkeypatch):
    """Take a file for late after a moment."""
    monkeypatch.setattr(files, "LATE", 0.5)


TRUSTED = FILE.replace("http:", "https:").replace("{file: secret}", "{file: secret}, ca: ca.pem")


@pytest.mark.parametrize("which", ["sluiceway.yaml", "secret", "ca.pem"])
async def test_a_file_that_does_not_answer_is_told_as_one_that_cannot_be_read(tmp_path, which, late_soon):
    """Whichever it is of those that the configuration is in; once it has answered it is as any other."""
    path, ca = tmp_path / "sluiceway.yaml", self_signed(tmp_path)[0].rename(tmp_path / "ca.pem")
    (tmp_path / "secret").write_text("first-key-of-the-backend")
    path.write_text(TRUSTED % 5)
    after = {"sluiceway.yaml": (TRUSTED % 7).encode(), "secret": b"second-key", "ca.pem": ca.read_bytes() * 2}
    kept, earlier = Kept(path), threading.enumerate()
    kept.watch.start()
    await eventually(kept.was_read)
    before = kept.settings
    with structlog.testing.capture_logs() as told, hanging(tmp_path / which) as hung:
        await eventually(lambda: kept.config_fault)
        assert kept.config_fault.startswith(f"{tmp_path / which} cannot be read: no answer since 20")
        assert kept.metric("sluiceway_config_stale") == 1
        await asyncio.sleep(0.1)
        threads = [one for one in threading.enumerate() if one.name == "files" and one not in earlier]
        assert (kept.settings, len(threads)) == (before, 1)
        (warning,) = told
        assert (warning["log_level"], warning["file"]) == ("warning", str(tmp_path / which))
        assert warning["meanwhile"] == "the last good configuration"
        hung.answer(after[which])
        await eventually(lambda: kept.taken)
        await eventually(lambda: kept.config_fault is None)

    assert [entry["event"] for entry in told][1:3] == ["a file has answered", "the configuration is taken"]
    assert kept.metric("sluiceway_config_stale") == 0
    assert kept.metric("sluiceway_config_reloads_total", outcome="refused") == 0
    await kept.watch.close()


async def test_a_configuration_that_is_edited_off_a_dead_mount_is_taken_while_that_hangs(
    tmp_path, late_soon, monkeypatch
):
    """And what the dead mount says in the end is not."""
    monkeypatch.setattr(module, "GLANCE_EVERY", 0.05)
    path, _ = tmp_path / "sluiceway.yaml", self_signed(tmp_path)[0].rename(tmp_path / "ca.pem")
    (tmp_path / "secret").write_text("first-key-of-the-backend")
    path.write_text(TRUSTED % 5)
    kept = Kept(path)
    kept.watch.start()
    await eventually(kept.was_read)
    with structlog.testing.capture_logs() as told, hanging(tmp_path / "ca.pem") as hung:
        await eventually(lambda: kept.config_fault)
        write(path, FILE % 7)
        assert await eventually(lambda: kept.taken)
        assert (kept.limit, kept.config_fault, kept.metric("sluiceway_config_stale")) == (7, None, 0)
        write(path, FILE % 8)
        assert await eventually(lambda: kept.limit == 8)
        hung.answer(b"no certificate")
        await eventually(lambda: "a file has answered" in [entry["event"] for entry in told])
        await asyncio.sleep(0.1)

    assert (kept.limit, kept.config_fault, len(kept.taken)) == (8, None, 2)
    assert [entry["late"] for entry in told if "is read anew" in entry["event"]]
    await kept.watch.close()


async def test_no_more_readings_are_abandoned_than_may_hang(tmp_path, late_soon, monkeypatch):
    """Each has a thread; whoever asks for one by a signal waits as the watch does, and is answered with it."""
    monkeypatch.setattr(module, "GLANCE_EVERY", 0.05)
    path, ca = tmp_path / "sluiceway.yaml", self_signed(tmp_path)[0].rename(tmp_path / "ca.pem")
    (tmp_path / "secret").write_text("first-key-of-the-backend")
    path.write_text(TRUSTED % 5)
    content = ca.read_bytes()
    kept, earlier = Kept(path), threading.enumerate()
    kept.watch.start()
    await eventually(kept.was_read)
    with structlog.testing.capture_logs() as told, hanging(ca) as hung:
        for number in range(module.MOST_ABANDONED + 1):
            await eventually(lambda n=number: kept.reads == 2 + n and kept.config_fault)
            await asyncio.sleep(0.6)
            write(path, TRUSTED % (6 + number))
        await asyncio.sleep(0.5)
        hangs = [one for one in threading.enumerate() if one.name == "files" and one not in earlier]
        assert len(hangs) in (module.MOST_ABANDONED + 1, module.MOST_ABANDONED + 2)  # and a glance
        assert kept.reads == module.MOST_ABANDONED + 2
        asked = kept.watch.read()
        hung.answer(content)
        for _ in range(module.MOST_ABANDONED):
            hung.let_go(content)
        await asked

    assert len([entry for entry in told if "is read anew" in entry["event"]]) == module.MOST_ABANDONED
    assert kept.limit == 6 + module.MOST_ABANDONED
    await kept.watch.close()


async def test_signals_while_a_reading_hangs_are_answered_by_one_more(path, hung):
    """However many they were."""
    kept = Kept(path)

    def read():
        kept.reads += 1
        hung.wait(20)
        return kept.settings

    watch = Watch(read, [path], kept.reloading._hear)
    asked = [watch.read()]
    await eventually(lambda: kept.reads)
    asked += [watch.read() for _ in range(100)]
    hung.set()
    await asyncio.wait({*asked})

    assert (len({*asked}), kept.reads) == (2, 2)


async def test_a_reading_for_which_there_is_no_thread_is_tried_at_the_next_look(path, monkeypatch):
    """Though no file changes any more."""
    kept, real, refused = Kept(path), files.apart, []

    def apart(work):
        if len(looks) < 2 or refused:
            looks.append(work)
            return real(work)
        refused.append(work)
        raise files.NoThread("can't start new thread")

    looks = []
    monkeypatch.setattr(files, "apart", apart)
    kept.watch.start()
    await eventually(lambda: kept.reads)

    assert (len(refused), kept.reads) == (1, 1)
    await kept.watch.close()


async def test_a_file_that_could_not_be_looked_at_for_a_while_is_good_again_though_it_is_the_same(
    kept, hung, late_soon, monkeypatch
):
    """A server that was restarted; whether the certificate was renewed meanwhile nobody can say."""
    real = module.mark_of
    with structlog.testing.capture_logs() as told:
        monkeypatch.setattr(module, "mark_of", lambda one: (files.opening(one), hung.wait(20)) and real(one))
        await eventually(lambda: kept.config_fault)
        assert "cannot be read: no answer since" in kept.config_fault
        hung.set()
        await eventually(lambda: kept.config_fault is None)

    events = [entry["event"] for entry in told]
    assert events[:2] == ["a file does not answer", "a file has answered"]
    assert "the configuration is good again, and the one in force" in events
    assert (kept.taken, kept.metric("sluiceway_config_stale")) == ([], 0)


async def test_a_file_beside_the_configuration_that_is_late_is_stale_too(kept):
    """A list of replicas, say, whose last state stays."""
    kept.late = [files.Unanswered.since(0.0, Path("/mnt/list"))]
    assert (kept.metric("sluiceway_config_stale"), kept.config_fault) == (1, None)
    kept.late = []
    assert kept.metric("sluiceway_config_stale") == 0


async def test_authorities_that_went_after_the_file_was_read_are_told_by_name(tmp_path):
    """OpenSSL does not say which file it is."""
    one = settings(tmp_path, {})
    gone = Backend("gpu", "vllm", "https://127.0.0.1:9/v1", ca=tmp_path / "gone.pem", ca_digest="x")

    with pytest.raises(FileNotFoundError) as caught:
        trusted(replace(one, backends=(gone,)))
    assert module.faults(caught.value) == [f"{tmp_path / 'gone.pem'} cannot be read: No such file or directory"]


async def test_a_look_that_fails_is_not_the_last(path, monkeypatch):
    """A system may have no thread to spare for a while."""
    kept, real = Kept(path), files.apart
    with structlog.testing.capture_logs() as told:
        monkeypatch.setattr(files, "apart", lambda _: 1 / 0)
        kept.watch.start()
        await eventually(lambda: len(told) > 1)
        monkeypatch.setattr(files, "apart", real)
        write(path, FILE % 7)
        await eventually(lambda: kept.taken)

    assert kept.limit == 7
    await kept.watch.close()


async def test_a_certificate_that_was_renewed_during_the_start_is_read_anew(tmp_path, path):
    """The pair was read before the watch first looked at it."""
    pair = self_signed(tmp_path)
    path.write_text(FILE % 5 + f"listen: {{tls: {{cert: {pair[0]}, key: {pair[1]}}}}}\n")
    kept = Kept(path)
    self_signed(tmp_path)
    kept.watch.start()
    await eventually(lambda: kept.renewed)

    assert (kept.reads, kept.taken) == (1, [])
    await kept.watch.close()


async def test_a_renewed_certificate_is_read_anew_and_no_other_change_is_one(tmp_path, path):
    """The pair is in the file by its names alone, so nothing in it differs."""
    pair = self_signed(tmp_path)
    path.write_text(FILE % 5 + f"listen: {{tls: {{cert: {pair[0]}, key: {pair[1]}}}}}\n")
    kept = Kept(path)
    kept.watch.start()
    await eventually(lambda: kept.renewed == 1)  # with the first reading: it may have changed during the start
    write(tmp_path / "secret", "second-key-of-the-backend")
    await eventually(lambda: kept.taken)
    assert kept.renewed == 1
    os.utime(pair[0])
    await eventually(lambda: kept.renewed > 1)

    assert (kept.renewed, len(kept.taken)) == (2, 1)
    await kept.watch.close()


async def test_what_waits_for_a_restart_stays_as_it_was_and_is_told(kept, path):
    """By the setting's name, never by what it says."""
    with structlog.testing.capture_logs() as told:
        write(path, (FILE % 7).replace("8700", "8701").replace("admin-key-of-the-tests", "another-admin-key-of-them"))
        await eventually(lambda: kept.taken)

    assert kept.config_waiting == ("operations.port", "admin_key")
    assert (kept.settings.operations.port, kept.settings.admin_key) == (8700, "admin-key-of-the-tests")
    assert (kept.limit, kept.metric("sluiceway_config_waiting")) == (7, 2)
    assert next(entry for entry in told if entry["log_level"] == "warning")["settings"] == kept.config_waiting
    assert "another-admin-key" not in str(told)
    write(path, FILE % 8)
    await eventually(lambda: len(kept.taken) == 2)
    assert (kept.config_waiting, kept.metric("sluiceway_config_waiting")) == ((), 0)


def test_each_setting_that_waits_keeps_its_value_and_all_others_are_had(tmp_path):
    """Those that sockets, connections and threads were made with."""
    old = settings(tmp_path, {})
    pair = Tls(tmp_path / "cert", tmp_path / "key")
    new = replace(
        old,
        listen=Listen("::1", 1, pair, (ip_network("10.0.0.0/8"),)),
        operations=Listen("::1", 2),
        admin_key="other",
        admin_on="operations",
        store=StoreSettings("redis://h", tmp_path, "local", allow_eviction=True, identity_grace=1.0, deadline=1.0),
        telemetry=Telemetry("http://h", 0.5),
        plans={},
        digest="new",
    )

    had, waiting = attainable(new, old)

    stores = replace(old.store, when_down="local", identity_grace=1.0)
    assert had == replace(old, plans={}, digest="new", store=stores)
    listen = {"listen.host", "listen.port", "listen.trusted_proxies", "listen.tls"}
    kept = {"store.url", "store.data_dir", "store.allow_eviction", "store.deadline", "operations.host"}
    others = {"operations.port", "telemetry.otlp_endpoint", "telemetry.sample", "admin_key", "admin.on"}
    assert set(waiting) == listen | kept | others
    assert len(waiting) == len(set(waiting))


def test_another_pair_of_files_is_had_where_there_is_tls(tmp_path):
    """Only whether there is any waits for a restart."""
    old = replace(settings(tmp_path, {}), listen=Listen("127.0.0.1", 0, Tls(tmp_path / "a", tmp_path / "b")))
    new = replace(old, listen=Listen("127.0.0.1", 0, Tls(tmp_path / "c", tmp_path / "d")))

    assert attainable(new, old) == (new, ())
