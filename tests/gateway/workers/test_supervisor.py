"""Two workers as whoever calls and operates them sees them; how they end is in tests/e2e/test_workers.py."""

import asyncio
import os
import signal
import subprocess
import sys

import httpx
import pytest
import yaml

from gateway.identity.keys import parse
from gateway.store.embedded import embedded
from tests.gateway.workers.processes import Workers, eventually, until
from tests.parts import stores
from tests.parts.certificates import self_signed
from tests.parts.gateway import ADMIN_KEY, contents, write_config
from tests.parts.ports import free_port
from tests.parts.processes import lives
from tests.parts.scripted import ScriptedServer


def config(folder, upstream, **changes):
    plans = {
        "wide": {"requests_per_minute": 60_000, "concurrent_requests": 1000},
        "single": {"concurrent_requests": 1},
    }
    backends = {"a": {"kind": "vllm", "base_url": f"{upstream.url}/v1"}}
    return write_config(folder, {"backends": backends, "admin": {"on": "operations"}, "plans": plans, **changes})


async def served_by_both(site, key):
    """Call until each worker has answered; return how often."""
    for calls in range(1, 200):
        assert (await site.ask(key)).status_code == 200
        if calls % 8 == 0 and all((await site.per_worker("sluiceway_requests_total", status="200")).values()):
            return calls
    raise AssertionError("one worker got all of them")


async def test_two_workers_are_one_gateway_that_loses_one_and_finds_another(tmp_path, compiled):
    """Books, records, limits and the file are the same whoever answers; what a lost one held comes back by itself."""
    over = asyncio.Event()
    async with ScriptedServer() as upstream, Workers(path := config(tmp_path, upstream), compiled) as site:
        wide, single = await site.create_key(plan="wide"), await site.create_key(name="single", plan="single")
        calls = await served_by_both(site, wide)
        (row,) = await site.usage()
        assert row["calls"] == calls
        assert await audited(site, "127.0.0.2"), "not the supervisor, whom the worker sees"
        await eventually(lambda: two_are_listed(site, set()))
        before = {row["instance"] for row in (await site.admin("GET", "/gateways"))["gateways"]}

        # A worker is killed that carries a stream, the only one that its caller may have.
        upstream.enqueue(until(over))
        lost = asyncio.ensure_future(site.ask(single, stream=True))
        await eventually(lambda: carried(site))
        assert (await site.ask(single)).status_code == 429
        carrying = next(number for number, open_ in (await site.per_worker("sluiceway_open_calls")).items() if open_)
        killed = site.pids[carrying]
        os.kill(killed, signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            await lost
        assert (await site.ask(wide)).status_code == 200, "the other one goes on"

        # Meanwhile the file goes bad: who takes its place runs on what was good, and says so as the other does.
        good = path.read_text()
        path.write_text("lisen: {}\n")
        await eventually(lambda: all_of(site, "sluiceway_config_stale", 1))
        ready = await site.operator("/readyz")
        assert ready.status_code == 200
        assert "worker 1, worker 2: ok, but the file was refused" in ready.text
        assert not lives(killed)
        (ended,) = site.lines("a worker has ended and is replaced")
        assert (ended["worker"], ended["how"]) == (carrying, "was ended by SIGKILL")
        assert (await site.metrics())[f'sluiceway_worker_restarts_total{{worker="{carrying}"}}'] == 1

        # Mended, and read at once on a signal; what needs a restart is named, by who takes another's place now too.
        path.write_text(needing_a_restart(good, self_signed(tmp_path / "tls")))
        await a_restart_is_waited_for(site, wide, then_killed=3 - carrying)

        # What the lost one held is given back; two gateways live, one of them new.
        await eventually(lambda: answers(site, single), within=45)
        await eventually(lambda: two_are_listed(site, before))
        assert sum((await site.per_worker("sluiceway_ledger_reaped")).values()) == 1
        assert await site.both_ready()

        # A stop that nobody wants to wait for: open streams are told, and all is settled.
        upstream.default = until(over)
        streams = await site.streams_through_both(wide)
        site.send(signal.SIGTERM)
        await eventually(lambda: says(site, "stopping"))
        site.send(signal.SIGTERM)
        assert await site.ended(20) == 0
        assert ["overloaded" in (await stream).text for stream in streams] == [True] * len(streams)
        assert '"level": "error"' not in site.output[site.output.index("Stopping:") :]


async def audited(site, address):
    """Change something from this address, and say whether the audit has it."""
    there = httpx.AsyncHTTPTransport(local_address=address)
    async with httpx.AsyncClient(transport=there, headers={"authorization": f"Bearer {ADMIN_KEY}"}) as client:
        asked = {"organization": "acme", "team": "research", "name": "elsewhere", "plan": None}
        (await client.post(f"{site.operations_url}/admin/v1/keys", json=asked)).raise_for_status()
    return address in {line["address"] for line in (await site.admin("GET", "/audit"))["lines"]}


async def says(site, text):
    return (await site.operator("/readyz")).text == text


async def a_restart_is_waited_for(site, key, then_killed):
    """Read the file, and kill a worker: whoever takes its place runs on what the other runs on."""
    words = "wait for a restart (operations.port, store.url, listen.tls)"
    site.send(signal.SIGHUP)
    await eventually(lambda: all_of(site, "sluiceway_config_waiting", 3))
    assert await all_of(site, "sluiceway_config_stale", 0)
    assert await both_say(site, words)
    digests = {(await site.ask(key)).headers["x-sluiceway-config"] for _ in range(8)}
    assert digests == {(await site.operator("/livez")).headers["x-sluiceway-config"]}
    os.kill(site.pids[then_killed], signal.SIGKILL)
    await eventually(lambda: replaced_twice(site))
    await eventually(lambda: both_say(site, words))
    await served_by_both(site, key)


def needing_a_restart(text, pair):
    """Return a file with another store, TLS and another operations' port."""
    told = yaml.safe_load(text)
    told["operations"]["port"] = free_port()
    told["store"]["url"] = "redis://127.0.0.1:1"
    told["listen"]["tls"] = {"cert": str(pair[0]), "key": str(pair[1])}
    return yaml.safe_dump(told)


async def both_say(site, words):
    """Say whether both workers are ready, and say this in the same words."""
    told = (await site.operator("/readyz")).text
    return told.startswith("ok: 2 of 2") and f"worker 1, worker 2: ok, but changed settings {words}" in told


async def replaced_twice(site):
    return await site.both_ready() and len(site.lines("a worker has ended and is replaced")) == 2


async def carried(site):
    return any((await site.per_worker("sluiceway_open_calls")).values())


async def two_are_listed(site, before):
    """Say whether two gateways are listed that are none of those: whoever was killed later is so for longer."""
    now = {row["instance"] for row in (await site.admin("GET", "/gateways"))["gateways"]}
    return (len(now), len(now & before)) == (2, 0)


async def answers(site, key):
    return (await site.ask(key)).status_code == 200


async def all_of(site, name, value):
    metrics = await site.metrics()
    return [metrics.get(f'{name}{{worker="{number}"}}') for number in (1, 2)] == [value, value]


def serve(path, compiled):
    options = ["--workers", "2"]
    command = [sys.executable, "-c", "from gateway.cli import main; main()", "serve", "--config", str(path), *options]
    env = os.environ | {"SLUICEWAY_ADMIN_KEY": ADMIN_KEY}
    env |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(compiled)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env)


