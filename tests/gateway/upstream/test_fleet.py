import asyncio

import pytest
import structlog
from msgspec.structs import replace

from gateway import clock
from gateway.config.settings import Backend
from gateway.places import _has_room
from gateway.upstream.attempt import Attempt
from gateway.upstream.fleet import Fleet, Home, Live
from policies.affinity import BLOCK, Beginning
from policies.dialects import DIALECTS
from policies.failures import Failure, FailureKind
from policies.live import Elsewhere, Ticket
from policies.probing import Load
from tests.parts.scripted import Bytes, Status, Until
from tests.policies.builders import candidate, deployment, model


def live():
    return Live("gpu-a/m", DIALECTS["vllm"])


def test_the_first_failure_of_a_kind_is_told_with_its_reason_and_its_call():
    """And then once a minute: an operator wants the reason, not the flood."""
    one = live()
    with structlog.testing.capture_logs() as told:
        for moment, kind in ((0.0, "connect"), (1.0, "connect"), (2.0, "reset"), (61.0, "connect")):
            failure = Failure(FailureKind(kind), "certificate verify failed")
            one.failed(failure, "chat", moment, probe=False, request_id=f"req_{moment:g}")

    entries = [entry for entry in told if entry["event"] == "an attempt failed"]
    assert [(entry["kind"], entry["request_id"]) for entry in entries] == [
        ("connect", "req_0"),
        ("reset", "req_2"),
        ("connect", "req_61"),
    ]
    assert entries[0]["detail"] == "certificate verify failed"


async def test_word_that_a_backend_is_back_ends_its_absence_and_no_limit():
    """A proxy's `retry-after: 3600` during a restart of minutes would else hold for the hour."""
    fleet = Fleet()
    home = fleet.add(Backend("gpu-a", "vllm", "http://127.0.0.1:1/v1"))
    one = fleet.live(deployment())
    one.failed(Failure(FailureKind.UNAVAILABLE, "x", 503, 3600.0), "chat", 0.0, probe=False)
    one.failed(Failure(FailureKind.RATE_LIMITED, "x", 429, 20.0), "chat", 0.0, probe=False)
    assert one.snapshot(deployment(), 0.0).frozen_for == 3600.0
    fleet.back(home, 0.0)

    assert one.snapshot(deployment(), 0.0).frozen_for == 20.0
    await fleet.close()


@pytest.mark.parametrize(("status", "words"), [(401, "refused by the upstream"), (410, "gone for good")])
def test_an_operators_fault_is_told_once_a_minute_and_not_by_every_call(status, words):
    """Where it is the only deployment, every call meets it."""
    one, kind = live(), FailureKind.CREDENTIALS if status == 401 else FailureKind.MODEL_GONE
    with structlog.testing.capture_logs() as told:
        for moment in range(61):
            one.failed(Failure(kind, "x", status), "chat", float(moment), probe=False)

    errors = [entry["event"] for entry in told if entry["log_level"] == "error"]
    assert len(errors) == 2
    assert words in errors[0]


async def test_a_backend_that_comes_back_has_an_empty_cache():
    """It was restarted, for all that anybody knows."""
    fleet, begins = Fleet(), Beginning((1, 2), 2 * BLOCK)
    home = fleet.add(Backend("gpu-a", "vllm", "http://127.0.0.1:9/v1"))
    one = fleet.live(deployment("gpu-a"))
    one.prefilled.note(begins, 0.0)

    fleet.back(home, 1.0)

    assert one.snapshot(deployment(), 1.0, begins).cached == 0.0
    await fleet.close()


async def test_a_backend_is_added_once_and_its_state_is_kept():
    """A rescan must not forget what was learned."""
    fleet = Fleet()
    home = fleet.add(Backend("gpu-a", "vllm", "http://127.0.0.1:1/v1"))

    assert fleet.add(Backend("gpu-a", "vllm", "http://127.0.0.1:1/v1")) is home
    assert fleet.live(deployment()) is fleet.live(deployment())
    assert [s.deployment for s in fleet.snapshots(model(deployment()), 0.0)] == [deployment()]
    await fleet.close()


async def test_an_upstream_gets_its_own_credential_and_what_its_dialect_sends():
    """Identity coding, so that usage can be read."""
    home = Home(Backend("hosted", "nvidia", "https://x/v1", "nvapi-1"))

    assert (b"authorization", b"Bearer nvapi-1") in home.headers
    assert (b"accept-encoding", b"identity") in home.headers
    await home.transport.aclose()


