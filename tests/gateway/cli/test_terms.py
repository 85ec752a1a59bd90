import json

import click
from click.testing import CliRunner

from gateway.cli.diffing import ORGANIZATION
from gateway.cli.terms import merged, terms


@click.command()
@terms("name", *ORGANIZATION, "scopes", "networks", "expires", "routing", clearable=True)
def command(given):
    click.echo(json.dumps(given))


def given(*arguments, stdin=None):
    """Return what a command makes of its options."""
    result = CliRunner().invoke(command, arguments, input=stdin)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(*arguments):
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2, result.output
    return " ".join(result.stderr.split())


def test_an_option_that_is_not_given_is_not_there():
    """`set` changes what is given, and nothing else."""
    assert given() == {}


def test_options_are_the_admin_apis_fields():
    """Each in its shape."""
    options = "--name ci --plan gold --model a --model b* --backend gpu --local-only --state suspended --time-zone UTC"
    more = (
        "--scope inference --scope admin:read --network 10.0.0.0/8 --expires 90d --metadata owner=ann --metadata x=y=z"
    )

    assert given(*options.split(), *more.split()) == {
        "name": "ci",
        "plan": "gold",
        "models": ["a", "b*"],
        "backends": ["gpu"],
        "local_only": True,
        "state": "suspended",
        "time_zone": "UTC",
        "scopes": ["inference", "admin:read"],
        "networks": ["10.0.0.0/8"],
        "expires": "90d",
        "metadata": {"owner": "ann", "x": "y=z"},
    }


def test_wishes_are_one_field():
    """Numbers as numbers; those that are taken away are named."""
    options = "--ttft-target 2 --tpot-target 0.05 --value-of-time 0.01 --max-price 0.000000001 --policy pinned"

    assert given(*options.split(), "--clear", "priority") == {
        "routing": {
            "ttft_target": 2,
            "tpot_target": 0.05,
            "value_of_time": 0.01,
            "max_price": 1e-9,
            "policy": "pinned",
            "priority": None,
        }
    }
    assert given("--priority", "low") == {"routing": {"priority": "low"}}


def test_wishes_are_added_to_one_another():
    """One that is taken away leaves the others; without any there is no routing."""
    present = {"routing": {"policy": "pinned", "max_price": 1}}

    assert merged({"routing": {"priority": "low"}}, present)["routing"] == {**present["routing"], "priority": "low"}
    assert merged({"routing": {"policy": None}}, present)["routing"] == {"max_price": 1}
    assert merged({"routing": {"policy": None, "max_price": None}}, present)["routing"] is None
    assert merged({"routing": {"priority": "low"}}, {"routing": None})["routing"] == {"priority": "low"}


def test_a_flag_can_be_taken_back():
    """Not given is a third thing."""
    assert given("--no-local-only") == {"local_only": False}


def test_unix_seconds_are_a_number():
    """Everything else is for the gateway to read."""
    assert given("--expires", "1790000000") == {"expires": 1_790_000_000}
    assert given("--expires", "2026-07-01") == {"expires": "2026-07-01"}


def test_meters_come_from_a_file_or_from_standard_input(tmp_path):
    """As the gateway's file writes a plan."""
    path = tmp_path / "own.yaml"
    path.write_text("tokens_per_day: {limit: 5, enforce: false}\n")
    meters = {"meters": {"tokens_per_day": {"limit": 5, "enforce": False}}}

    assert given("--meters", str(path)) == meters
    assert given("--meters", "-", stdin=path.read_text()) == meters


def test_a_field_can_be_cleared():
    """So that it is as if nobody had ever said it."""
    assert given("--clear", "plan", "--clear", "time-zone", "--clear", "metadata") == {
        "plan": None,
        "time_zone": None,
        "metadata": {},
    }


def test_what_contradicts_itself_is_refused(tmp_path):
    """Neither half is obeyed."""
    path = tmp_path / "own.yaml"
    path.write_text("tokens_per_day: 5\n")

    assert "--plan and --meters exclude each other" in refused("--plan", "gold", "--meters", str(path))
    assert "--clear models contradicts" in refused("--model", "a", "--clear", "models")
    assert "--clear max-price contradicts" in refused("--max-price", "1", "--clear", "max-price")


def test_a_value_that_is_none_is_told_with_what_would_be_right(tmp_path):
    """With the option's name, and for a file with the line."""
    path = tmp_path / "own.yaml"
    path.write_text("tokens_per_day: 5\ntokens: 5\n")

    assert "'--metadata': 'owner' is not NAME=VALUE" in refused("--metadata", "owner")
    assert "'--scope': 'all' is not one of 'inference', 'admin:read', 'admin:write'" in refused("--scope", "all")
    assert "'--max-price': 'lots' is no plain number, such as 0.5." in refused("--max-price", "lots")
    assert "'--value-of-time': 'nan' is no plain number" in refused("--value-of-time", "nan")
    assert "'--policy': 'best' is not one of 'balanced', 'cheapest'" in refused("--policy", "best")
    assert "own.yaml:2: tokens: is not a setting of a plan" in refused("--meters", str(path))
    assert "cannot read gone.yaml: No such file" in refused("--meters", "gone.yaml")


def test_a_change_leaves_the_rest_as_it_is():
    """Notes are added to one another; an empty one is taken away."""
    present = {"plan": "gold", "models": ["a"], "metadata": {"owner": "ann", "cost": "12"}}

    assert merged({}, present) == present
    assert merged({"models": None, "metadata": {"owner": "", "site": "b"}}, present) == {
        "plan": "gold",
        "models": None,
        "metadata": {"cost": "12", "site": "b"},
    }
    assert merged({"metadata": {}}, present)["metadata"] == {}


def test_a_plan_and_own_meters_take_each_others_place():
    """The gateway takes one of them."""
    assert merged({"meters": {"tokens_per_day": 5}}, {"plan": "gold"})["plan"] is None
    assert merged({"plan": "gold"}, {"meters": {"tokens_per_day": 5}}) == {"plan": "gold", "meters": None}
    assert merged({"plan": None}, {"meters": {"tokens_per_day": 5}})["meters"] == {"tokens_per_day": 5}
