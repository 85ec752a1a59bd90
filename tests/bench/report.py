"""The bench's rounds, summed up: medians, spread, ratios; a table, JSON and a plot.

Law: a ratio is the median of the rounds' own ratios, each against the same round of the other site, so that a machine
that slows down for a while slows both. Spread is half the distance between the quartiles, as a share of the median.
"""

import json
import statistics
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

AGAINST = "nginx"
"""The site that ratios are made to."""


def median(rounds, figure):
    """Return the median of a figure over rounds, None where no round has it."""
    values = [one[figure] for one in rounds if figure in one]
    return statistics.median(values) if values else None


def most(rounds, figure):
    """Return the largest of a figure over rounds."""
    return max(one[figure] for one in rounds)


MOST = {"kb_a_stream": most}
"""What is not a median: memory grows in the first round only, and is used again in the others."""


def spread(rounds, figure):
    """Return half the distance between the quartiles as a share of the median."""
    values = [one[figure] for one in rounds]
    if len(values) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4)
    return (high - low) / 2 / middle if middle else 0.0


def ratio(rounds, others, figure):
    """Return the median over rounds of the ratio of one site's figure to another's in the same round."""
    return statistics.median(a[figure] / b[figure] for a, b in zip(rounds, others, strict=True) if b[figure])


def summary(results):
    """Return, by scenario and site, the median of every figure, the key figure's spread, and its ratio to nginx."""
    told = {}
    for scenario, by_site in results.items():
        told[scenario.name] = {}
        for site, rounds in by_site.items():
            entry = {figure: MOST.get(figure, median)(rounds, figure) for figure in rounds[0]}
            entry["spread"] = spread(rounds, scenario.key)
            if AGAINST in by_site:
                entry["ratio"] = ratio(rounds, by_site[AGAINST], scenario.key)
            told[scenario.name][site] = entry
    return told


def show(results, sites, console=None):
    """Print a table a scenario, and one of starts and memory."""
    console = console or Console()
    for scenario in results:
        console.print(scenario_table(scenario, results[scenario]))
    table = Table("site", "first 200 after, s", "idle memory, MB", title="start", title_justify="left")
    for site in sites:
        if site.pids:
            table.add_row(site.name, f"{site.started:.2f}", f"{site.idle / 1e6:.0f}")
    console.print(table)


def scenario_table(scenario, by_site):
    """Return the table of one scenario."""
    told = summary({scenario: by_site})[scenario.name]
    figures = list(dict.fromkeys(figure for entry in told.values() for figure in entry))
    table = Table(
        Column("site", no_wrap=True), *figures, title=f"{scenario.name}: {scenario.text}", title_justify="left"
    )
    for site, entry in told.items():
        table.add_row(site, *(_cell(entry.get(figure)) for figure in figures))
    return table


def _cell(value):
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def write(results, sites, machine, folder: Path):
    """Write `bench.json`, with every round, and `bench.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {
        "machine": machine,
        "summary": summary(results),
        "rounds": {scenario.name: by_site for scenario, by_site in results.items()},
        "start": {site.name: {"seconds": site.started, "idle_bytes": site.idle} for site in sites if site.pids},
    }
    (folder / "bench.json").write_text(json.dumps(told, indent=1))
    plot(results, folder / "bench.png")


def plot(results, path):
    """Draw each scenario's key figure by site, with its quartiles."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(len(results), 1, figsize=(8, 2.4 * len(results)), squeeze=False)
    for panel, (scenario, by_site) in zip(panels[:, 0], results.items(), strict=True):
        names = list(by_site)
        values = [[one[scenario.key] for one in by_site[name]] for name in names]
        middles = [statistics.median(value) for value in values]
        colours = ["tab:orange" if name.startswith("sluiceway") else "tab:blue" for name in names]
        panel.barh(names, middles, color=colours)
        for row, value in enumerate(values):
            panel.plot(value, [row] * len(value), "k|", markersize=8)
        panel.invert_yaxis()
        panel.set_title(f"{scenario.name}: {scenario.text} ({scenario.key})", loc="left", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
