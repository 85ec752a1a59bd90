"""What the tour shows: a live table on a terminal, plain lines elsewhere.

Law: it shows the facts it is given and adds none.
"""

from types import TracebackType
from typing import Self

from msgspec import Struct, field
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table

from gateway import clock

REFRESH = 0.1
"""Seconds between two drawings of the table."""

Fact = int | float | str | bool | dict[str, int]


class Step(Struct):
    """One step of the tour: its name, what it shows in words, what was found, and whether that is as it should be."""

    name: str
    title: str
    ok: bool | None = None
    facts: dict[str, Fact] = field(default_factory=dict)


class Board:
    """Shows steps as they go on; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._steps: list[Step] = []
        self._drawn = 0.0
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def begin(self, step: Step) -> None:
        """Show that `step` goes on."""
        self._steps.append(step)
        if self._live is None:
            self._say(f"...   {step.title}")
        else:
            self._draw()

    def show(self, step: Step) -> None:
        """Show the facts of a step as they stand; between two drawings it does nothing."""
        if step.ok is not None and self._live is None:
            self._say(f"{_verdict(step):<5} {step.title}: {_facts(step)}")
        elif self._live is not None and (step.ok is not None or clock.monotonic() - self._drawn > REFRESH):
            self._draw()

    def _say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, highlight=False, markup=False)

    def _draw(self) -> None:
        if self._live is None:
            return
        table = Table(title="Sluiceway, on simulated backends", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for heading in ("", "What happens", "What the answers and the ledger say"):
            table.add_column(heading)
        for step in self._steps:
            style = {True: "green", False: "bold red", None: "yellow"}[step.ok]
            table.add_row(f"[{style}]{_verdict(step)}[/]", step.title, _facts(step))
        self._live.update(table, refresh=True)
        self._drawn = clock.monotonic()


def _verdict(step: Step) -> str:
    return {True: "ok", False: "FAIL", None: "..."}[step.ok]


def _facts(step: Step) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_fact(value)}" for name, value in step.facts.items())


def _fact(value: Fact) -> str:
    if isinstance(value, dict):
        return " + ".join(f"{name}: {count}" for name, count in value.items())
    return f"{value:.2f}" if isinstance(value, float) else str(value)
