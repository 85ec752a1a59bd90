"""What the pages say must be so: settings, commands, metrics, failures, dependencies."""

import re
import tomllib

import pytest

from gateway.app import FIGURES
from gateway.cli import COMMANDS
from gateway.config import load
from gateway.config.reading import Row
from gateway.config.settings import KINDS
from gateway.config.tenants import read_tenants
from gateway.metrics import Metrics
from policies.apis import APIS
from policies.dialects import DIALECTS
from policies.failures import MEANINGS, classify
from tests.house import ROOT

README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def rows(of=Row):
    for row in of.__subclasses__():
        yield row
        yield from rows(row)


@pytest.mark.parametrize("row", list(rows()), ids=lambda row: row.__name__)
def test_every_setting_stands_in_the_reference(row):
    """A setting that is not documented does not exist."""
    table = README[README.index("| setting |") : README.index("## Watch it")]
    missing = [name for name in row.__struct_fields__ if name not in {"at", "wrong"} and name not in table]

    assert missing == []


def test_the_example_file_is_accepted(tmp_path):
    """Copied from the page, with its variables set."""
    path = tmp_path / "gateway.yaml"
    path.write_text(re.search(r"## The file\n\n```yaml\n(.*?)```", README, re.DOTALL)[1])

    settings = load(path, {"SLUICEWAY_ADMIN_KEY": "x" * 32, "NVIDIA_API_KEY": "nvapi-x"})

    assert len(settings.models) == 2
    assert len(settings.issuers) == 1


def test_the_example_of_tenants_is_accepted(tmp_path):
    """Copied from the page."""
    path = tmp_path / "tenants.yaml"
    path.write_text(re.search(r"### Tenants in a file\n.*?```yaml\n(.*?)```", README, re.DOTALL)[1])

    tenants = read_tenants(path, {})

    assert [len(tenants.plans), len(tenants.organizations), len(tenants.teams)] == [1, 1, 3]


def test_every_command_is_on_the_page():
    """And none that is not there."""
    assert set(re.findall(r"\| `sluiceway ([a-z]+)", README)) == set(COMMANDS)


def test_every_metric_on_the_page_exists_and_every_labelled_one_is_on_it():
    """Under its exposed name."""
    named = set(re.findall(r"sluiceway_[a-z_]+", README))
    registry = Metrics().registry
    exposed = {name for family in registry.collect() for name in (family.name, f"{family.name}_total")}
    read_when_scraped = {"sluiceway_store_round_trips", "sluiceway_open_reservations", "sluiceway_open_calls"}
    read_when_scraped |= {
        "sluiceway_store_down",
        "sluiceway_identities_proven",
        *(f"sluiceway_ledger_{name}" for name in FIGURES),
    }

    assert named <= exposed | read_when_scraped
    assert {f.name for f in registry.collect()} - {"sluiceway_malformed_events"} <= {
        name.removesuffix("_total") for name in named
    }


def test_every_failure_status_on_the_page_means_what_it_says():
    """The table of failures is the code's."""
    table = README[README.index("| an upstream's answer |") : README.index("A caller who leaves closes")]
    assert classify(410, b"", None).meaning.switches_off
    for status in (408, 425, 502, 503, 504, 529):
        assert str(status) in table
        assert classify(status, b"", None).meaning.ejects
    assert not MEANINGS[classify(429, b"", None).kind].ejects


def test_every_dependency_is_justified():
    """By a line in CONTRIBUTING."""
    section = CONTRIBUTING[CONTRIBUTING.index("## Dependencies") :]
    names = [re.split(r"[\[><=]", line)[0] for line in PYPROJECT["project"]["dependencies"]]

    assert [name for name in names if name.removeprefix("opentelemetry") not in section] == []


def test_both_commands_stand_first():
    """Each one line to copy."""
    first, second = re.findall(r"```sh\n(.*?)\n```", README, re.DOTALL)[:2]

    assert first.endswith("sluiceway demo")
    assert second.endswith("-m pytest -q -n 2")
    assert "\n" not in first + second


def test_the_table_of_kinds_is_what_the_dialects_say():
    """Each cell that is data: APIs, what is renamed, dropped and added, usage, health, load."""
    table = README[README.index("| kind | APIs |") :].split("\n\n")[0].splitlines()[2:]
    rows = {cells[1].strip(" `"): cells[2:] for cells in (line.split("|") for line in table)}

    assert list(rows) == list(KINDS)
    for kind, (apis, changed, usage, _, health, scraped, *_) in rows.items():
        dialect = DIALECTS[kind]
        named = set(APIS) if apis.strip() == "all" else set(re.findall(r"`(\w+)`", apis))
        renamed = {pair for renames in dialect.renames.values() for pair in renames.items()}
        added = {f"{name}: {value.decode()}" for adds in dialect.adds.values() for name, value in adds.items()}
        assert named == dialect.apis
        assert set(re.findall(r"`(\w+)` becomes `(\w+)`", changed)) == renamed
        assert set(re.findall(r"`(\w+)` is dropped", changed)) == dialect.drops
        assert set(re.findall(r"`(\w+: \w+)` is added", changed)) == added
        assert ("only what it reads" in changed) == bool(dialect.keeps)
        assert ("unasked" in usage) == (dialect.usage == "always")
        assert health.strip(" `") == (dialect.health or "its list of models")
        assert scraped.strip(" `") == (dialect.scrape.path if dialect.scrape else "nowhere")