@pytest.mark.parametrize(
    ("kind", "header"), [("vllm", (b"authorization", b"Bearer s3")), ("anthropic", (b"x-api-key", b"s3"))]
)
async def test_a_credential_goes_where_its_kind_looks_for_it(kind, header):
    """Once, and nowhere else."""
    home = Home(Backend("a", kind, "http://127.0.0.1:1/v1", api_key="s3"))

    assert [pair for pair in home.headers if b"s3" in pair[1]] == [header]
    await home.transport.aclose()


async def test_what_a_probe_found_is_in_the_snapshots_of_every_model_there():
    """With the reason, and gone with it."""
    fleet = Fleet()
    home = fleet.add(Backend("gpu-a", "vllm", "http://127.0.0.1:1/v1"))
    home.condition.down = "refused"
    (seen,) = fleet.snapshots(model(deployment()), 0.0)
    home.condition.down = None
    (after,) = fleet.snapshots(model(deployment()), 0.0)

    assert (seen.down, after.down, after.absent) == ("refused", None, None)
    await fleet.close()


async def test_a_connection_that_cannot_be_made_is_passed_on():
    """Whoever found the address looks whether it still is one."""
    told = []
    one = live()
    one.condition.unreached = lambda: told.append(1)
    for kind in (FailureKind.CONNECT, FailureKind.RESET, FailureKind.SILENCE):
        one.failed(Failure(kind, "x"), "chat", 0.0, probe=False)

    assert told == [1]


async def test_a_backend_that_leaves_and_returns_is_as_it_was():
    """A replica that restarts at its old address."""
    fleet = Fleet()
    backend = Backend("gpu-a", "vllm", "http://127.0.0.1:1/v1")
    home = fleet.add(backend)
    known = fleet.live(deployment())
    fleet.leave("gpu-a", until=10.0)
    assert fleet.present == []
    assert fleet.add(backend) is home
    assert await fleet.sweep(20.0) == []
    assert (fleet.present, fleet.live(deployment())) == ([home], known)
    await fleet.close()


async def test_a_drained_backend_takes_its_replicas_along():
    """Also those that are found later; and all come back together."""
    fleet, now = Fleet(), clock.monotonic()
    names = ["gpu", "gpu@10.0.0.1:8000", "cpu"]

    def drained():
        of = model(*(deployment(name) for name in fleet.homes))
        return [one.deployment.backend for one in fleet.snapshots(of, now) if one.drained]

    for name in names[:1] + names[2:]:
        fleet.add(Backend(name, "vllm", "http://127.0.0.1:9/v1"))
    fleet.drain(frozenset({"gpu"}))
    fleet.add(Backend(names[1], "vllm", "http://127.0.0.1:9/v1"))

    assert drained() == names[:2]
    fleet.drain(frozenset({names[1]}))
    assert drained() == names[1:2]
    fleet.drain(frozenset())
    assert drained() == []
    await fleet.close()


async def test_what_the_others_tell_of_again_is_not_counted_twice():
    """The store was away: their calls were foreign, by the engine's own figures, until it was back."""
    fleet = Fleet()
    home, one = fleet.add(Backend("gpu-a", "vllm", "http://127.0.0.1:9/v1")), fleet.live(deployment())
    there = {one.name: Elsewhere(20, 0), "gpu-a/another": Elsewhere(2, 0, more=3)}

    def seen():
        for _ in range(2):
            fleet.measured(home, Load(25.0, 0.0), fleet.calls(home))
        return one.calls

    fleet.others(there)
    assert seen() == 20
    fleet.others({})
    assert seen() == 25
    fleet.others(there)
    assert one.calls == 20
    fleet.others({"gpu-b/m": Elsewhere(9, 0)})
    assert seen() == 25
    await fleet.close()


@pytest.mark.parametrize("name", ["gpu-a", "gpu-a@127.0.0.1:9/behind/a/path"])
async def test_what_others_have_at_a_backend_is_known_before_it_is(name):
    """A replica that is found later than by them, at whatever address; nothing of it is foreign."""
    fleet = Fleet()
    fleet.others({f"{name}/org/m": Elsewhere(4, 0)})
    home = fleet.add(Backend(name, "vllm", "http://127.0.0.1:9/v1"))
    for _ in range(2):
        fleet.measured(home, Load(4.0, 0.0), fleet.calls(home))

    assert home.condition.foreign == 0
    await fleet.close()


