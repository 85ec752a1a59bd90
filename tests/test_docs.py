"""What the pages say must be so: settings, commands, metrics, failures, refusals and their cures, dependencies."""

import ast
import inspect
import re
import shlex
import subprocess
import tomllib

import click
import pytest
from click.testing import CliRunner

from gateway.app import FIGURES
from gateway.cli import COMMANDS, main
from gateway.config import load
from gateway.config.reading import Row
from gateway.config.settings import KINDS, Backend
from gateway.config.tenants import read_tenants
from gateway.metrics import Metrics
from gateway.upstream.fleet import Home
from gateway.workers.merging import OWN
from policies.apis import APIS
from policies.candidates import (
    BUDGET,
    DEAR,
    DRAINED,
    EJECTED,
    _belief,
    _fact,
    _fullness,
    missing_api,
    missing_media,
    too_large,
)
from policies.dialects import DIALECTS
from policies.failures import MEANINGS, classify
from policies.ordering import EXPLORING
from policies.reach import LEAVES, NOT_THEIRS
from policies.rejections import SHAPES
from tests.gateway.cli.cells import cells
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


def test_the_example_of_tenants_is_accepted():
    """Copied from the page."""
    text = re.search(r"### Tenants in a file\n.*?```yaml\n(.*?)```", README, re.DOTALL)[1]

    tenants = read_tenants(text.encode(), "tenants.yaml", {}, ["standard"])

    assert [len(tenants.plans), len(tenants.organizations), len(tenants.teams)] == [1, 1, 3]


def test_the_shortest_file_is_accepted(tmp_path):
    """Copied from the page, with nothing set."""
    path = tmp_path / "gateway.yaml"
    path.write_text(re.search(r"## Serve\n.*?```yaml\n(.*?)```", README, re.DOTALL)[1])

    settings = load(path, {})

    assert (len(settings.backends), settings.models) == (1, None)


def test_what_ollama_is_told_to_be_is_accepted(tmp_path):
    """And is a place of our own that costs nothing."""
    backend = re.search(r"Ollama is of kind.*?`(\{.*?\})`", README, re.DOTALL)[1]
    price = re.search(r"`(price: \{input: 0, output: 0\})`", README)[1]
    path = tmp_path / "gateway.yaml"
    path.write_text(
        f"backends: {{o: {backend}}}\nmodels: {{m: {{deployments: [{{backend: o, model: m, {price}}}]}}}}\n"
    )

    (deployment,) = load(path, {}).models[0].deployments

    assert (deployment.hosted, deployment.price.input, deployment.price.output) == (False, 0, 0)


def asked(folder, monkeypatch, *more):
    """Ask the page's own question of `simulate`, with `more` said; return the answer and what the page prints of it."""
    section = README[README.index("## Ask before you buy") :]
    commands, printed = re.search(r"```sh\n(.*?)\n```\n\n```\n(.*?)\n```", section, re.DOTALL).groups()
    copy, question = commands.splitlines()
    (folder / "README.md").write_text(README)
    subprocess.run(["/bin/sh", "-c", copy], check=True, cwd=folder)
    monkeypatch.chdir(folder)
    unset = {"SLUICEWAY_ADMIN_KEY": None, "NVIDIA_API_KEY": None}
    result = CliRunner(env=unset).invoke(main, [*shlex.split(question)[1:], *more])
    assert result.exit_code == 0, result.output
    return result.stdout, printed


def test_the_question_to_simulate_can_be_copied_and_its_answer_looks_like_that(tmp_path, monkeypatch):
    """With no secret set: the same fleet, the same rate, the same columns and figures."""
    told, printed = asked(tmp_path, monkeypatch, "--calls", "300", "--seeds", "2")
    answers = [text.partition("\ndifference: ")[0].splitlines() for text in (told, printed)]
    here, there = [
        [fleet, calls.partition("; ")[0], heading.split(), [row[0] for row in cells("\n".join(table))]]
        for fleet, calls, _, heading, *table in answers
    ]

    assert here == there


@pytest.mark.ci
def test_the_answer_of_simulate_on_the_page_is_what_it_answers(tmp_path, monkeypatch):
    """Within a tenth (another processor's logarithms may end otherwise): who has changed routing prints it anew."""
    told, printed = asked(tmp_path, monkeypatch)
    told, end, _ = told.partition("\nin time: ")
    figure = re.compile(r"\d+(?:\.\d+)?")

    assert end
    assert figure.sub("", told).replace("-", "+") == figure.sub("", printed).replace("-", "+")
    there = [float(one) for one in figure.findall(printed)]
    assert [float(one) for one in figure.findall(told)] == pytest.approx(there, rel=0.1, abs=0.5)


