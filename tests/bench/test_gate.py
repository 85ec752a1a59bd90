"""The bench's gate: ratios within one run, wide enough that only a real loss trips it."""

import asyncio
import os
import re
import statistics
from pathlib import Path

import pytest
import uvloop
from rich.console import Console

from tests.bench import report
from tests.bench.__main__ import started, upstream
from tests.bench.scenarios import SCENARIOS, Bench, set_answer
from tests.bench.sites import REST
from tests.bench.yardstick import microseconds, yardstick

ROUNDS = 3
MOST = {"plain": 16.0, "burst": 24.0}
"""Yardsticks of the core's time that one call may take; measured: 9 to 10, and 13 to 15."""


@pytest.mark.ci
@pytest.mark.timeout(300)
def test_a_call_takes_no_more_of_its_core_than_its_bar(tmp_path):
    """Interleaved rounds on one core each."""

    async def run(url):
        results = {}
        async with started(["sluiceway"], url, tmp_path, Console(quiet=True)) as up:
            for scenario in (one for one in SCENARIOS if one.name in MOST):
                await set_answer(url, scenario.events, scenario.rate)
                results[scenario] = {site.name: [] for site in up}
                for _ in range(ROUNDS):
                    yards.append(microseconds(yardstick, 200))
                    for site in up:
                        results[scenario][site.name].append(await scenario.measure(Bench(url, 0.7), site))
        return results

    yards = []
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {REST})
    try:
        with upstream() as url, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            told = report.summary(runner.run(run(url)))
    finally:
        os.sched_setaffinity(0, cores)

    yard = statistics.median(yards)
    took = {name: told[name]["sluiceway"]["cpu_us"] / yard for name in MOST}
    print(f"\na yardstick takes {yard:.1f} us; yardsticks a call: {took}")
    assert {name: times for name, times in took.items() if times > MOST[name]} == {}
    assert told["plain"]["sluiceway"]["round_trips"] < 0.3


def test_every_step_has_its_part_of_the_budget():
    """And the parts sum to the whole."""
    here = Path(__file__).parent
    steps = set(re.findall(r"^def test_(\w+)\(", (here / "steps.py").read_text(), re.MULTILINE))
    page = (here / "BUDGET.md").read_text()
    call, whole = re.match(r"(.*)\n\| \*\*a plain call\*\* \| \*\*(\d+)\*\*", page, re.DOTALL).groups()

    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == steps
    assert sum(map(int, re.findall(r"^\| [^|]+ \| (\d+) \|", call, re.MULTILINE))) == int(whole)
