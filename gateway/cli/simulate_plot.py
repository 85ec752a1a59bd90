"""The answer of `sluiceway simulate` as a picture.

Law: matplotlib is an extra of the package and imported only to draw: whoever wants no picture need not have it, and
whoever wants one is told so before anything is simulated.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli.simulate_runs import FIGURES, Figure, Ran

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMS = (".svg", ".png")

_DRAWN = ("in time", "first token, 95 % within", "an output token, 95 % within", "cost of an hour")


class PlotError(Exception):
    """No picture can be drawn; the text says why and what would help."""


def check_plot(path: Path | None) -> None:
    """See that a picture can be drawn into a file of that name. Raises PlotError."""
    if path is None:
        return
    if path.suffix not in FORMS:
        raise PlotError(f"--plot {path}: a picture's name ends in {' or '.join(FORMS)}")
    if not path.parent.is_dir():
        raise PlotError(f"--plot {path}: there is no folder {path.parent}; make it first")
    if find_spec("matplotlib") is None:
        raise PlotError("--plot needs matplotlib, which is not installed: pip install 'sluiceway[plot]'")


def plot(found: Sequence[Ran], path: Path) -> None:
    """Draw every case's main figures, a dot a seed and a line at their mean, into `path`."""
    from matplotlib.figure import Figure as Canvas

    drawn = [figure for figure in FIGURES if figure.name in _DRAWN and any(figure.mean(ran) for ran in found)]
    canvas = Canvas(figsize=(8, 0.9 + len(drawn) * (0.7 + 0.25 * len(found))), layout="constrained")
    for row, figure in enumerate(drawn, 1):
        panel = canvas.add_subplot(len(drawn), 1, row)
        for place, ran in enumerate(found):
            _draw(panel, place, figure, ran)
        panel.set_yticks(range(len(found)), [ran.case.label for ran in found])
        panel.set_ylim(len(found) - 0.5, -0.5)
        panel.set_title(f"{figure.name}, {figure.unit}", loc="left", fontsize=9)
    canvas.savefig(path, dpi=120)


def _draw(panel: "Axes", place: int, figure: Figure, ran: Ran) -> None:
    mean = figure.mean(ran)
    colour = f"C{place}"
    panel.plot(figure.of(ran), [place] * len(ran.outcomes), "o", color=colour, alpha=0.5, markersize=4)
    panel.plot([mean, mean], [place - 0.3, place + 0.3], color=colour)
    panel.annotate(f"{mean:,.{figure.digits}f}", (mean, place - 0.3), fontsize=8, ha="center")