RACK = Backend("gpu-a", "vllm", "http://127.0.0.1:1/v1", "key-number-one-000")


@pytest.mark.parametrize("change", [{"max_in_flight": 3}, {"probe_every": 9.0}, {"told_hosted": True}])
async def test_what_says_nothing_of_how_a_backend_is_reached_leaves_it_as_it_was(change):
    """Its connections, and what was learned there; what is new of it holds."""
    fleet = Fleet()
    home, known = fleet.add(RACK), fleet.live(deployment())
    fleet.add(replace(RACK, **change))

    assert (fleet.homes["gpu-a"], fleet.live(deployment())) == (home, known)
    assert home.backend == replace(RACK, **change)
    await fleet.close()


@pytest.mark.parametrize(
    "change",
    [{"base_url": "http://127.0.0.1:2/v1"}, {"address": "127.0.0.2"}, {"kind": "sglang"}],
)
async def test_a_backend_at_another_place_is_another_one(change):
    """Calls that are under way at the old one end there; then it is closed."""
    fleet = Fleet()
    old, known = fleet.add(RACK), fleet.live(deployment())
    ticket = Ticket(known, 10, 0.0)
    new = fleet.add(replace(RACK, **change))

    assert new is fleet.homes["gpu-a"] is not old
    assert fleet.live(deployment()) is not known
    assert (fleet.reached[known.condition], fleet.reached[new.condition]) == (old, new)
    assert fleet.present == [new]
    await fleet.sweep(1e9)
    assert fleet.reached[known.condition] is old
    ticket.close()
    await fleet.sweep(1e9)
    assert known.condition not in fleet.reached
    await fleet.close()


async def test_a_backend_that_leaves_says_so_until_it_is_gone():
    """An operator who has taken it out of the file sees why it is there still."""
    fleet = Fleet()
    home = fleet.add(RACK)
    ticket = Ticket(fleet.live(deployment()), 10, 0.0)
    fleet.leave("gpu-a", until=10.0)
    assert (fleet.leaves("gpu-a"), fleet.under_way(home)) == (True, 1)
    ticket.close()

    assert fleet.under_way(home) == 0
    assert await fleet.sweep(10.0) == ["gpu-a"]
    assert (fleet.leaves("gpu-a"), fleet.reached) == (False, {})
    await fleet.close()


OTHERWISE = [
    {"api_key": "key-number-two-000"},
    {"ca_digest": "other authorities"},
    {"max_connections": 5},
    {"transport": "httpx"},
    {"requests_per_minute": 7},
]


@pytest.mark.parametrize("change", OTHERWISE)
async def test_calls_that_are_open_count_on_where_only_the_way_to_call_has_changed(change):
    """The engine still works on them: else a rotated key would have it take twice what it may."""
    fleet, bounded = Fleet(), replace(deployment(), max_in_flight=2)
    home = fleet.add(RACK)
    tickets = [Ticket(fleet.live(bounded), 10, 0.0) for _ in range(2)]
    fleet.add(replace(RACK, **change))

    assert not _has_room(fleet.live(bounded), bounded, 0.0)
    assert (fleet.loads(), fleet.under_way(fleet.homes["gpu-a"])) == ({"gpu-a/m": (2, 20)}, 2)
    assert fleet.homes["gpu-a"] is home
    for ticket in tickets:
        ticket.close()
    assert _has_room(fleet.live(bounded), bounded, 0.0)
    assert fleet.loads() == {}
    await fleet.close()


@pytest.mark.parametrize("change", OTHERWISE)
async def test_what_was_learned_of_an_engine_outlives_the_way_to_call_it(change):
    """It computes no slower for a new key, and its cache is as full."""
    fleet, begins = Fleet(), Beginning((1, 2), 2 * BLOCK)
    fleet.add(RACK)
    known = fleet.live(deployment())
    known.prefilled.note(begins, 0.0)
    for _ in range(20):
        known.latency.observe_first(0.0, 7.0, 10)
    pace = known.latency.pace(0.0)
    fleet.add(replace(RACK, **change))
    after = fleet.live(deployment())

    assert after is known
    assert (after.latency.pace(0.0), after.snapshot(deployment(), 0.0, begins).cached > 0.0) == (pace, True)
    await fleet.close()


