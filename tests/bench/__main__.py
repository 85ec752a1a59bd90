"""`python -m tests.bench`: Sluiceway beside the field's proxies, on this machine, now.

One core for whatever is measured, another for the upstream, the store and the callers; rounds are interleaved
(A B C A B C ...). Linux only, since it pins processes to cores. Peers are found on PATH; see CONTRIBUTING.md.
"""

import contextlib
import gc
import os
import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import uvloop
from rich.console import Console

from tests.bench import report
from tests.bench.scenarios import SCENARIOS, Bench, set_answer
from tests.bench.sites import PEERS, REST, sites
from tests.parts.ports import free_port

NAMES = [scenario.name for scenario in SCENARIOS]
OURS = "sluiceway"
SITES = [*PEERS, OURS, f"{OURS}-untraced"]


@contextlib.contextmanager
def upstream():
    """Run the bench's upstream; yield its URL."""
    port = free_port()
    child = subprocess.Popen([sys.executable, "-m", "tests.bench.upstream", str(port)])
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        child.kill()
        child.wait()


@contextlib.asynccontextmanager
async def started(wanted, url, folder, console):
    """Start the wanted sites one after another; yield those that came up."""
    up = []
    try:
        for site in sites(wanted, url, folder, console.print):
            console.print(f"starting {site.name} ...", end=" ")
            up.append(site)
            await site.start(folder)
            console.print(f"{site.started:.2f} s")
        yield up
    finally:
        for site in up:
            site.stop()


async def run(scenarios, wanted, out, console, *, rounds, seconds):
    """Measure every scenario over every site; return (results, sites)."""
    results = {}
    with tempfile.TemporaryDirectory() as folder, upstream() as url:
        async with started(wanted, url, Path(folder), console) as up:
            bench = Bench(url, seconds)
            for scenario in scenarios:
                await set_answer(url, scenario.events, scenario.rate)
                wide = [site for site in up if site.name not in scenario.slow and scenario.only in {"", site.name}]
                results[scenario] = {site.name: [] for site in wide}
                for number in range(rounds):
                    for site in wide:
                        console.print(f"{scenario.name} round {number + 1}/{rounds}: {site.name}", end="    \r")
                        gc.collect()
                        results[scenario][site.name].append(await scenario.measure(bench, site))
                if scenario.name == "plain" and OURS in results[scenario]:
                    bench.our_rate = report.median(results[scenario][OURS], "per_second")
                console.print(report.scenario_table(scenario, results[scenario]))
            report.write(results, up, machine(), out)
            report.show({}, up, console)
    return results


def machine():
    """Say what this was measured on."""
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    return {"cpu": model.partition(": ")[2], "cores": os.cpu_count(), "python": platform.python_version()}


@click.command()
@click.option("--scenario", "chosen", multiple=True, type=click.Choice(NAMES), help="Only these (default: all).")
@click.option("--site", "wanted", multiple=True, type=click.Choice(SITES), help="Only these beside `direct`.")
@click.option("--rounds", default=7, show_default=True)
@click.option("--seconds", default=2.0, show_default=True, help="Of one round.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("build/bench"), show_default=True)
def main(chosen, wanted, rounds, seconds, out):
    """Measure Sluiceway beside the field's proxies."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.sched_setaffinity(0, {REST})
    scenarios = [scenario for scenario in SCENARIOS if not chosen or scenario.name in chosen]
    names = wanted or SITES
    console = Console()
    uvloop.run(run(scenarios, names, out, console, rounds=rounds, seconds=seconds))
    console.print(f"written: {out / 'bench.json'}, {out / 'bench.png'}")


if __name__ == "__main__":
    gc.set_threshold(100_000, 50, 100)
    main()
