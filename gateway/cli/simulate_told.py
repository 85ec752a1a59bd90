"""What `sluiceway simulate` tells: what is asked, how far it is, the answer, and what was assumed.

Law: a difference is never told without its interval, and no figure without the words that say how far to trust it. The
progress bar is for people who look: elsewhere nothing moves.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from gateway.cli import tables
from gateway.cli.simulate_fleet import Fleet
from gateway.cli.simulate_runs import FIGURES, Case, Figure, Ran, apart, dollars_an_hour, is_clear
from policies.simulation.comparing import Difference
from policies.simulation.outcome import LEAST_TARGET, PACE_TARGET, TOKEN_TARGET, WARM_UP

PICO_PER_DOLLAR_A_MILLION = 1e6

_OVER_SEEDS = "difference: from the same calls, and between what it lies with 95 % confidence over seeds."
_DICE_ALONE = (
    "difference: from the same calls, and between what it lies with 95 % confidence over seeds. Every seed has the\n"
    "trace's calls: only the dice of routing and of the hosted endpoint differ, so this says nothing of other calls."
)


def question(whose: str, hardware: str, fleet: Fleet, case: Case, *, seeds: int, trace: Path | None) -> None:
    """Say what is simulated: whose fleet, and which calls."""
    places = f"{tables.count(len(fleet.machines), 'replica')} of {hardware}"
    if fleet.hosted is not None:
        price, limit = fleet.hosted.price, fleet.hosted.per_minute
        places += (
            f", and {fleet.backend}: {limit} calls a minute, "
            f"USD {price.input / PICO_PER_DOLLAR_A_MILLION:g} / {price.output / PICO_PER_DOLLAR_A_MILLION:g} "
            "per million tokens"
        )
    scenario = case.scenario
    what = str(trace) if trace else f"workload {scenario.workload}"
    calls = len(scenario.given) or scenario.calls
    gateways = "" if scenario.gateways == 1 else f", {scenario.gateways} gateways"
    click.echo(f"{whose}: {places}{gateways}")
    click.echo(
        f"{what}: {case.rate:.2f} calls/s, {100 * scenario.load:.0f} % of what your own replicas could do; "
        f"{calls:,} calls, {tables.count(seeds, 'seed')}"
    )


@contextmanager
def progress(runs: int) -> Iterator[Callable[[float], None]]:
    """Show how many of so many runs are done and how long it will take; yield what is to hear of shares of a run."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("simulating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(file=sys.stderr)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=runs)
        yield lambda share: bar.advance(task, share)


def answer(found: Sequence[Ran], *, bought: bool) -> None:
    """Show every case beside the first; `bought`: the second has more machines than the first."""
    base, *others = found
    columns: list[str | tables.Column] = [tables.Column("", whole=True)]
    columns.append(tables.Column(base.case.label, right=True, whole=True))
    for one in others:
        columns += [
            tables.Column(one.case.label, right=True, whole=True),
            tables.Column("difference", right=True, whole=True),
        ]
    click.echo()
    tables.table(columns, [_row(figure, base, others) for figure in _told(found)])
    click.echo()
    if others:
        click.echo(_DICE_ALONE if base.case.scenario.given else _OVER_SEEDS)
    if bought:
        click.echo(_worth(others[0], base))


def assumptions(hardware: str, fleet: Fleet) -> None:
    """Say what the answer rests on."""
    machine = fleet.machines[0].hardware
    click.echo(
        f"in time: first token within max({LEAST_TARGET:g} s, prompt tokens / {PACE_TARGET:,.0f}) and "
        f"{1000 * TOKEN_TARGET:.0f} ms an output token; the first {WARM_UP:.0%} of calls only warm up."
    )
    click.echo(
        "Nobody measured these machines: believe which is better and roughly by how much, not the seconds. "
        f"{hardware} is taken to prefill {machine.prefill_rate:,.0f} tokens/s, to take {1000 * machine.step:g} ms a "
        f"decode step, and to hold {machine.room:,} tokens of KV (a dense model of 128B in FP8)."
    )
    if fleet.hosted is not None:
        end = fleet.hosted
        click.echo(
            f"{fleet.backend} is taken to begin after {end.delay[0]:g} s (half of the calls), to prefill "
            f"{end.prefill_rate:,.0f} tokens/s, to take {1000 * end.token_time[0]:g} ms an output token, and to fail "
            f"{100 * end.errors:g} % of calls."
        )
    if fleet.left_out:
        click.echo(f"Not simulated: {'; '.join(fleet.left_out)}.")


def _told(found: Sequence[Ran]) -> list[Figure]:
    """Return the measure, and the figures that say something: one that is nothing everywhere is left out."""
    return [FIGURES[0], *(figure for figure in FIGURES[1:] if any(figure.mean(ran) for ran in found))]


def _row(figure: Figure, base: Ran, others: Sequence[Ran]) -> list[str]:
    cells = [f"{figure.name}, {figure.unit}", _number(figure.mean(base), figure)]
    for one in others:
        cells += [_number(figure.mean(one), figure), _difference(apart(figure, one, base), figure)]
    return cells


def _difference(found: Difference, figure: Figure) -> str:
    mean, low, high = (f"{value:+,.{figure.digits}f}" for value in (found.mean, found.low, found.high))
    return f"{mean} ({low} to {high})" if found.pairs > 1 else f"{mean} (one seed)"


def _number(value: float, figure: Figure) -> str:
    return f"{value:,.{figure.digits}f}"


def _worth(bought: Ran, base: Ran) -> str:
    """Return what the machines that are more spare of what is paid elsewhere."""
    found = apart(Figure("", "", lambda outcome, case: -dollars_an_hour(outcome, case), 2), bought, base)
    if not is_clear(found) or found.mean < 0.0:
        return "It spares no money that is paid elsewhere: what it brings is calls in time."
    return (
        f"It spares {found.mean:,.2f} USD an hour of hosted calls ({found.low:,.2f} to {found.high:,.2f}): "
        "if it costs less, it pays for itself at this load."
    )
