import sys
from pathlib import Path

from gateway.cli import simulate_told
from gateway.cli.simulate_fleet import Fleet
from policies.simulation.hosted import Endpoint
from policies.terms import RoutingTerms
from tests.gateway.cli.cells import cells
from tests.gateway.cli.simulated import SCENARIO, came_to, ran

FLEET = Fleet("m", SCENARIO.replicas, Endpoint(), "cloud", RoutingTerms(), ("context windows", "weights"))


def test_a_row_has_each_case_and_its_paired_difference(capsys):
    """The base first."""
    simulate_told.answer(
        [ran("as it is", came_to(0.5), came_to(0.5)), ran("+1", came_to(0.6), came_to(0.6))], bought=False
    )
    rows = cells(capsys.readouterr().out)

    assert ["as it is", "+1", "difference"] in rows
    assert ["in time, %", "50.0", "60.0", "+10.0 (+10.0 to +10.0)"] in rows


def test_one_seed_tells_no_interval(capsys):
    """And says so."""
    simulate_told.answer([ran("as it is", came_to(0.5)), ran("+1", came_to(0.6))], bought=False)

    assert "+10.0 (one seed)" in capsys.readouterr().out


def test_a_figure_that_is_nothing_everywhere_is_left_out_but_for_the_measure(capsys):
    """A fleet without a hosted endpoint costs nothing; one where no call is in time says so."""
    simulate_told.answer([ran("as it is", came_to(0.0, money=0))], bought=False)
    told = capsys.readouterr().out

    assert "USD" not in told
    assert "failed" not in told
    assert ["in time, %", "0.0"] in cells(told)


def test_what_is_bought_is_weighed_against_what_it_spares(capsys):
    """In money, where that is clear."""
    base = ran("as it is", came_to(money=3 * 10**9), came_to(money=3 * 10**9 + 10))
    spared = ran("+1", came_to(money=10**9), came_to(money=10**9))
    simulate_told.answer([base, spared], bought=True)
    told = capsys.readouterr().out
    simulate_told.answer([base, base], bought=True)

    assert "It spares 14.40 USD an hour of hosted calls (14.40 to 14.40)" in told
    assert "It spares no money" in capsys.readouterr().out


def test_what_is_asked_is_told_first(capsys):
    """The fleet, the endpoint with its price and limit, the calls."""
    simulate_told.question("file, m", "8xH200", FLEET, ran("a").case, seeds=1, trace=Path("calls.jsonl"))
    first, second = capsys.readouterr().out.splitlines()

    assert first == "file, m: 1 replica of 8xH200, and cloud: 40 calls a minute, USD 1.5 / 7.5 per million tokens"
    assert second.startswith("calls.jsonl: 2.00 calls/s, 100 % of what your own replicas could do; 1,500 calls, 1 seed")


def test_what_was_assumed_and_left_out_is_told(capsys):
    """Whatever the file says and nobody simulates."""
    simulate_told.assumptions("8xH200", FLEET)
    told = capsys.readouterr().out

    assert "cloud is taken to begin after 0.9 s" in told
    assert told.endswith("Not simulated: context windows; weights.\n")


def test_the_bar_moves_only_where_somebody_looks(capsys, monkeypatch):
    """A log would be full of it."""
    with simulate_told.progress(2) as told:
        told(2.0)
    assert capsys.readouterr().err == ""

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with simulate_told.progress(2) as told:
        told(1.0)
    assert "simulating" in capsys.readouterr().err
