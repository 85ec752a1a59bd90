"""`sluiceway simulate`: what would become of calls with one replica more, another value of time, without a backend.

Law: what is asked is answered by running the very code of `policies/` over a simulated fleet, as it is and as it would
be, with the same calls; what was assumed for that is told beside the answer, every time. No secret is read: a file can
be asked about where nobody has its credentials. Exit 0: it was simulated; 1: the file or the trace has mistakes; 2:
there is nothing to read, or it cannot be simulated.
"""

import os
import re
import sys
from pathlib import Path
from typing import get_args

import click
from msgspec import Struct

from gateway.cli import simulate_told
from gateway.cli.simulate_fleet import Fleet, FleetError, fleet_of, grown, hurried
from gateway.cli.simulate_plot import PlotError, check_plot, plot
from gateway.cli.simulate_runs import Case, Ran, simulate
from gateway.cli.simulate_trace import UnreadableError, read_trace
from gateway.config import ConfigError, Settings, amounts, load
from policies.simulation.calls import Call
from policies.simulation.hardware import MACHINES, Hardware
from policies.simulation.scenario import Scenario, capacity
from policies.simulation.workloads import Name
from policies.simulation.world import POLICIES

AS_IT_IS = "as it is"

_DEFAULT_HARDWARE = next(iter(MACHINES))


class Question(Struct, frozen=True, kw_only=True):
    """What is asked: the calls, the fleet that there is, and what about it would be otherwise."""

    workload: Name
    load: float
    calls: int
    seeds: int
    gateways: int
    given: tuple[Call, ...]
    model: str | None
    hardware: Hardware
    replicas: int | None
    more: int | None
    value_of_time: int | None
    without: tuple[str, ...]
    policies: tuple[str, ...]


def replicas_said(value: str) -> tuple[bool, int]:
    """Read `4`, as many as there are, or `+1`, so many more; return whether it is a change, and the number."""
    if not re.fullmatch(r"[+-]?[0-9]{1,3}", value) or int(value) == 0:
        raise click.BadParameter(f"{value!r} is no number of replicas: 4 is how many there are, +1 is one more.")
    return value[0] in "+-", int(value)


def dollars(value: str) -> int:
    """Read USD exactly, as a file's are; return nano-dollars."""
    try:
        nano = amounts.nano_dollars(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} {error}; write USD such as 0.002.") from error
    if nano < 0:
        raise click.BadParameter(f"{value!r} is less than nothing; write USD such as 0.002.")
    return nano


@click.command("simulate")
@click.option("--config", required=True, type=click.Path(path_type=Path), help="The configuration file.")
@click.option("--workload", type=click.Choice(get_args(Name)), help="The shape of calls.  [default: conversation]")
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    help="Calls that were made: Mooncake's JSONL or Azure's CSV, or .gz.",
)
@click.option(
    "--load",
    "share",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0.01, 10.0),
    help="Calls a second, as a share of what your own replicas can do at best.",
)
@click.option("--calls", type=click.IntRange(20, 100_000), help="How many.  [default: 1500, or all of the trace]")
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(1, 100), help="How often, with other dice.")
@click.option("--model", help="A model of the file.  [default: the first]")
@click.option(
    "--hardware",
    default=_DEFAULT_HARDWARE,
    show_default=True,
    type=click.Choice(list(MACHINES)),
    help="What each replica of your own runs on.",
)
@click.option(
    "--gateways", default=1, show_default=True, type=click.IntRange(1, 32), help="How many share the calls in turn."
)
@click.option(
    "--replicas",
    type=replicas_said,
    multiple=True,
    metavar="N|+N",
    help="+1: what if there were one more? 4: there are four, whatever the file says. Both may be given.",
)
@click.option("--value-of-time", type=dollars, metavar="USD", help="What if a second were worth so much?")
@click.option("--without", multiple=True, metavar="BACKEND", help="What if it were not there? Repeat it for more.")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    type=click.Choice(POLICIES[1:]),
    help="Compare with another way to route. Repeat it for more.",
)
@click.option(
    "--plot", "picture", type=click.Path(path_type=Path), help="Draw the answer into a file that ends in .svg or .png."
)
def command(
    *,
    config: Path,
    workload: Name | None,
    trace: Path | None,
    share: float,
    calls: int | None,
    seeds: int,
    model: str | None,
    hardware: str,
    gateways: int,
    replicas: tuple[tuple[bool, int], ...],
    value_of_time: int | None,
    without: tuple[str, ...],
    policies: tuple[str, ...],
    picture: Path | None,
) -> None:
    """Say what would become of calls with other machines, another value of time, without a backend."""
    if workload and trace:
        raise click.UsageError("--workload makes calls up and --trace has some: give one of them.")
    there, more = _replicas(replicas)
    settings = _settings(config)
    try:
        check_plot(picture)
        given = read_trace(trace, calls) if trace else ()
        question = Question(
            workload=workload or "conversation",
            load=share,
            calls=calls or 1500,
            seeds=seeds,
            gateways=gateways,
            given=given,
            model=model,
            hardware=MACHINES[hardware],
            replicas=there,
            more=more,
            value_of_time=value_of_time,
            without=without,
            policies=policies,
        )
        fleet = _fleet(question, settings, config)
        changed = _changed(question, settings, config)
        cases = _cases(question, fleet, changed)
    except (FleetError, PlotError, UnreadableError) as error:
        click.echo(f"sluiceway: {error}", err=True)
        sys.exit(error.code if isinstance(error, UnreadableError) else 2)
    simulate_told.question(f"{config}, {fleet.model}", hardware, fleet, cases[0], seeds=seeds, trace=trace)
    with simulate_told.progress(len(cases) * seeds) as told:
        found = simulate(cases, seeds, told)
    _answer(found, fleet, changed, hardware, picture)


