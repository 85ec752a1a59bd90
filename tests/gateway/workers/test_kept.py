import os
from ipaddress import ip_network

import pytest
from msgspec.structs import replace

from gateway.config.settings import Listen, StoreSettings
from gateway.reloading import attainable
from gateway.store.door import Store
from gateway.workers.kept import keep
from tests.gateway.harness import settings
from tests.parts.gateway import STORE_DEADLINE


async def test_workers_share_what_there_is_one_of(tmp_path):
    """The sockets, the store, the key; each has its operations at a port of its own."""
    first = settings(tmp_path, {}, admin_key=None)
    async with keep(first, 2) as kept:
        inside = kept.inside(first)
        task = kept.task(2, inside, discover=True)
        store = Store(inside.store.url, deadline=STORE_DEADLINE)
        await store.send(("PING",))
        await store.close()

        assert (task.number, task.workers, task.callers) == (2, 2, kept.callers.fileno())
        assert (inside.operations.host, inside.operations.port) == ("127.0.0.1", 0)
        assert inside.operations.trusted_proxies == (ip_network("127.0.0.1/32"),)
        assert inside.listen == first.listen
        assert inside.admin_key == (tmp_path / "data" / "admin.key").read_text().strip()
        assert len(kept.lifelines) == 1
        os.fstat(kept.lifelines[0])
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(task.callers)


async def test_what_has_changed_of_that_waits_for_a_restart_and_nothing_else_does(tmp_path):
    """As one gateway alone would say: the worker compares with what it was started with."""
    first = settings(tmp_path, {}, store=StoreSettings("redis://a", tmp_path), operations=Listen("127.0.0.1", 8601))
    changed = replace(
        first, store=StoreSettings("redis://b", tmp_path), operations=Listen("127.0.0.1", 8602), digest="new"
    )
    first = replace(first, listen=Listen("127.0.0.1", 0), operations=Listen("127.0.0.1", 0))
    async with keep(first, 2) as kept:
        inside = kept.inside(first)

        assert attainable(kept.inside(replace(first, digest="new")), inside)[1] == ()
        assert attainable(kept.inside(changed), inside)[1] == ("operations.port", "store.url")
        assert attainable(kept.inside(replace(first, admin_key="other")), inside)[1] == ("admin_key",)
        assert kept.lifelines == ()


async def test_a_port_that_is_taken_is_said_before_anything_is_started(tmp_path):
    """With the address."""
    async with keep(settings(tmp_path, {}), 2) as kept:
        port = kept.callers.getsockname()[1]
        kept.callers.listen()
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"):
            async with keep(settings(tmp_path, {}, listen=Listen("127.0.0.1", port)), 2):
                pass