async def test_a_new_key_is_sent_at_once_over_the_connections_that_there_are():
    """A key belongs to a request."""
    fleet = Fleet()
    home = fleet.add(RACK)
    transport = home.transport
    fleet.add(replace(RACK, api_key="key-number-two-000"))

    assert [value for name, value in home.headers if name == b"authorization"] == [b"Bearer key-number-two-000"]
    assert home.transport is transport
    fleet.add(replace(RACK, api_key=None))
    assert b"authorization" not in dict(home.headers)
    await fleet.close()


async def test_a_replaced_key_stays_hidden_until_the_next_one_is_replaced():
    """Calls that were made with it may be told it still; the longer goes first, where one holds the other."""
    fleet = Fleet()
    home = fleet.add(RACK)
    fleet.add(replace(RACK, api_key="key-number-one-000-b"))
    said = b"key-number-one-000-b, key-number-one-000, key-number-three-0"
    assert home.discreet(said) == b"*" * 20 + b", " + b"*" * 18 + b", key-number-three-0"
    fleet.add(replace(RACK, api_key="key-number-one-000-b", max_connections=3))
    assert b"key-number-one" not in home.discreet(said)
    fleet.add(replace(RACK, api_key="key-number-three-0"))

    assert home.discreet(said) == b"*" * 20 + b", key-number-one-000, " + b"*" * 18
    await fleet.close()


@pytest.mark.parametrize("change", OTHERWISE[:2])
async def test_whoever_was_refused_is_asked_again_at_once_when_the_way_to_call_has_changed(monkeypatch, change):
    """An operator who mends a credential or authorities waits for no pause that the old ones had earned."""
    fleet, now = Fleet(), 0.0
    fleet.add(RACK)
    one = fleet.live(deployment())
    one.failed(Failure(FailureKind.CREDENTIALS, "wrong key", 401), "chat", now, probe=False)
    one.failed(Failure(FailureKind.RATE_LIMITED, "x", 429, 10_800.0), "chat", now, probe=False)
    for _ in range(3):
        one.failed(Failure(FailureKind.CONNECT, "certificate verify failed"), "chat", now, probe=False)
    before = one.snapshot(deployment(), now)
    assert (before.off, before.ejected, before.frozen_for) == ("wrong key", True, 10_800.0)
    monkeypatch.setattr(clock, "monotonic", lambda: now)
    fleet.add(replace(RACK, **change))
    after = one.snapshot(deployment(), now)

    assert (after.off, after.ejected, after.frozen_for) == (None, False, 0.0)
    await fleet.close()


async def test_what_an_engine_takes_a_minute_holds_as_it_is_told_now():
    """Where it is told no more, what is believed stays until the store tells."""
    fleet = Fleet()
    fleet.add(RACK)
    allowance = fleet.live(deployment()).allowance
    seen = []
    for told in (40, 100, None):
        fleet.add(replace(RACK, requests_per_minute=told))
        seen.append((allowance.per_minute, allowance.limit))

    assert seen == [(40, 40), (100, 100), (0, 100)]
    await fleet.close()


@pytest.mark.parametrize("transport", ["pooled", "httpx"])
async def test_new_authorities_hold_for_new_connections_and_cut_nobody_off(first, transport):
    """No call goes over a connection that the old ones had vouched for; one that is under way ends there."""
    fleet, go_on = Fleet(), asyncio.Event()
    first.enqueue([Status(200), Bytes(b"one"), Until(go_on), Bytes(b"two")])
    backend = replace(RACK, base_url=f"{first.url}/v1", transport=transport)
    home = fleet.add(backend)
    old, chosen = home.transport, candidate(deployment())
    attempt = Attempt(home, Ticket(fleet.live(chosen.deployment), 10, 0.0), chosen)
    await attempt.open("chat", b"{}", [], 60.0)
    assert await attempt.read() == b"one"
    fleet.add(replace(backend, ca_digest="other authorities"))
    assert home.transport is not old
    await fleet.sweep(0.0)
    go_on.set()
    assert (await attempt.read(), await attempt.read()) == (b"two", None)
    assert fleet._outgrown == [old]
    attempt.close()
    await fleet.sweep(0.0)

    assert fleet._outgrown == []
    await fleet.close()
