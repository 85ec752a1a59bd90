import asyncio

import pytest
from msgspec.structs import replace

from gateway.store.door import StoreDown
from tests.gateway.api.support import BACKENDS, error

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def drained(admin):
    """Return the reasons of all backends that are drained."""
    backends = (await admin.get("/backends")).json()["backends"]
    return {one["name"]: one["reason"] for one in backends if one["drained"]}


async def test_backends_are_told_as_this_gateway_sees_them(admin):
    told = (await admin.get("/backends")).json()["backends"]
    assert [one["name"] for one in told] == [view.name for view in BACKENDS]
    assert told[0] == {
        "name": "rack",
        "kind": "vllm",
        "hosted": False,
        "up": True,
        "why": "ministral off: the upstream answered 401 (for 5 min more)",
        "in_flight": 3,
        "drained": False,
        "reason": None,
        "models": ["mistral-small", "ministral"],
        "out": [{"model": "ministral", "why": "off: the upstream answered 401", "seconds": 271}],
        "unlisted": ["ministral"],
    }


async def test_backends_are_told_from_memory_while_the_store_is_down(admin, parts, monkeypatch):
    """What the gateway knows by itself is when it is asked for; of drains it says whose word that is."""
    whole = (await admin.get("/backends")).json()

    async def gone(*_, **__):
        raise StoreDown("it sleeps")

    monkeypatch.setattr(type(parts.registry), "every", gone)
    monkeypatch.setattr(parts, "backends", lambda: [replace(BACKENDS[0], drained=True), *BACKENDS[1:]])
    told = await admin.get("/backends")

    assert told.status_code == 200
    assert [one["drained"] for one in told.json()["backends"]] == [True, False, False]
    assert [one | {"drained": False} for one in told.json()["backends"]] == whole["backends"]
    assert (whole["note"], "drained is what this gateway knew last" in told.json()["note"]) == (None, True)


async def test_a_backend_is_drained_and_resumed(admin):
    for body in ({"reason": "new driver"}, {"reason": "new driver"}):
        assert (await admin.post("/backends/rack/drain", json=body)).status_code == 204
    assert await drained(admin) == {"rack": "new driver"}
    assert (await admin.post("/backends/rack/drain")).status_code == 204
    assert await drained(admin) == {"rack": None}
    for _ in range(2):
        assert (await admin.post("/backends/rack/resume")).status_code == 204
    assert await drained(admin) == {}
    lines = (await admin.get("/audit")).json()["lines"]
    assert [(line["kind"], line["name"], line["action"]) for line in lines] == [
        ("drain", "rack", action) for action in ("resume", "drain", "drain")
    ]
    assert lines[1]["before"] == {"reason": "new driver"}


async def test_the_audit_of_drains_at_one_time_tells_what_each_replaced(admin):
    """And what a resumption ended, though a drain came between its look and its word."""
    reasons = [f"reason {number}" for number in range(20)]
    await asyncio.gather(*(admin.post("/backends/rack/drain", json={"reason": reason}) for reason in reasons))
    await asyncio.gather(
        admin.post("/backends/rack/drain", json={"reason": "last"}), admin.post("/backends/rack/resume")
    )
    lines = (await admin.get("/audit")).json()["lines"][::-1]
    there = None
    for line in lines:
        assert line["before"].get("reason") == there
        there = line["after"].get("reason")
    assert len(lines) >= 22


async def test_a_replica_is_drained_alone_or_with_all_of_its_name(admin):
    await admin.post("/backends/pool%4010.0.0.1:8000/drain")
    assert await drained(admin) == {"pool@10.0.0.1:8000": None}
    await admin.post("/backends/pool%4010.0.0.1:8000/resume")
    await admin.post("/backends/pool/drain", json={"reason": "all of it"})
    assert await drained(admin) == {"pool@10.0.0.1:8000": "all of it"}


async def test_a_backend_that_is_gone_can_still_be_resumed(admin):
    """Or it would be drained for ever, should it come back."""
    await admin.post("/backends/rack/drain")
    rack = BACKENDS[0]
    BACKENDS.remove(rack)
    try:
        assert (await admin.post("/backends/rack/resume")).status_code == 204
        error(await admin.post("/backends/rack/resume"), 404)
    finally:
        BACKENDS.insert(0, rack)
    assert await drained(admin) == {}


@pytest.mark.parametrize("name", ["nothing", "poo", "rack%0a", "%ff"])
async def test_an_unknown_backend_is_a_404(admin, name):
    for verb in ("drain", "resume"):
        assert error(await admin.post(f"/backends/{name}/{verb}"), 404)["code"] == "not_found"


@pytest.mark.parametrize("reason", ["x" * 513, "a\nb", "\x00", 5, None])
async def test_a_wrong_reason_is_refused(admin, reason):
    assert error(await admin.post("/backends/rack/drain", json={"reason": reason}), 400)["param"] == "reason"


@pytest.mark.parametrize("body", [[], "x", {"why": "x"}])
async def test_a_wrong_body_is_refused(admin, body):
    error(await admin.post("/backends/rack/drain", json=body), 400)
