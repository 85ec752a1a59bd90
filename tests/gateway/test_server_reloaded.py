"""A gateway that listens, kept on its file: what is around the gateway goes by it too."""

import asyncio
import contextlib
import shutil
import ssl
import threading

import httpx
import pytest
import structlog
from msgspec.structs import replace

from gateway import server
from gateway.config import ConfigError, Mistake
from gateway.config.settings import Backend, Issuer, Limits, Listen, Shutdown, Tls
from gateway.tls import server_context
from policies.subjects import Mapping
from tests.gateway.harness import eventually, settings
from tests.parts.certificates import self_signed
from tests.parts.hung import hanging


class File:
    """A configuration that is no file: what it says is `settings`, or an error."""

    def __init__(self, first):
        self.settings = first
        self.reads = 0

    def __call__(self):
        self.reads += 1
        if isinstance(self.settings, Exception):
            raise self.settings
        return self.settings

    def change(self, **changes):
        self.settings = replace(self.settings, **{"digest": f"changed {self.reads}", **changes})


@pytest.fixture
async def serve(tmp_path, first):
    """Start a gateway that is kept on a File; it is stopped with the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(*, watch=False, **changes):
            file = File(settings(tmp_path, {"a": first}, **changes))
            running = await server.start(file.settings, load=file, watch=watch)
            stack.push_async_callback(running.stop)
            return running, file

        yield start


async def test_a_gateway_says_how_it_fares_with_its_file(serve):
    """Ready as before: it serves by the last good one."""
    running, file = await serve()
    good = file.settings
    file.settings = ConfigError((Mistake(7, "lisen", "is no setting", "remove it", "f.yaml"),))
    await running.reload()
    assert (await running.ready(), running.state()) == (
        None,
        "ok, but the file was refused, and the last good one stays (f.yaml:7: lisen: is no setting; remove it)",
    )
    file.settings = replace(good, admin_key="another-admin-key", digest="new")
    await running.reload()
    assert running.state() == "ok, but changed settings wait for a restart (admin_key)"
    file.settings = replace(good, digest="newer")
    await running.reload()

    assert running.state() == "ok"
    assert running.gateway.settings.digest == "newer"


async def test_a_file_that_was_taken_in_part_is_not_told_as_one_that_was_refused(serve, monkeypatch):
    """That the last good one stays would not be true; the file as it was is taken again."""
    running, file = await serve()
    good = file.settings

    def broken(settings):
        raise RuntimeError("a bug")

    monkeypatch.setattr(running.gateway.services, "take", broken)
    file.change()
    await running.reload()
    assert running.state() == "ok, but the file was taken in part at most: RuntimeError('a bug')"
    monkeypatch.undo()
    file.settings = good
    await running.reload()

    assert running.state() == "ok"
    assert running.gateway.settings.digest == good.digest
    assert running.gateway.services.config == good.digest.encode()


async def test_new_bounds_of_connections_hold_for_whoever_comes(serve):
    """Whoever is there stays; also the bound of one address."""
    running, file = await serve()
    async with httpx.AsyncClient(base_url=running.url) as one, httpx.AsyncClient(base_url=running.url) as other:
        _, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(running.url).port)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\n")
        await eventually(lambda: len(running._house) == 1)
        file.change(limits=Limits(connections=1))
        await running.reload()
        refused = await one.get("/v1/models")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        file.change(limits=Limits())
        await running.reload()
        assert (await other.get("/v1/models")).status_code == 401
        writer.close()


async def test_how_it_stops_is_what_the_file_says_by_then(serve):
    """A grace that was made shorter counts."""
    running, file = await serve(shutdown=Shutdown(pause=60))
    file.change(shutdown=Shutdown(pause=0.1))
    await running.reload()

    await asyncio.wait_for(running.stop(), 20)


async def shown(running):
    port = httpx.URL(running.url).port
    return await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port))


async def test_another_pair_of_files_is_shown_to_whoever_comes(serve, tmp_path, pair):
    """Whether there is TLS at all is a matter of a restart; which is shown is not."""
    running, file = await serve(listen=Listen("127.0.0.1", 0, Tls(*pair)))
    before = await shown(running)
    (tmp_path / "other").mkdir()
    file.change(listen=Listen("127.0.0.1", 0, Tls(*self_signed(tmp_path / "other"))))
    await running.reload()

    assert await shown(running) != before


async def test_a_hangup_renews_the_certificate_even_where_the_file_is_refused(serve, tmp_path, pair):
    """As it did when that was all it did."""
    (tmp_path / "other").mkdir()
    mine = [shutil.copy(one, tmp_path / name) for one, name in zip(pair, ("cert", "key"), strict=True)]
    running, file = await serve(listen=Listen("127.0.0.1", 0, Tls(*mine)))
    before = await shown(running)
    for new, old in zip(self_signed(tmp_path / "other"), mine, strict=True):
        shutil.copy(new, old)
    file.settings = FileNotFoundError(2, "No such file or directory", "f.yaml")
    running.hang_up()
    await eventually(lambda: running.gateway.config_fault)

    assert running.gateway.config_fault == "f.yaml cannot be read: No such file or directory"
    assert await shown(running) != before


async def test_a_certificate_that_does_not_answer_is_told_and_the_one_before_is_shown(serve, tmp_path, monkeypatch):
    """Whoever connects meanwhile waits for nothing, and nor do the file and the end."""
    monkeypatch.setattr("gateway.files.LATE", 0.5)
    cert, key = self_signed(tmp_path)
    running, file = await serve(listen=Listen("127.0.0.1", 0, Tls(cert, key)))
    before, metrics = await shown(running), running.gateway.services.metrics.registry
    file.change()
    with hanging(cert):
        running.hang_up()
        await eventually(lambda: running.gateway.settings.digest == file.settings.digest)
        assert await asyncio.wait_for(shown(running), 10) == before
        (late,) = running._late()
        assert running.state() == f"ok, but {cert} is late, and what it last said stays ({late.strerror})"
        assert metrics.get_sample_value("sluiceway_config_stale") == 1
        await asyncio.wait_for(running.stop(), 20)


async def test_many_hangups_while_a_certificate_hangs_are_one_more_renewal(serve, tmp_path, monkeypatch):
    """And one more reading of the file, however many there were."""
    monkeypatch.setattr("gateway.files.LATE", 0.2)
    cert, key = self_signed(tmp_path)
    running, file = await serve(listen=Listen("127.0.0.1", 0, Tls(cert, key)))
    content = cert.read_bytes()
    readings = []

    def reading(*pair):
        readings.append(pair)
        return server_context(*pair)

    monkeypatch.setattr("gateway.tls.server_context", reading)
    with structlog.testing.capture_logs() as told, hanging(cert) as hung:
        running.hang_up()
        await eventually(running._late)
        before = len(asyncio.all_tasks())
        for _ in range(100):
            running.hang_up()
        assert len(asyncio.all_tasks()) <= before + 1
        await asyncio.sleep(0.5)  # the next renewal waits behind the one that hangs
        file.change()
        running.hang_up()
        await eventually(lambda: running.gateway.settings.digest == file.settings.digest)
        hung.answer(content)
        await eventually(lambda: len(readings) == 2)
        await asyncio.sleep(0.3)

    assert len(readings) == 2
    assert "certificate renewed" not in [entry["event"] for entry in told]


async def test_authorities_that_a_file_brings_are_read_where_no_call_waits_for_them(serve, tmp_path, monkeypatch):
    """A backend's and an issuer's; whoever uses them then has them in memory."""
    running, file = await serve()
    real, readers = ssl.create_default_context, []

    def reading(*, cafile):
        readers.append((cafile.name, threading.current_thread().name))
        return real(cafile=cafile)

    monkeypatch.setattr("gateway.http.ssl.create_default_context", reading)
    for name in ("gpu", "idp"):
        self_signed(tmp_path / name)[0].rename(tmp_path / f"{name}.pem")
    backend = Backend("gpu", "vllm", "https://127.0.0.1:9/v1", ca=tmp_path / "gpu.pem", ca_digest="one", probe_every=0)
    issuer = Issuer(
        name="idp",
        issuer="https://127.0.0.1:9",
        audience=("us",),
        mapping=Mapping(organization="acme", team="all"),
        ca=tmp_path / "idp.pem",
        ca_digest="one",
    )
    file.change(backends=(*file.settings.backends, backend), issuers=(issuer,))
    await running.reload()
    (keys,) = [keys for _, keys in running.gateway.issuers._issuers.values()]
    await eventually(lambda: keys._failing)

    assert "gpu" in running.gateway.services.fleet.homes
    assert sorted(readers) == [("gpu.pem", "files"), ("idp.pem", "files")]


async def test_a_list_that_does_not_answer_is_told_by_readiness(tmp_path, first, serve, monkeypatch):
    """Ready as before: the last known replicas are called."""
    monkeypatch.setattr("gateway.files.LATE", 0.5)
    monkeypatch.setattr("gateway.upstream.discovery.POLL_EVERY", 0.01)
    path = tmp_path / "replicas"
    path.write_text(f"{first.url}/v1\n")
    running, _ = await serve(backends=(Backend("a", "openai", "", list_file=path, probe_every=0),))
    assert running.state() == "ok"
    with hanging(path):
        await eventually(lambda: running.state() != "ok")
        assert running.state().startswith(f"ok, but {path} is late, and what it last said stays (no answer since 20")
        assert await running.ready() is None


async def test_a_gateway_without_a_file_reads_none(tmp_path, first):
    """SIGHUP is no reason to invent one."""
    running = await server.start(settings(tmp_path, {"a": first}))
    before = running.gateway.settings
    running.hang_up()
    await running.reload()

    assert running.gateway.settings is before
    await running.stop()


async def test_a_stop_waits_for_no_reading_and_takes_none(serve, monkeypatch):
    """What was read when the stop began is not taken any more."""
    monkeypatch.setattr("gateway.reloading.LOOK_EVERY", 0.01)
    running, file = await serve(watch=True)
    await eventually(lambda: file.reads)
    before = running.gateway.settings
    file.change()
    reading = asyncio.ensure_future(running.reload())
    await asyncio.sleep(0)
    await asyncio.wait_for(running.stop(), 20)
    await reading

    assert running.gateway.settings is before
    reads = file.reads
    await asyncio.sleep(0.1)
    assert file.reads == reads


async def test_a_stop_parts_from_callers_and_can_be_hurried_while_a_file_is_read_for_good(serve):
    """A mount that hangs is no reason to be cut off by whoever waits for the end."""
    hung = threading.Event()
    running, file = await serve(shutdown=Shutdown(pause=60))
    parted = []
    listener = running._listeners[-1]
    part, listener.part = listener.part, lambda: (parted.append(listener), part())
    running._reloading.watch._load = lambda: hung.wait(20) and file.settings
    reading = asyncio.ensure_future(running.reload())
    try:
        await asyncio.sleep(0.05)
        stopping = asyncio.ensure_future(running.stop())
        await eventually(lambda: parted)
        assert not stopping.done()
        running.cut()
        await asyncio.wait_for(stopping, 10)

        assert not hung.is_set()
    finally:
        hung.set()
        await reading


async def test_what_is_being_taken_when_a_stop_begins_is_taken_while_calls_still_are(serve, monkeypatch):
    """They go by one file or the other."""
    monkeypatch.setattr("gateway.reloading.LOOK_EVERY", 0.01)
    running, file = await serve(watch=True)
    await eventually(lambda: file.reads)
    go_on, begun, prepare, parted = asyncio.Event(), [], running.gateway.scanning.prepare, []
    listener = running._listeners[-1]
    monkeypatch.setattr(listener, "part", lambda part=listener.part: (parted.append(listener), part()))

    async def slow(backends, models):
        begun.append(models)
        await go_on.wait()
        await prepare(backends, models)

    monkeypatch.setattr(running.gateway.scanning, "prepare", slow)
    file.change()
    reading = asyncio.ensure_future(running.reload())
    await eventually(lambda: begun)
    monkeypatch.setattr("gateway.reloading.LAST", 20)
    stopping = asyncio.ensure_future(running.stop())
    await eventually(lambda: parted)
    assert not stopping.done()
    go_on.set()
    await asyncio.wait_for(stopping, 10)
    await reading

    assert running.gateway.settings.digest == file.settings.digest
