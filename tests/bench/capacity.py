"""`python -m tests.bench.capacity`: measure what a fleet's capacity is reckoned with, and reckon.

Prints every coefficient, and README's section made of them. With `--keep` both are written where they belong, for which
the machine should be quiet. The test beside it measures again, and holds the page to what it finds.
"""

import gc
import json
import tempfile
from dataclasses import astuple, replace
from pathlib import Path

import click
import uvloop

from tests.bench import capacity_model, capacity_page
from tests.bench.__main__ import machine, upstream
from tests.bench.capacity_gateway import of_gateway, of_keys
from tests.bench.capacity_identity import of_identity, of_peers, of_upkeep, sizes
from tests.bench.capacity_model import FILE, Figures, Fleet
from tests.bench.capacity_store import of_ledger, server, yard
from tests.bench.streams import afford


async def measure(folder, *, times, count, streams, seconds):
    """Return `Figures`. `times`: operations of a kind; `count`: things in the store; `streams`, `seconds`: of a run."""
    yards = []
    async with server(folder) as here:
        yards.append(await yard(here))
        costs, slopes = await of_ledger(here, folder, times)
        costs |= await of_upkeep(here, times)
        yards.append(await yard(here))
        costs |= await of_identity(here, times)
        beats = await of_peers(here, times)
        yards.append(await yard(here))
        held = await sizes(here, folder, count)
        await here.ask("FLUSHALL")
        with upstream() as url:
            gateway = await of_gateway(here, url, folder, streams=streams, seconds=seconds)
        yards.append(await yard(here))
        gateway["key"] = await of_keys(here, count)
    least = {"store": min(one.us for one in yards), "ours": min(one.ours for one in yards)}
    return Figures(costs | beats[0], slopes | beats[1], held, gateway, least)


def written(figures, held=None):
    """Return the coefficients as their file has them, with the machine they were measured on; `held` stays as it is."""
    costs, slopes = (
        {name: [_rounded(one) for one in astuple(cost)] for name, cost in part.items()}
        for part in (figures.costs, figures.slopes)
    )
    sizes, gateway, yards = (
        {name: _rounded(one) for name, one in part.items()} for part in (figures.sizes, figures.gateway, figures.yards)
    )
    parts = {"costs": costs, "slopes": slopes, "sizes": sizes, "gateway": gateway, "yards": yards, "held": held or {}}
    return json.dumps({"machine": machine(), **parts}, indent=1) + "\n"


def _rounded(value):
    return float(f"{value:.4g}")


@click.command()
@click.option("--times", default=800, show_default=True, help="Operations of each kind.")
@click.option("--streams", default=400, show_default=True, help="Open streams.")
@click.option("--seconds", default=8.0, show_default=True, help="Of a stream.")
@click.option("--keep", is_flag=True, help="Write tests/bench/capacity.json, and README's section.")
@click.option("--page", is_flag=True, help="Measure nothing; write README's section of what was kept.")
def main(*, times, streams, seconds, keep, page):
    """Measure, and work the numbers."""
    if page:
        capacity_page.write(capacity_model.load(), Fleet())
        return
    afford(20_000)
    with tempfile.TemporaryDirectory() as folder:
        figures = uvloop.run(measure(Path(folder), times=times, count=1000, streams=streams, seconds=seconds))
    known = capacity_model.load().held if FILE.exists() else {}
    print(written(figures, known))
    if keep:
        FILE.write_text(written(figures, known))
        capacity_page.write(capacity_model.load(), Fleet())
    print(capacity_page.section(replace(figures, held=known, machine=machine()), Fleet()))


if __name__ == "__main__":
    gc.set_threshold(100_000, 50, 100)
    main()