def test_every_section_is_in_the_list_of_contents_and_every_link_on_the_page_leads_somewhere():
    """As GitHub names headings."""
    page = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    contents = page[page.index("On this page:") : page.index("## The line of a call")]
    titles = re.findall(r"^###? (.+)$", page, re.MULTILINE)
    named = {title: re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}
    listed = re.findall(r"\[([^]]+)\]\(#([^)]+)\)", contents)

    assert listed == list(named.items())[1:]  # the two commands stand above the list
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) <= set(named.values())


def test_the_page_says_once_where_the_command_is():
    """And then calls it by its name."""
    assert README.count(".venv/bin/sluiceway") == 1
    assert ". .venv/bin/activate" in README[: README.index("On this page:")]


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
        "sluiceway_waiting_calls",
        "sluiceway_models",
        "sluiceway_body_bytes",
        "sluiceway_store_down",
        "sluiceway_identities_proven",
        *(f"sluiceway_ledger_{name}" for name in FIGURES),
        *OWN,
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
    assert second.endswith("-m pytest -q -n 3")
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


def operators(title):
    """Return the rows of one of the tables of what an operator sees, by its first column's title: cells of a row."""
    section = README[README.index("## When something is wrong") : README.index("## How fast it is")]
    table = section[section.index(f"| {title} |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


SEEN, OUT = operators("seen"), operators("why")
TOLD = "\n".join(cell for row in SEEN + OUT for cell in row)


def test_every_refusal_stands_in_the_operators_table_with_its_status():
    """And no other: whoever has the code finds the cure."""
    named = [pair for row in SEEN for pair in re.findall(r"([0-9]{3}) `([a-z_]+)`", row[0])]

    assert sorted(named) == sorted((str(shape.status), reason.value) for reason, shape in SHAPES.items())
    assert all(len(row) == 3 and row[2] for row in SEEN + OUT)


def phrases(function):
    """Yield the words with which each reason in `function` begins, as far as they are always the same."""
    for node in ast.walk(ast.parse(inspect.getsource(function))):
        texts = [node.value] if isinstance(node, ast.Assign | ast.Return) and node.value else []
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Exclusion":
            texts = node.args[:1]
        for text in texts:
            for one in (text.body, text.orelse) if isinstance(text, ast.IfExp) else (text,):
                first = one.values[0] if isinstance(one, ast.JoinedStr) else one
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    yield first.value.strip()


_NAMED = (missing_api, missing_media, too_large)


def test_every_reason_that_keeps_a_deployment_out_is_in_the_operators_table():
    """As the code words it, whatever numbers follow; so are those for which one stands where it does."""
    found = {
        words for one in (_fact, _belief, _fullness, *_NAMED) for words in phrases(one) if words and words[0] != ","
    }
    fixed = {BUDGET, DRAINED, EJECTED, DEAR, LEAVES, NOT_THEIRS, EXPLORING, "late", "nothing else is left"}
    absent = Home(Backend("a", "vllm", "http://h/v1", None, discover="dns")).condition.absent

    assert {"takes no", "takes at most", "has no", "off:", "full: it has", "would cost about", "would ignore"} <= found
    assert [words for words in {*found, *fixed, absent} if f"`{words}" not in "".join(row[0] for row in OUT)] == []


def test_every_command_that_an_operator_is_told_exists():
    """With its options: it is copied at night."""
    told = [command.split() for command in re.findall(r"`sluiceway ([^`]+)`", TOLD)]

    assert len(told) > 10
    for words in told:
        command = main.get_command(None, words[0])
        assert command is not None, words
        if isinstance(command, click.Group):
            command = command.commands[words[1]]
        options = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= options, words


def test_every_setting_and_header_and_line_of_the_log_that_an_operator_is_told_exists():
    """By the names that the other tables have, and in the words of the code."""
    settings = README[README.index("| setting |") : README.index("### Kinds of backends")]
    headers = README[README.index("| header of an answer |") : README.index("A stream is committed by")]
    sources = "\n".join(path.read_text() for path in (ROOT / "gateway").rglob("*.py"))
    named = re.findall(r"`([a-z]+(?:\.NAME|\[\])?\.[a-z_]+)`", TOLD)
    logs = re.findall(r"logs? ((?:`[^`]+`(?:, | or )?)+)", TOLD)
    logged = [line for told in logs for line in re.findall("`([^`]+)`", told)]

    parts = {f"`{one.rpartition('.')[0]}." for one in named} | {f".{one.rpartition('.')[2]}`" for one in named}
    assert [part for part in parts if part not in settings] == []
    assert [one for one in re.findall(r"`(x-sluiceway-[a-z]+)`", TOLD) if f"`{one}" not in headers] == []
    assert [line for line in logged if f'"{line}"' not in sources] == []
    assert (len(named) > 10, len(logged) > 8) == (True, True)
