"""A fleet on test hosts, and what happens to hosts: `python -m tests.faults.hosts [--minutes M]` (soak; needs root).

Three gateways, a store cluster of six servers, two scripted engines and a real one, a load balancer and a crowd of
callers, each on a host of its own (a network namespace). In turn, under steady load: a gateway's cable to the store is
pulled for 20 s; the server that holds the books is killed; an engine's cable is pulled for over a minute; a new file is
rolled out, and then one with a mistake. Exits with 1 where a promise is broken.

Law: no call fails. A stream may end in-band, and only one that its caller had some of and whose engine went away; it
never looks whole. Afterwards the books are what the engines told.
"""

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from tests.faults.hosts_books import audited
from tests.faults.hosts_load import Load
from tests.faults.hosts_parts import site
from tests.faults.hosts_scenes import SCENES, Act, nothing

QUIET = 8.0
"""Seconds of load after each scene, which belong to it. A call belongs to the scene in which it ended."""

LONG_WAIT = 30.0
"""Seconds for a plain answer that are worth telling."""


async def play(folder, scenes, minutes, tell):
    """Play the scenes in turn, all of them once and on until so many minutes are over; return (acts, books).

    Before them nothing happens for a while: a gateway that has never heard of a caller cannot serve it alone.
    """
    acts = []
    async with site(folder) as where:
        load, end = Load(where.url, where.key), time.monotonic() + 60 * minutes
        while not acts or time.monotonic() < end:
            for scene in (nothing, *scenes):
                act = Act(scene.__name__.replace("_", " "))
                acts.append(act)
                tell(f"{act.name} ...")
                await scene(where, act)
                await asyncio.sleep(QUIET)
        await load.end()
        for answer in load.answers:
            next(act for act in reversed(acts) if act.begun <= answer.at).calls.append(answer)
        books = await audited(where, load.answers)
    return acts, books


def _table(act):
    table = Table("figure", "value", title=act.name)
    kinds = {"plain": lambda one: not one.is_stream, "streams": lambda one: one.is_stream}
    for name, kind in kinds.items():
        told = [one for one in act.calls if kind(one)]
        table.add_row(name, f"{len(told):,}")
        table.add_row(f"{name}: failed", f"{sum(not one.is_good and not one.is_told for one in told):,}")
    table.add_row("streams: ended in-band", f"{sum(one.is_told for one in act.calls):,}")
    waits = sorted(one.at - one.begun for one in act.calls if not one.is_stream)
    table.add_row("plain: slowest", f"{waits[-1]:.1f} s")
    table.add_row(f"plain: over {LONG_WAIT:.0f} s", f"{sum(wait > LONG_WAIT for wait in waits)}")
    for name, value in act.seen.items():
        table.add_row(name, value)
    _promises(table, act.promises)
    return table


def _promises(table, promises):
    for promise, kept in promises.items():
        table.add_row(promise, "kept" if kept else "BROKEN")


def _books_table(books):
    table = Table("figure", "value", title="the books")
    for name, value in asdict(books).items():
        several = isinstance(value, list | dict)
        table.add_row(name, f"{len(value)}" if several else f"{value:,.0f}")
    _promises(table, books.promises())
    return table


def _say(console, act, call):
    since = f"{call.begun - act.begun:+.1f} to {call.at - act.begun:+.1f} s"
    console.print(
        f"  {call.id} {since}: {call.status} {call.backend} {call.ended}, {call.words} words: {call.text[-300:]}"
    )


def main():
    """Play, print, and return how many promises were broken."""
    parser = argparse.ArgumentParser(description="A fleet on test hosts, and what happens to hosts.")
    parser.add_argument("--minutes", type=float, default=0.0, help="go on with more rounds for so long")
    parser.add_argument("--scene", type=int, action="append", help="play only these, by number from 1")
    asked, console = parser.parse_args(), Console(width=150, markup=False, highlight=False)
    scenes = SCENES if asked.scene is None else [SCENES[number - 1] for number in asked.scene]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was made is removed then too
    with tempfile.TemporaryDirectory() as folder, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        acts, books = runner.run(play(Path(folder), scenes, asked.minutes, console.print))
    broken = 0
    for act in acts:
        bad = act.judge()
        console.print(_table(act))
        for call in bad[:8]:
            _say(console, act, call)
        broken += sum(not kept for kept in act.promises.values())
    console.print(_books_table(books))
    for name in ("unbooked", "twice", "wrong", "strays", "differences"):
        for one in getattr(books, name)[:20]:
            console.print(f"  {name}: {one}")
    return broken + sum(not kept for kept in books.promises().values())


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
