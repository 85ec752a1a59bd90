"""The chart's own page, `helm/README.md`: written of what `values.yaml` and `values.schema.json` say.

Law: the page is never edited by hand: `python -m tests.helm.docs` writes it, and a test holds it to its sources.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from tests.helm.charts import CHART, EXAMPLES
from tests.helm.leaves import Leaf, known, leaves, resolved

PAGE = CHART / "README.md"
COMMAND = "python -m tests.helm.docs"
_HEAD = """\
# {name} {version}: the chart

{description}.

For Kubernetes {kubernetes}. What it runs, how it is installed, and how it scales, stops and takes a new configuration
is in the [gateway's README](../README.md#kubernetes).

Nothing is installed by default values alone: an admin key's Secret, a store and `config.backends` must be told. A value
that the schema does not know is refused, and so are values that do not go together, each with a sentence.

## Examples

{examples}

## Values

This page is written by `{command}`, of the comments in `values.yaml`.

| value | sort | default | meaning |
|---|---|---|---|
{values}
"""


def page() -> str:
    """Return the whole page."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    return _HEAD.format(
        name=chart["name"].capitalize(),
        version=chart["version"],
        description=chart["description"],
        kubernetes=f"{chart['kubeVersion'].removeprefix('>=').partition('.0-')[0]} and later",
        examples="\n".join(_examples()),
        command=COMMAND,
        values="\n".join(map(_row, leaves())),
    )


def _examples() -> Iterator[str]:
    """Yield a line for each example: the first sentence of the comment at its head."""
    for path in sorted(EXAMPLES.glob("*.yaml")):
        lines = path.read_text().splitlines()
        comment = lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]
        told = " ".join(line.removeprefix("#").strip() for line in comment)
        yield f"- [`{path.name}`](examples/{path.name}): {told.partition('. ')[0].rstrip('.')}."


def _row(leaf: Leaf) -> str:
    default = yaml.safe_dump(leaf.default, default_flow_style=True, sort_keys=False, width=1 << 20)
    shown = default.removesuffix("...\n").strip().replace("''", '""')
    text = leaf.text.replace("|", "\\|")
    return f"| `{leaf.path}` | {_sort(known(leaf.path))} | `{shown}` | {text} |"


def _sort(of: Mapping[str, Any]) -> str:
    """Return which sort of value a schema takes, in a word or by its words."""
    of = resolved(of)
    if "enum" in of:
        return " ".join(f"`{word}`" for word in of["enum"])
    if "oneOf" in of:
        return " or ".join(map(_sort, of["oneOf"]))
    return {"object": "mapping", "array": "list", "boolean": "true or false"}.get(of["type"], str(of["type"]))


if __name__ == "__main__":
    PAGE.write_text(page())
