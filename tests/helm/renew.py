"""The golden renders: whole renders kept as text, so that a change of the chart is seen as what a cluster would get.

`python -m tests.helm.renew` writes them anew; what it changed is read in the diff before it is committed.
"""

from pathlib import Path

from tests.helm.charts import named, template

GOLDEN = Path(__file__).parent / "golden"
KEPT = ("least", "mistral-medium", "redis-cluster", "bundled")
"""Files of values whose renders are kept: the least there is, the largest example, an autoscaled one, a trial."""

COMMAND = "python -m tests.helm.renew"


def rendered(name: str) -> str:
    """Return the render of the file of values of that name, as helm writes it."""
    ended = template(named(name))
    if ended.code:
        raise RuntimeError(f"{name}: {ended.errors}")
    return ended.output


def kept(name: str) -> Path:
    """Return where the render of that name is kept."""
    return GOLDEN / f"{name}.yaml"


if __name__ == "__main__":
    for name in KEPT:
        kept(name).write_text(rendered(name))
