import asyncio
import contextlib
import errno
import os
import re
import socket
import ssl
import stat
from ipaddress import ip_network

import httpx
import msgspec
import pytest
from openai import AsyncOpenAI

from gateway import server
from gateway.config.settings import STANDARD, Limits, Listen, Shutdown, StoreSettings, Tls
from gateway.store.door import StoreDown
from tests.gateway.harness import ASK, eventually, new_key, running, settings
from tests.parts.gateway import STORE_DEADLINE
from tests.parts.scripted import Bytes, Hang, Pause, Until, sse


async def test_an_address_that_is_taken_is_told_and_nothing_is_left_running(tmp_path, first, gateway):
    """The store that was started is stopped again."""
    port = int(gateway.running.url.rsplit(":", 1)[1])
    taken = settings(tmp_path / "other", {"a": first}, listen=Listen("127.0.0.1", port))
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
        await server.start(taken)

    free = settings(tmp_path / "other", {"a": first})
    await (await server.start(free)).stop()


@pytest.mark.parametrize(
    ("host", "why", "cure"),
    [
        ("127.0.0.1", errno.EADDRINUSE, "stop what listens there, or set another `listen.port` or `operations.port`"),
        ("192.0.2.1", errno.EADDRNOTAVAIL, "set another `host` or `port` in `listen` or `operations`"),
    ],
)
def test_an_address_that_cannot_be_had_is_told_with_the_cure(host, why, cure):
    """And not by a number of the system's."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="cannot listen") as told:
            server.bind(Listen(host, port))

    assert str(told.value) == f"cannot listen on {host}:{port}: {os.strerror(why)}; {cure}"


async def test_a_second_gateway_on_one_data_directory_is_refused(tmp_path, first):
    """It would corrupt the first one's books."""
    async with running(tmp_path, {"a": first}):
        with pytest.raises(RuntimeError, match="in use by process"):
            await server.start(settings(tmp_path, {"a": first}))


async def test_without_any_backend_there_is_nothing_to_serve(tmp_path):
    """An error, not an idle process."""
    with pytest.raises(server.NothingToServeError):
        await server.start(settings(tmp_path, {}, models=None))


async def test_a_stop_lets_open_calls_finish_and_settles_them(tmp_path, first):
    """Readiness goes red first."""
    first.enqueue([*sse("one", end=False), Pause(0.5), *sse("two")[2:]])
    async with running(tmp_path, {"a": first}) as gateway, httpx.AsyncClient(timeout=20) as client:
        headers = {"authorization": f"Bearer {await gateway.key()}"}
        url = f"{gateway.running.url}/v1/chat/completions"
        call = asyncio.ensure_future(client.post(url, json=ASK | {"stream": True}, headers=headers))
        await eventually(lambda: gateway.services.intake.open_calls)
        await gateway.running.stop()

        assert (await call).text.endswith("[DONE]\n\n")
        assert await gateway.running.ready() == "stopping"
        assert gateway.gateway.ledger.open_reservations == 0


async def test_a_second_signal_cuts_open_calls_which_are_told_and_settled(tmp_path, first):
    """Nobody has to wait for the grace."""
    first.enqueue([*sse("one", end=False), Hang()])
    async with running(tmp_path, {"a": first}) as gateway, httpx.AsyncClient(timeout=20) as client:
        headers = {"authorization": f"Bearer {await gateway.key()}"}
        url = f"{gateway.running.url}/v1/chat/completions"
        call = asyncio.ensure_future(client.post(url, json=ASK | {"stream": True}, headers=headers))
        await eventually(lambda: first.calls and first.calls[0].tokens)
        await asyncio.sleep(0.1)
        stopping = asyncio.ensure_future(gateway.running.stop())
        await asyncio.sleep(0.2)
        gateway.running.cut()
        await asyncio.wait_for(stopping, 10)

        assert "overloaded" in (await call).text
        assert gateway.gateway.ledger.open_reservations == 0


