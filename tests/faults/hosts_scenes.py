"""What happens to the hosts, one scene after the other; each says what it promised itself and what it saw."""

import asyncio
import time
from dataclasses import dataclass, field

import httpx
import yaml

from tests.faults.books import ORGANIZATION, until
from tests.faults.hosts_load import Heard
from tests.parts import stores

CUT = 20.0
"""Seconds for which a gateway is without the store."""

GONE = 70.0
"""Seconds for which an engine's host is gone: longer than a gateway waits for a plain answer (60 s)."""

IN_FORCE = 2.0
"""Seconds after which a new file must be in force."""

BACK = 30.0
"""Seconds within which all is as before."""


@dataclass
class Act:
    """A scene that was played. `promises`: whether each was kept; `severed`: the backend whose cable was pulled."""

    name: str
    begun: float = field(default_factory=time.monotonic)
    promises: dict[str, bool] = field(default_factory=dict)
    seen: dict[str, str] = field(default_factory=dict)
    calls: list[Heard] = field(default_factory=list)
    severed: str | None = None

    def judge(self):
        """Hold its calls against the law; return those that break it."""
        bad = [one for one in self.calls if not one.is_good and not one.is_told]
        strays = [one for one in self.calls if one.is_told and one.backend != self.severed]
        self.promises["no call fails"] = not bad
        self.promises["only severed streams are ended"] = not strays
        return bad + strays


async def _seconds(condition, within=BACK):
    """Wait until an async condition holds; return how many seconds that took, or infinity."""
    begun = time.monotonic()
    try:
        await until(condition, within)
    except TimeoutError:
        return float("inf")
    return time.monotonic() - begun


def _told(seconds):
    return f"{seconds:.1f} s"


async def nothing(site, act):
    """Let a while go by."""
    await asyncio.sleep(10.0)


async def cut_from_the_store(site, act):
    """Pull one gateway's cable to the store; its callers and its engines are where they were."""
    gateway = site.gateways[0]
    alone = (await gateway.metrics()).total("sluiceway_ledger_local")
    gateway.host.unplug("store")
    end = time.monotonic() + CUT
    ready = []
    while time.monotonic() < end:
        ready.append(await _readiness(gateway))
        await asyncio.sleep(1.0)
    gateway.host.plug("store")

    async def is_back():
        return not (await gateway.metrics()).total("sluiceway_store_down")

    back = await _seconds(is_back)
    alone = (await gateway.metrics()).total("sluiceway_ledger_local") - alone
    act.promises["ready all the time"] = {status for status, _ in ready} == {200}
    act.promises["it serves alone"] = alone > 0
    act.promises["it is back"] = back < BACK
    act.seen |= {"served alone": f"{alone:.0f}", "back with the store after": _told(back)}


async def a_shard_fails_over(site, act):
    """Kill the server that holds the organization's books; it comes back as a replica."""
    master, replica = await site.cluster.pair(f"sw:{{{ORGANIZATION}}}:clock")
    master.kill()

    async def is_promoted():
        return (await replica.ask("INFO", "replication"))["role"] == "master"

    async def is_joined():
        downs = [(await one.metrics()).total("sluiceway_store_down") for one in site.gateways]
        return not any(downs)

    promoted = await _seconds(is_promoted)
    joined = await _seconds(is_joined)
    await asyncio.sleep(8.0)
    await master.start()
    await stores.until(lambda: stores.replicates(master), BACK)
    act.promises["its replica takes over"] = promoted < BACK
    act.promises["all gateways are back"] = joined < BACK
    act.seen |= {"replica took over after": _told(promoted), "gateways back after": _told(promoted + joined)}


async def an_engine_vanishes(site, act):
    """Pull an engine's cable; nobody is told, packets are lost."""
    engine = site.engines[0]
    act.severed = f"pair@{engine.host.address('front')}:8000"
    engine.host.unplug("front")
    await asyncio.sleep(GONE)
    engine.host.plug("front")
    before = len(engine.calls)

    async def is_called():
        return len(engine.calls) > before

    back = await _seconds(is_called, 2 * BACK)
    act.promises["it is called again"] = back < 2 * BACK
    act.seen["called again after"] = _told(back)


async def files_are_rolled_out(site, act):
    """Roll out a good file everywhere, then one with a mistake, then the good one again."""
    digests = [await _digest(one, site.key) for one in site.gateways]
    good = {}
    for one in site.gateways:
        settings = yaml.safe_load(one.config.read_text())
        settings["models"]["m"]["aliases"] = [f"alias-{act.begun:.0f}"]
        pair = settings["backends"]["pair"]  # a changed backend is made anew while calls go on over the old one
        pair["probe_every"] = 4 if pair.get("probe_every") == 3 else 3
        good[one] = yaml.safe_dump(settings, sort_keys=False)
        one.roll_out(good[one])

    async def is_in_force():
        now = [await _digest(one, site.key) for one in site.gateways]
        return all(new != old for new, old in zip(now, digests, strict=True))

    took = await _seconds(is_in_force)
    digests = [await _digest(one, site.key) for one in site.gateways]
    for one in site.gateways:
        one.roll_out(good[one] + "nonsense: {\n")

    async def is_refused():
        return all([(await one.metrics()).total("sluiceway_config_stale") for one in site.gateways])

    refused = await _seconds(is_refused, 10.0)
    kept = [await _digest(one, site.key) for one in site.gateways] == digests
    ready = [await _readiness(one) for one in site.gateways]
    for one in site.gateways:
        one.roll_out(good[one])

    async def is_mended():
        return not any([(await one.metrics()).total("sluiceway_config_stale") for one in site.gateways])

    mended = await _seconds(is_mended, 10.0)
    act.promises["a good file is in force in time"] = took <= IN_FORCE
    act.promises["a bad file is told and changes nothing"] = refused <= IN_FORCE and kept
    act.promises["ready with a bad file, and saying so"] = all(
        status == 200 and "sluiceway.yaml" in text for status, text in ready
    )
    act.promises["mended"] = mended <= IN_FORCE
    act.seen |= {"in force after": _told(took), "refused after": _told(refused), "mended after": _told(mended)}


async def _readiness(gateway):
    async with httpx.AsyncClient(trust_env=False, timeout=5.0) as client:
        try:
            answer = await client.get(f"{gateway.operations_url}/readyz")
        except httpx.TransportError as error:
            return 0, repr(error)
        return answer.status_code, answer.text


async def _digest(gateway, key):
    async with httpx.AsyncClient(trust_env=False, timeout=5.0) as client:
        answer = await client.get(f"{gateway.url}/v1/models", headers={"authorization": f"Bearer {key}"})
        return answer.headers["x-sluiceway-config"]


SCENES = (cut_from_the_store, a_shard_fails_over, an_engine_vanishes, files_are_rolled_out)
