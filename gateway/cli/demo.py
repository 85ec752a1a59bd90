"""`sluiceway demo`: the gateway at work on a simulated fleet, in one command.

Law: the fleet is started before anything heavy is imported, so that both go on at once. Exit 0: every step of the tour
was as promised; 1: one was not; 2: the port is taken.
"""

import os
import socket
import sys
from pathlib import Path

import click

from gateway import clock

IMPORTED = clock.monotonic()


@click.command("demo")
@click.option("--once", is_flag=True, help="End after the tour.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the tour; needs --once.")
@click.option("--no-failover", is_flag=True, help="Try each call once, to see what failover is for: the tour fails.")
@click.option("--port", default=8600, show_default=True, type=click.IntRange(1, 65_535), help="Port to listen on.")
def command(once: bool, as_json: bool, no_failover: bool, port: int) -> None:
    """Show the gateway at work on a simulated fleet."""
    started = clock.monotonic() - _age()
    if as_json and not once:
        raise click.UsageError("--json tells how the tour went, so it needs --once.")
    _refuse_taken(port)
    from gateway.demo.cast import GPUS, HOSTED
    from gateway.demo.fleet import Fleet, FleetFailed

    with Fleet([*GPUS, HOSTED]) as fleet:
        from gateway.demo.caller import TourBroken
        from gateway.demo.show import run

        try:
            code = run(fleet, port, started, failover=not no_failover, once=once, as_json=as_json)
        except (FleetFailed, TourBroken) as error:
            raise click.ClickException(str(error)) from error
    sys.exit(code)


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            click.echo(
                f"sluiceway: cannot listen on 127.0.0.1:{port}: {error.strerror}. Give another --port.", err=True
            )
            sys.exit(2)


def _age() -> float:
    """Return the seconds since this process began, as Linux tells them; elsewhere since this module was imported."""
    try:
        began = int(Path("/proc/self/stat").read_text("ascii").rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text("ascii").split()[0])
    except OSError:
        return clock.monotonic() - IMPORTED
    return uptime - began / os.sysconf("SC_CLK_TCK")
