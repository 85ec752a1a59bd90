import asyncio
import stat

import httpx
import pytest

from gateway import server
from gateway.config.settings import Listen
from tests.gateway.harness import ASK, eventually, running, settings
from tests.parts.scripted import Hang, Pause, sse


async def test_an_address_that_is_taken_is_told_and_nothing_is_left_running(tmp_path, first, gateway):
    """The store that was started is stopped again."""
    port = int(gateway.running.url.rsplit(":", 1)[1])
    taken = settings(tmp_path / "other", {"a": first}, listen=Listen("127.0.0.1", port))
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
        await server.start(taken)

    free = settings(tmp_path / "other", {"a": first})
    await (await server.start(free)).stop()


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
    await gateway.gateway.store.close()
    gateway.gateway.store._redis = type(gateway.gateway.store)("unix:///nowhere")._redis

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