def store_of(pid):
    """Return the process of the store that this one runs."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,stat=,comm="], capture_output=True, text=True, check=True)
    rows = [line.split(None, 3) for line in listed.stdout.splitlines()]
    ours = {its for its, parent, *_ in rows if int(parent) == pid}
    found = [int(its) for its, parent, state, name in rows if parent in ours and "valkey" in name and state[0] != "Z"]
    return found[0] if found else None


async def test_a_store_that_is_killed_comes_back_for_all_workers_and_goes_with_them(tmp_path, compiled):
    """Every call that was served is booked; a stop in the midst of it is a stop like any other."""
    async with ScriptedServer() as upstream, Workers(config(tmp_path, upstream), compiled) as site:
        key = await site.create_key(plan="wide")
        served = await served_by_both(site, key)
        await eventually(lambda: written(tmp_path / "data", key))
        os.kill(killed := store_of(site.pid), signal.SIGKILL)
        await eventually(lambda: starts_again(site))
        await eventually(site.both_ready)
        served += await served_by_both(site, key)
        assert not lives(killed)
        await eventually(lambda: booked(site, served))

        os.kill(store_of(site.pid), signal.SIGKILL)
        site.send(signal.SIGTERM)
        assert await site.ended(30) == 0
        assert not [pid for pid in site.pids.values() if lives(pid)]
        async with embedded(tmp_path / "data"):  # which would be refused while anybody of the store is left
            pass


async def written(data_dir, key):
    """Say whether the store's file has a key: what is told it again is what is booked."""
    return any(parse(key).encode() in content for content in contents(data_dir / "appendonlydir").values())


async def starts_again(site):
    return site.lines("the embedded store has ended and is started again")


async def booked(site, calls):
    return [row["calls"] for row in await site.usage()] == [calls]


async def test_what_prevents_a_start_is_said_once_and_in_the_words_of_one_process(tmp_path, compiled):
    """A mistake in the file, a port that is taken: before any worker is started; an unfit store: by the workers."""
    unfit_for_limits = stores.one(tmp_path / "store", maxmemory_policy="allkeys-lru")
    async with ScriptedServer() as upstream, ScriptedServer() as other, unfit_for_limits as store:
        wrong = tmp_path / "wrong.yaml"
        wrong.write_text("lisen: {}\n")
        for name in ("taken", "unfit"):
            (tmp_path / name).mkdir()
        taken = config(tmp_path / "taken", upstream, listen={"host": "127.0.0.1", "port": other.port})
        unfit = config(tmp_path / "unfit", upstream, store={"url": store.url, "data_dir": str(tmp_path / "data")})
        starts = (asyncio.to_thread(serve, path, compiled) for path in (wrong, taken, unfit))
        mistaken, refused, full = await asyncio.gather(*starts)

    for done, word in ((mistaken, "wrong.yaml:1: lisen"), (refused, f":{other.port}"), (full, "allkeys-lru")):
        assert done.returncode == 2, done.stderr
        assert [line.startswith("{") for line in done.stderr.splitlines() if word in line] == [False]
        assert "Traceback" not in done.stderr
    assert "a worker is started" not in mistaken.stderr + refused.stderr
    assert full.stderr.count("a worker is started") == 2


async def test_a_stop_during_the_start_is_heard_though_the_workers_hang(tmp_path, compiled):
    """Nobody is left, and nothing is wrong."""
    async with ScriptedServer() as upstream:
        site = Workers(config(tmp_path, upstream), compiled)
        site._spawn()
        try:
            async with asyncio.timeout(30):
                while len(site.pids) < 2:  # noqa: ASYNC110 - another process's words
                    await asyncio.sleep(0.01)
            for pid in site.pids.values():
                os.kill(pid, signal.SIGSTOP)

            assert await site.terminate(20) == 0
            assert not [pid for pid in site.pids.values() if lives(pid)]
            assert '"level": "error"' not in site.output
        finally:
            site.kill()
