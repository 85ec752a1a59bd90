import pytest
from rich.console import Console

from gateway.demo import steps
from gateway.demo.board import Board, Step
from gateway.demo.caller import Desk
from gateway.demo.cast import GPUS, HOSTED
from gateway.demo.steps import Scene

from .mill import Fleet, Mill


def scene(broken: str = "") -> Scene:
    fleet = Fleet([*GPUS, HOSTED])
    client = Mill(fleet, broken).client()
    return Scene(client, Desk(client, "admin"), fleet, Board(Console(quiet=True)))


async def found(work, broken: str = "") -> tuple[bool, dict]:
    step = Step("name", "title")
    return await work(scene(broken), step), step.facts


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr(steps, "WARM_UP", 0.05)
    monkeypatch.setattr(steps, "AFTERMATH", 0.1)


async def test_calls_are_served_and_the_ledger_agrees():
    ok, facts = await found(steps.serve)
    assert ok
    assert facts["plain"] + facts["streamed"] == steps.CALLS
    assert facts["tokens_told"] == facts["ledger"] == steps.CALLS * (3 + 24)


@pytest.mark.parametrize("broken", ["charges nothing", "one backend"])
async def test_serving_is_not_ok_when_the_ledger_disagrees_or_one_backend_does_all(broken, monkeypatch):
    monkeypatch.setattr(steps, "SETTLED_WITHIN", 0.1)
    ok, facts = await found(steps.serve, broken)
    assert not ok
    assert facts["plain"] + facts["streamed"] == steps.CALLS


async def test_a_replica_is_killed_and_calls_move():
    ok, facts = await found(steps.failover)
    assert ok
    assert facts["killed"] == GPUS[0].name
    assert facts["moved_elsewhere"] > 0
    assert facts["plain_failed"] == facts["streams_failed"] == 0


async def test_failover_is_not_ok_when_a_call_fails_and_says_how():
    ok, facts = await found(steps.failover, "no failover")
    assert not ok
    assert facts["plain_failed"] + facts["streams_failed"] > 0
    assert facts["problem"] == "502: gone"


async def test_a_quota_refuses_names_its_meter_and_admits_after_the_wait():
    ok, facts = await found(steps.quota)
    assert ok
    assert (facts["admitted"], facts["refused"]) == (3, 2)
    assert (facts["meter"], facts["level"]) == ("requests_per_minute", "key")
    assert facts["after_that_wait"] == 200


@pytest.mark.parametrize("broken", ["never refuses", "meter without a name"])
async def test_a_quota_that_does_not_refuse_by_name_is_not_ok(broken):
    ok, _ = await found(steps.quota, broken)
    assert not ok


async def test_a_caller_leaves_and_what_it_saw_is_charged():
    ok, facts = await found(steps.leave)
    assert ok
    assert facts["charged_tokens"] >= facts["seen_tokens"] == 40


@pytest.mark.parametrize("broken", ["never stops", "charges nothing"])
async def test_leaving_is_not_ok_when_the_backend_goes_on_or_nothing_is_charged(broken, monkeypatch):
    monkeypatch.setattr(steps, "SETTLED_WITHIN", 0.1)
    ok, _ = await found(steps.leave, broken)
    assert not ok
