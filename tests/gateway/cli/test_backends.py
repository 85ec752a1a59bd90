import json

from gateway.identity.records import DrainRecord
from gateway.identity.registry import Registry
from gateway.store.door import StoreDown
from tests.gateway.cli.cells import cells


async def test_backends_are_listed_with_what_the_gateway_knows_of_them(sluiceway):
    """One that is not probed is not called down."""
    told = cells((await sluiceway("backends", "ls")).stdout)

    assert told == [
        ["backend", "kind", "hosted", "state", "in flight", "models", "why"],
        ["gpu", "vllm", "no", "up", "3", "mistral-medium, small", "-"],
        [
            *("hosted", "nvidia", "yes", "not known", "0", "large, larger (not in its list)"),
            "large off: the upstream answered 401 (for 5 min more)",
        ],
    ]


async def test_backends_are_listed_while_the_store_is_down(sluiceway, monkeypatch):
    """With a word on what nobody can confirm, beside the table."""

    async def gone(*_, **__):
        raise StoreDown("it sleeps")

    before = await sluiceway("backends", "ls")
    monkeypatch.setattr(Registry, "every", gone)
    told = await sluiceway("backends", "ls")

    assert (told.stdout, before.stderr) == (before.stdout, "")
    assert told.stderr.startswith("Warning: The store is down: which backends are drained")


async def test_a_drain_is_for_all_gateways_until_it_is_resumed(sluiceway, registry):
    """So it is a record of the store."""
    told = await sluiceway("backends", "drain", "gpu", "--reason", "new driver")
    assert told.stdout == "gpu gets no new calls; `sluiceway backends ls` tells how many this gateway still has there\n"
    assert (await registry.get(DrainRecord, "gpu")).record == DrainRecord(backend="gpu", reason="new driver")
    (row,) = [row for row in cells((await sluiceway("backends", "ls")).stdout) if row[0] == "gpu"]
    assert (row[3], row[6]) == ("up, drained", "new driver")

    assert (await sluiceway("backends", "resume", "gpu")).stdout == "gpu gets calls again\n"
    assert await registry.get(DrainRecord, "gpu") is None
    assert not any(one["drained"] for one in json.loads((await sluiceway("backends", "ls", "--json")).stdout))


async def test_both_are_told_to_programs(sluiceway):
    """As JSON."""
    assert json.loads((await sluiceway("backends", "drain", "gpu", "--json")).stdout) == {
        "name": "gpu",
        "drained": True,
    }
    assert json.loads((await sluiceway("backends", "resume", "gpu", "--json")).stdout) == {
        "name": "gpu",
        "drained": False,
    }


async def test_an_unknown_backend_is_told(refused):
    """With where to look."""
    for word in ("drain", "resume"):
        assert "no backend gpv" in await refused("backends", word, "gpv")
