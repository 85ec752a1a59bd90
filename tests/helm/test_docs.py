"""The chart's page, its values and its schema: three that say the same."""

import re
import tarfile

import pytest
import yaml

from tests.helm.charts import CHART, EXAMPLES, template
from tests.helm.docs import COMMAND, PAGE, page
from tests.helm.leaves import defaults, known, leaves, properties, schema
from tests.house import ROOT
from tests.parts.helm import helm

pytestmark = pytest.mark.ci


def test_the_page_is_what_its_sources_say():
    """It is written, never edited."""
    assert PAGE.read_text() == page(), f"where this is meant: {COMMAND}"


def test_every_value_is_documented_and_has_its_schema():
    """One that no comment speaks of is an error by itself."""
    assert len(leaves()) > 50
    assert [leaf.path for leaf in leaves() if not known(leaf.path)] == []
    assert [leaf.path for leaf in leaves() if len(leaf.text) < 8 or leaf.text[-1] not in ".:)"] == []


def mappings(values, of, path=""):
    """Yield the path, the keys and the schema of each mapping of values that has values of ours in it."""
    ours = {leaf.path for leaf in leaves()}
    if path.removesuffix(".") not in ours:
        yield path, set(values), of
        for key, value in values.items():
            if isinstance(value, dict):
                yield from mappings(value, known(path + key), f"{path}{key}.")


def test_every_value_of_the_schema_is_a_value_and_the_other_way_round():
    """And no mapping of ours takes a key that it does not know."""
    for path, keys, of in mappings(defaults(), schema()):
        assert keys == set(properties(of)) - ({"global"} if not path else set()), path
        assert of["additionalProperties"] is False, path


def test_a_value_that_is_named_somewhere_is_one():
    """In the comment of another, in a refusal, in NOTES or on the gateway's page: `networkPolicy.extraEgress`."""
    headings = {path.removesuffix(".") for path, _, _ in mappings(defaults(), schema())} - {""}
    tops = "|".join({heading.partition(".")[0] for heading in headings})
    of_the_file = {"store.data_dir"}
    values = {leaf.path for leaf in leaves()} | headings | of_the_file
    texts = [(CHART / name).read_text() for name in ("values.yaml", "templates/_mistakes.tpl", "templates/NOTES.txt")]
    texts.append((ROOT / "README.md").read_text().partition("### Kubernetes\n")[2].partition("\n### ")[0])
    named = {name for text in texts for name in re.findall(rf"(?<![\w.$])((?:{tops})(?:\.[a-z]\w+)+)", text)}

    assert len(named) > 20
    assert named - values == set()


def test_the_values_are_few_enough_to_be_read():
    """A file that nobody reads to its end has defaults that nobody knows."""
    assert (CHART / "values.yaml").read_text().count("\n") <= 300
    assert max(map(len, (CHART / "values.yaml").read_text().splitlines())) <= 130


def test_nothing_secret_is_a_default():
    """Nor does the chart install anything before it has been told of a key, a store and a backend."""
    refused = template().errors

    assert [leaf.path for leaf in leaves() if leaf.path.endswith("Secret.name") and leaf.default] == []
    for missing in ("adminKey.existingSecret.name", "store: there is none", "config.backends: there is none"):
        assert missing in refused


def test_the_chart_is_of_this_gateway():
    """Its appVersion is the image's tag, so it is the package's version."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)

    assert chart["appVersion"] == project[1]
    assert chart["apiVersion"] == "v2"


def test_the_package_holds_the_chart_and_nothing_that_is_beside_it(tmp_path):
    """The image's file and locks lie in the same folder."""
    assert helm("package", str(CHART), "--destination", str(tmp_path)).code == 0
    (packed,) = tmp_path.glob("*.tgz")
    with tarfile.open(packed) as tar:
        held = {name.removeprefix("sluiceway/") for name in tar.getnames()}

    tops = {name.partition("/")[0] for name in held}
    assert tops == {
        ".helmignore",
        "Chart.yaml",
        "README.md",
        "values.yaml",
        "values.schema.json",
        "templates",
        "examples",
    }
    assert {path.name for path in EXAMPLES.iterdir()} == {name[9:] for name in held if name.startswith("examples/")}
