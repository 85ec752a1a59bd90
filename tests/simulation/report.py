"""`python -m tests.simulation.report --out FOLDER`: our routing beside the field's, simulated (soak).

Every workload, load, policy and seed, the cost curve, failures and terms; each run is a line of `runs.jsonl`, and what
is there is not run again. Writes `REPORT.md`, `goodput.svg` and `curve.svg`; exit code 1 where a goal does not hold.
"""

import os
import sys
from pathlib import Path

import click
from rich.console import Console

from tests.simulation.pages import page
from tests.simulation.plots import draw
from tests.simulation.points import Plan
from tests.simulation.runs import digest, outcomes
from tests.simulation.verdicts import Results, goals


@click.command()
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder of runs, page and pictures.")
@click.option("--seeds", default=10, show_default=True, type=click.IntRange(2), help="Runs of each point.")
@click.option("--calls", default=3000, show_default=True, type=click.IntRange(100), help="Of each run.")
@click.option("--processes", default=os.cpu_count(), show_default=True, type=click.IntRange(1), help="At once.")
def main(out, seeds, calls, processes):
    """Simulate our routing beside the field's and write the report."""
    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    plan, code = Plan(seeds, calls), digest()
    results = Results(plan, outcomes(plan.all(), out / "runs.jsonl", code, processes, console))
    (out / "REPORT.md").write_text(page(results, code))
    draw(results, out)
    told = goals(results)
    for goal in told:
        console.print("[green]holds[/]" if goal.met else "[red]does not hold[/]", goal.name)
        for line in goal.told[:8]:
            console.print(f"  {line}", markup=False, highlight=False)
    console.print(f"written: {out / 'REPORT.md'}")
    sys.exit(0 if all(goal.met for goal in told) else 1)


if __name__ == "__main__":
    main()
