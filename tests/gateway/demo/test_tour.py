import httpx
import msgspec
import pytest
from rich.console import Console

from gateway.demo import steps
from gateway.demo.board import Board
from gateway.demo.caller import TourBroken
from gateway.demo.cast import GPUS, HOSTED
from gateway.demo.tour import Tour

from .mill import Fleet, Mill


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr(steps, "WARM_UP", 0.05)
    monkeypatch.setattr(steps, "AFTERMATH", 0.1)


async def toured(broken: str = "") -> tuple[Tour, Board]:
    fleet = Fleet([*GPUS, HOSTED])
    return Tour(Mill(fleet, broken).client(), "admin", fleet), Board(Console(quiet=True))


async def test_the_report_tells_everything_that_was_found():
    tour, board = await toured()
    report = await tour.run(board, 1.23456)
    told = msgspec.json.decode(msgspec.json.encode(report))
    assert told["ok"]
    assert told["first_200_seconds"] == 1.235
    assert told["calls_served"] == sum(told["attempts"].values()) > told["streams_served"] > 0
    assert told["attempts"]["2"] > 0
    assert told["killed_pid"] == 4242
    assert (told["refusing_meter"], told["refusing_level"]) == ("requests_per_minute", "key")
    assert told["charged_tokens_after_leaving"] >= told["seen_tokens_when_leaving"] > 0
    assert [step["name"] for step in told["steps"]] == ["serve", "failover", "quota", "leave"]


async def test_a_step_that_breaks_has_failed_and_the_others_still_run():
    tour, board = await toured("administration")
    report = await tour.run(board, 1.0)
    assert not report.ok
    assert [step.ok for step in report.steps] == [False] * 4
    assert "answered 500" in report.steps[0].facts["problem"]


async def test_the_first_call_gives_the_key_that_it_was_made_with():
    tour, _ = await toured()
    assert (await tour.first_call()).key == "you"


async def test_a_first_call_that_is_not_served_breaks_the_tour():
    client = httpx.AsyncClient(
        transport=httpx.MockTransport(
            lambda request: (
                httpx.Response(201, json={"id": "a", "key": "k"})
                if request.url.path.endswith("keys")
                else httpx.Response(503, json={"error": {"message": "no deployment"}})
            )
        ),
        base_url="http://gateway",
    )
    with pytest.raises(TourBroken, match="503: no deployment"):
        await Tour(client, "admin", Fleet([])).first_call()