async def test_readiness_asks_the_store(gateway):
    """A gateway that can admit nobody is not ready."""
    assert await gateway.running.ready() is None
    assert gateway.running.state() == "ok"
    await gateway.gateway.store.close()
    gateway.gateway.store._client = type(gateway.gateway.store)("unix:///nowhere")._client

    assert "cannot be reached" in await gateway.running.ready()


async def away(gateway):
    """Put the store out of reach for good, and let the gateway find out."""
    await gateway.gateway.store._client.close()
    gateway.gateway.store._client = type(gateway.gateway.store)("unix:///nowhere")._client
    with pytest.raises(StoreDown):
        await gateway.gateway.store.send(("PING",))


@pytest.mark.parametrize("where", ["store", "plan"])
async def test_a_gateway_that_serves_without_its_store_is_ready_and_says_how(tmp_path, first, where):
    """Whether it is the store's stance or that of one plan."""
    stances = {"store": ("local", None), "plan": ("deny", "local")}[where]
    store = StoreSettings("embedded", tmp_path / "data", when_down=stances[0], deadline=STORE_DEADLINE)
    plans = {"standard": STANDARD, "other": msgspec.structs.replace(STANDARD, name="other", when_down=stances[1])}
    async with running(tmp_path, {"a": first}, store=store, plans=plans) as gateway:
        assert (await gateway.running.ready(), gateway.running.state()) == (None, "ok")
        await away(gateway)

        assert await gateway.running.ready() is None
        assert re.match(r"ok, but for \d+ s without the store \(the store cannot be reached", gateway.running.state())
        assert "on disk" not in gateway.running.state()
        gateway.gateway.ledger._local._journal.fault = "No space left on device"
        assert gateway.running.state().endswith("what is admitted is not on disk (No space left on device)")


async def test_a_gateway_whose_store_is_away_is_not_ready_where_no_plan_says_local(tmp_path, first):
    """Be that the stance of the plans, or of the store."""
    async with running(tmp_path, {"a": first}) as gateway:
        await away(gateway)

        assert "cannot be reached" in await gateway.running.ready()