def _answer(found: list[Ran], fleet: Fleet, changed: Fleet | None, hardware: str, picture: Path | None) -> None:
    simulate_told.answer(found, bought=changed is not None and len(changed.machines) > len(fleet.machines))
    simulate_told.assumptions(hardware, fleet)
    if picture:
        plot(found, picture)
        click.echo(f"drawn: {picture}")


def _settings(config: Path) -> Settings:
    try:
        return load(config, os.environ, secrets=False)
    except OSError as error:
        click.echo(f"sluiceway: {config} cannot be read: {error.strerror}", err=True)
        sys.exit(2)
    except ConfigError as error:
        for mistake in error.mistakes:
            click.echo(str(mistake))
        sys.exit(1)


def _replicas(said: tuple[tuple[bool, int], ...]) -> tuple[int | None, int | None]:
    """Return how many replicas there are, and by how many it would be otherwise."""
    there = [number for change, number in said if not change]
    more = [number for change, number in said if change]
    if len(there) > 1 or len(more) > 1:
        raise click.UsageError("--replicas: one number for how many there are (4), one for how many more (+1).")
    return there[0] if there else None, more[0] if more else None


def _fleet(question: Question, settings: Settings, config: Path, without: tuple[str, ...] = ()) -> Fleet:
    return fleet_of(
        settings,
        config,
        model=question.model,
        hardware=question.hardware,
        replicas=question.replicas,
        without=without,
    )


def _changed(question: Question, settings: Settings, config: Path) -> Fleet | None:
    """Return the fleet as it would be; None where nothing would be otherwise. Raises FleetError."""
    if question.more is None and question.value_of_time is None and not question.without:
        return None
    changed = _fleet(question, settings, config, question.without)
    if question.more is not None:
        changed = grown(changed, question.more)
    return changed if question.value_of_time is None else hurried(changed, question.value_of_time)


def _cases(question: Question, fleet: Fleet, changed: Fleet | None) -> list[Case]:
    """Return what is to be simulated, as it is first; the calls come as fast to all of them."""
    rate = question.load * capacity(fleet.machines, question.workload, question.given)
    cases = [_case(AS_IT_IS, "sluiceway", question, fleet, rate)]
    if changed is not None:
        cases.append(_case(_label(question), "sluiceway", question, changed, rate))
    return cases + [_case(f"by {policy}", policy, question, fleet, rate) for policy in question.policies]


def _case(label: str, policy: str, question: Question, fleet: Fleet, rate: float) -> Case:
    scenario = Scenario(
        fleet.machines,
        workload=question.workload,
        load=rate / capacity(fleet.machines, question.workload, question.given),
        policy=policy,
        calls=question.calls,
        given=question.given,
        gateways=question.gateways,
        hosted=fleet.hosted,
        told=fleet.told,
        terms=fleet.terms,
    )
    return Case(label, scenario, rate)


def _label(question: Question) -> str:
    """Return in a few words what would be otherwise."""
    parts = [f"without {name}" for name in question.without]
    if question.more is not None:
        parts.append(f"{question.more:+d} replica{'' if abs(question.more) == 1 else 's'}")
    if question.value_of_time is not None:
        parts.append(f"{amounts.usd(question.value_of_time)} USD/s")
    return ", ".join(parts)
