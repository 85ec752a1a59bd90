"""The report's pictures, as SVG whose text is text, so that they stay small."""

from statistics import fmean

import matplotlib as mpl
from matplotlib.figure import Figure

from tests.simulation.points import BOUNDS, CURVE, LOADS, ORACLE, OURS, THEIRS, VALUES, WORKLOADS
from tests.simulation.verdicts import dollars

STYLE = {"svg.fonttype": "none", "svg.hashsalt": "sluiceway", "font.size": 8}


def draw(results, folder):
    """Draw goodput over load and over cost."""
    with mpl.rc_context(STYLE):
        for name, figure in (("goodput", _goodput(results)), ("curve", _curve(results))):
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


def _look(policy):
    if policy == OURS:
        return {"color": "C1", "linewidth": 2, "marker": "o", "markersize": 4, "zorder": 3}
    if policy == ORACLE:
        return {"color": "black", "linewidth": 1, "linestyle": "--"}
    colours = ("C7", "C5", "C0", "C2", "C8", "C4", "C3", "C6", "C9")
    return {"color": colours[THEIRS.index(policy) % len(colours)], "linewidth": 1, "marker": ".", "markersize": 4}


def _goodput(results):
    figure = Figure(figsize=(10, 5.5), layout="constrained")
    panels = figure.subplots(2, 3).flat
    for panel, workload in zip(panels, WORKLOADS, strict=False):
        for policy in (OURS, *THEIRS, ORACLE):
            means = [fmean(results.goodput(workload, load, policy)) for load in LOADS]
            panel.plot(LOADS, means, label=policy, **_look(policy))
        panel.set_title(workload, loc="left")
        panel.set_ylim(0, 102)
        panel.grid(alpha=0.3)
    figure.supxlabel("load, share of capacity")
    figure.supylabel("calls in time, %")
    last = figure.axes[-1]
    last.axis("off")
    last.legend(*figure.axes[0].get_legend_handles_labels(), loc="center", frameon=False)
    return figure


def _curve(results):
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    panel = figure.subplots()
    for policy in (OURS, ORACLE):
        asked = [{"value": value} for value in VALUES]
        _line(panel, results, policy, asked)
    for policy in THEIRS:
        asked = [{"value": 0.0, "bound": bound} for bound in BOUNDS]
        _line(panel, results, policy, asked)
    panel.set_xlabel("USD for 1,000 calls")
    panel.set_ylabel("calls in time, %")
    panel.set_title(f"{CURVE[0]} at {CURVE[1]} with a hosted endpoint", loc="left")
    panel.grid(alpha=0.3)
    panel.legend(frameon=False)
    return figure


def _line(panel, results, policy, asked):
    found = sorted(
        (results.mean(dollars, *CURVE, policy, **one), fmean(results.goodput(*CURVE, policy, **one))) for one in asked
    )
    panel.plot(*zip(*found, strict=True), label=policy, **_look(policy))
