"""How two workers end: with their supervisor killed, and at its stop; nobody's stream and nothing booked is lost."""

import asyncio
import fcntl
import os
import signal
import ssl

from tests.gateway.workers.processes import Workers, eventually, until
from tests.parts.certificates import self_signed
from tests.parts.gateway import write_config
from tests.parts.ports import free_port
from tests.parts.processes import lives
from tests.parts.scripted import ScriptedServer


async def test_streams_outlive_a_killed_supervisor_and_finish_at_a_stop(tmp_path, compiled):
    """The workers drain, settle while the store is there still, and end; so does the store. The next start has it all.

    Over TLS: the supervisor looks at the pair before it starts anybody, and has it renewed by all.
    """
    pair = self_signed(tmp_path / "tls")
    trust = ssl.create_default_context(cafile=pair[0])
    listen = {"host": "127.0.0.1", "port": free_port(), "tls": {"cert": "tls/cert.pem", "key": "tls/key.pem"}}
    plans = {"wide": {"requests_per_minute": 60_000, "concurrent_requests": 1000}}
    async with ScriptedServer() as upstream:
        backends = {"a": {"kind": "vllm", "base_url": f"{upstream.url}/v1"}}
        path = write_config(tmp_path, {"backends": backends, "plans": plans, "listen": listen})
        over = asyncio.Event()
        upstream.default = until(over)
        site = await Workers(path, compiled).start()
        try:
            key = await site.create_key(plan="wide")
            streams = await site.streams_through_both(key, verify=trust)
            workers = site.pids.values()
            os.kill(site.pid, signal.SIGKILL)
            await eventually(lambda: told_twice(site, "the supervisor is gone"))
            await asyncio.sleep(0.5)  # the time in which a store that is nobody's ends
            assert all(map(lives, workers))
            assert store_runs(site)
            over.set()
            assert [(await stream).text.endswith("data: [DONE]\n\n") for stream in streams] == [True] * len(streams)
            await eventually(lambda: ended(site, workers))
        finally:
            site.kill()

        site = await Workers(path, compiled).start()
        try:
            assert await booked(site) == (len(streams), 3 * len(streams), 2 * len(streams))
            assert (await site.metrics()).total("sluiceway_open_reservations") == 0
            self_signed(tmp_path / "tls")
            site.send(signal.SIGHUP)
            await eventually(lambda: told_twice(site, "certificate renewed"))
            trust = ssl.create_default_context(cafile=pair[0])
            over.clear()
            more = await site.streams_through_both(key, verify=trust)
            site.send(signal.SIGTERM)
            await eventually(lambda: told_twice(site, "stopping", of_all=3))
            over.set()
            assert [(await stream).text.endswith("data: [DONE]\n\n") for stream in more] == [True] * len(more)
            assert await site.ended() == 0
            assert '"level": "error"' not in site.output
            assert "Traceback" not in site.output
        finally:
            site.kill()


async def told_twice(site, event, of_all=2):
    return sum(line["event"].startswith(event) for line in site.log_lines) >= of_all


async def ended(site, pids):
    return not any(map(lives, pids)) and not store_runs(site)


def store_runs(site):
    """Say whether the embedded store runs, which holds the lock of its folder as long as it does."""
    with (site.data_dir / "lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


async def booked(site):
    rows = await site.usage()
    return tuple(sum(row[name] for row in rows) for name in ("calls", "input_tokens", "output_tokens"))
