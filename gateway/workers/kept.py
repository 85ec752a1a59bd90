"""What several workers have in common: two sockets, the store, the admin key, and some memory.

Law: all of it is had before the first worker is started and given up after the last has ended, the store at the very
end. A worker is given what it needs of it, and never looks for another.
"""

import contextlib
import socket
from collections.abc import AsyncIterator
from ipaddress import ip_network
from tempfile import TemporaryFile

from msgspec import Struct
from msgspec.structs import replace

from gateway import server
from gateway.config.settings import Listen, Settings
from gateway.store.embedded import shared
from gateway.workers.channel import Task
from gateway.workers.turns import Turns, room

INSIDE = Listen("127.0.0.1", 0, trusted_proxies=(ip_network("127.0.0.1/32"),))
"""Where a worker has its operations: at a port that is free, where it believes us who asks."""


class Kept(Struct, frozen=True, kw_only=True):
    """What there is only one of. `first`: the settings that it was made by; `memory`: the descriptor of `turns`.

    `callers`, `operations`: bound; `lifelines`: descriptors, and the store lives while anybody has one open.
    """

    first: Settings
    workers: int
    callers: socket.socket
    operations: socket.socket
    memory: int
    turns: Turns
    store_url: str
    lifelines: tuple[int, ...]
    admin_key: str

    def task(self, number: int, settings: Settings, *, discover: bool) -> Task:
        """Return what the worker with this number is told to do; `settings` as it is to run on them."""
        return Task(number, self.workers, self.callers.fileno(), self.memory, settings, discover)

    def inside(self, settings: Settings) -> Settings:
        """Return settings as a worker is to run on them: with its own operations, our store and our admin key.

        One of these that is not what it was at the start is left alone: the worker says that it waits for a restart.
        """
        first, told = self.first, settings.operations
        host = INSIDE.host if told.host == first.operations.host else told.host
        port = INSIDE.port if told.port == first.operations.port else told.port
        url = self.store_url if settings.store.url == first.store.url else settings.store.url
        return replace(
            settings,
            operations=replace(INSIDE, host=host, port=port),
            store=replace(settings.store, url=url),
            admin_key=self.admin_key if settings.admin_key == first.admin_key else settings.admin_key,
        )


@contextlib.asynccontextmanager
async def keep(settings: Settings, workers: int) -> AsyncIterator[Kept]:
    """Have all of it for so many workers. Raises OSError, StoreDown and DataDirLocked."""
    store = settings.store
    async with contextlib.AsyncExitStack() as stack:
        callers = stack.enter_context(server.bind(settings.listen))
        operations = stack.enter_context(server.bind(settings.operations))
        memory = stack.enter_context(TemporaryFile())  # noqa: SIM115 - the stack closes it
        memory.truncate(room(workers))
        turns = Turns(memory.fileno(), workers)
        stack.callback(turns.close)
        turns.begin()
        url = store.url
        lifelines: tuple[int, ...] = ()
        if url == "embedded":
            run = await stack.enter_async_context(shared(store.data_dir))
            url, lifelines = run.url, (run.lifeline,)
        yield Kept(
            first=settings,
            workers=workers,
            callers=callers,
            operations=operations,
            memory=memory.fileno(),
            turns=turns,
            store_url=url,
            lifelines=lifelines,
            admin_key=settings.admin_key or server.made_admin_key(store.data_dir),
        )