def test_an_admin_key_that_was_never_written_is_made_anew(tmp_path):
    """A full disk or a crash may leave an empty file."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    server.admin_key_path(data_dir).write_text("")

    assert len(server.made_admin_key(data_dir)) > 40


def test_the_admin_key_is_made_once_and_for_its_owner_only(tmp_path):
    """0600, in the data directory."""
    key = server.made_admin_key(tmp_path / "data")

    assert server.made_admin_key(tmp_path / "data") == key
    assert stat.S_IMODE(server.admin_key_path(tmp_path / "data").stat().st_mode) == 0o600
    assert len(key) > 40


async def test_the_sdk_and_httpx_are_served_over_tls_streams_included(tmp_path, first, pair):
    """The URL that is told says so."""
    trust = ssl.create_default_context(cafile=pair[0])
    started = await server.start(settings(tmp_path, {"a": first}, listen=Listen("127.0.0.1", 0, Tls(*pair))))
    try:
        key = await new_key(started.gateway)
        async with httpx.AsyncClient(verify=trust) as client:
            sdk = AsyncOpenAI(base_url=f"{started.url}/v1", api_key=key, http_client=client, max_retries=0)
            headers = {"authorization": f"Bearer {key}"}
            plain = await client.post(f"{started.url}/v1/chat/completions", json=ASK, headers=headers)
            answer = await sdk.chat.completions.create(**ASK)
            stream = await sdk.chat.completions.create(**ASK, stream=True)
            parts = [event.choices[0].delta.content async for event in stream if event.choices]
    finally:
        await started.stop()

    assert started.url.startswith("https://127.0.0.1:")
    assert plain.json()["choices"][0]["message"]["content"] == answer.choices[0].message.content
    assert "".join(part or "" for part in parts) == "all is well"


async def test_what_proxies_say_goes_no_further(tmp_path, first):
    """An upstream learns nothing of callers' addresses."""
    listen = Listen("127.0.0.1", 0, None, (ip_network("127.0.0.0/8"),))
    async with running(tmp_path, {"a": first}, listen=listen) as gateway:
        told = {"x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "https", "forwarded": "for=203.0.113.9"}
        answer = await gateway.client.post("/v1/chat/completions", json=ASK, headers=told)

    assert answer.status_code == 200
    assert not [name for name, _ in first.calls[0].request.headers if "forwarded" in name]


async def test_connections_are_counted_and_so_is_who_was_refused(tmp_path, first):
    """A caller who is one too many reads why in the API's own words."""
    async with running(tmp_path, {"a": first}, limits=Limits(connections=1)) as gateway:
        assert gateway.metric("sluiceway_connections") == 0
        over = asyncio.Event()
        first.enqueue([Until(over), *sse("one")])
        call = asyncio.ensure_future(gateway.ask(stream=True))
        await eventually(lambda: gateway.services.intake.open_calls)
        async with httpx.AsyncClient(base_url=gateway.running.url) as other:
            refused = await other.get("/v1/models")

        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
        assert refused.headers["retry-after"] == "1"
        assert gateway.metric("sluiceway_connections") == 1
        assert gateway.metric("sluiceway_connections_refused_total", reason="full") == 1
        over.set()
        assert (await call).status_code == 200


async def test_after_the_grace_half_sent_bodies_and_readers_of_nothing_are_ended_and_settled(tmp_path, first, caplog):
    """The first is told why; the second listens to nobody."""
    first.enqueue([*sse("one", end=False), *[Bytes(b"data: {}\n\n" + b": " + b"x" * 100_000 + b"\n\n")] * 300, Hang()])
    soon = Shutdown(grace=1)
    async with running(tmp_path, {"a": first}, shutdown=soon) as gateway, contextlib.AsyncExitStack() as stack:
        key, port = await gateway.key(), int(gateway.running.url.rsplit(":", 1)[1])
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
        body = httpx.Request("POST", "http://x", json=ASK | {"stream": True}).content
        callers = []
        for sent in (body, body[:5]):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.close)
            writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + sent)
            callers.append(reader)
        await eventually(lambda: first.calls and gateway.services.intake.open_calls == 2)
        await asyncio.sleep(0.3)
        await asyncio.wait_for(gateway.running.stop(), 15)

        assert b"overloaded" in await asyncio.wait_for(callers[1].read(), 5)
        assert gateway.gateway.ledger.open_reservations == 0
        assert gateway.services.intake.open_calls == 0
    assert [record for record in caplog.records if record.exc_info] == []


async def test_before_a_stop_calls_are_still_taken_for_a_pause(tmp_path, first):
    """Not ready at once; each caller is asked to come back elsewhere; a stream from before goes on to its end."""
    first.enqueue([Pause(3.5), *sse("one")])
    async with (
        running(tmp_path, {"a": first}, shutdown=Shutdown(pause=3.0)) as gateway,
        httpx.AsyncClient(base_url=gateway.running.operations_url) as operator,
    ):
        stream = asyncio.ensure_future(gateway.ask(stream=True))
        await eventually(lambda: first.calls)
        assert (await gateway.ask()).headers.get("connection") is None
        stop = asyncio.ensure_future(gateway.running.stop())
        await asyncio.sleep(0)
        ready = await operator.get("/readyz")
        during = await gateway.ask()
        assert not stop.done()
        assert (ready.status_code, ready.text) == (503, "stopping")
        assert (during.status_code, during.headers["connection"]) == (200, "close")
        assert (await stream).text.endswith("data: [DONE]\n\n")
        await stop
        with pytest.raises(httpx.ConnectError):
            await gateway.ask()


async def test_whoever_cuts_a_stop_short_waits_for_no_pause(tmp_path, first):
    """The second signal is for people who do not want to wait."""
    async with running(tmp_path, {"a": first}, shutdown=Shutdown(pause=60, grace=60)) as gateway:
        stop = asyncio.ensure_future(gateway.running.stop())
        await asyncio.sleep(0.1)
        gateway.running.cut()
        await asyncio.wait_for(stop, 20)
