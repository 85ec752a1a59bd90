import pytest

from gateway.config import ConfigError
from gateway.config.stored import stored_plan
from gateway.config.tenants import read_tenants

WHOLE = """\
plans:
  lab: {tokens_per_day: 20_000_000, budget_per_month: "${BUDGET}", routing: {max_price: 0.5}}
organizations:
  acme:
    plan: lab
    models: [mistral-*, small]
    backends: [gpu-a, "pool@10.0.0.1:8000"]
    local_only: true
    state: active
    time_zone: Europe/Berlin
    metadata: {owner: Ada, cost-centre: 4711}
    teams:
      research: {meters: {requests_per_minute: {limit: 60, burst: 5}, overrun: finish, when_down: local}}
      sales: {state: suspended, plan: standard}
  guests: {}
"""


@pytest.fixture
def tenants_of(tmp_path):
    """Read a text as a file of tenants."""

    def read(text, environ=None):
        path = tmp_path / "tenants.yaml"
        path.write_text(text)
        return read_tenants(path, environ or {})

    return read


def test_a_file_of_tenants_becomes_what_the_admin_api_takes(tenants_of):
    """Each body says what the file does and no more; an organization's teams are their own."""
    text = WHOLE.replace("overrun: finish, ", "")
    tenants = tenants_of(text, {"BUDGET": "25.5"})
    lab = {"tokens_per_day": 20_000_000, "budget_per_month": 25.5, "routing": {"max_price": 0.5}}
    assert tenants.plans == {"lab": lab}
    assert tenants.organizations == {
        "acme": {
            "plan": "lab",
            "models": ["mistral-*", "small"],
            "backends": ["gpu-a", "pool@10.0.0.1:8000"],
            "local_only": True,
            "state": "active",
            "time_zone": "Europe/Berlin",
            "metadata": {"owner": "Ada", "cost-centre": "4711"},
        },
        "guests": {},
    }
    assert tenants.teams == {
        ("acme", "research"): {
            "meters": {"requests_per_minute": {"limit": 60, "burst": 5}, "when_down": "local"},
        },
        ("acme", "sales"): {"plan": "standard", "state": "suspended"},
    }
    assert stored_plan("lab", tenants.plans["lab"], None).name == "lab"


def test_every_mistake_is_told_at_once_with_its_line(tenants_of):
    """As of the gateway's own file."""
    with pytest.raises(ConfigError) as caught:
        tenants_of(
            """\
plans:
  lab: {tokens_per_day: 0}
  bare: {overrun: cut}
organizations:
  acme:
    plan: lab
    meters: {requests_per_minute: 5, overrun: cut}
    models: []
    backends: ["*"]
    local_only: yes
    state: closed
    time_zone: Berlin
    teams:
      a/b: {}
      research: {time_zone: UTC, meters: {tokens_per_day: many}}
  "${ORG}": {metadata: {owner: [Ada]}}
listen: {port: 1}
"""
        )
    assert [(mistake.line, mistake.where.partition(".")[2]) for mistake in caught.value.mistakes] == [
        (2, "lab.tokens_per_day"),
        (3, "bare"),
        (7, "acme.meters"),
        (7, "acme.meters.overrun"),
        (8, "acme.models"),
        (9, "acme.backends[0]"),
        (10, "acme.local_only"),
        (11, "acme.state"),
        (12, "acme.time_zone"),
        (14, "acme.teams.a/b"),
        (15, "acme.teams.research.meters.tokens_per_day"),
        (15, "acme.teams.research.time_zone"),
        (16, "${ORG}"),
        (16, "${ORG}.metadata.owner"),
        (17, ""),
    ]
    told = "\n".join(f"{mistake.message}; {mistake.remedy}" for mistake in caught.value.mistakes)
    assert "stands in the place of `plan`" in told
    assert "is empty; name some, write `state: suspended` for none at all, or remove the line for all" in told
    assert "and a * at the end for every name that begins so" in told
    assert "is not a setting of the file of tenants; known are: plans, organizations" in told


def test_an_empty_file_says_what_to_write(tenants_of):
    """It is not taken for the wish to have no tenants."""
    with pytest.raises(ConfigError, match=r"name organizations or plans, or write `organizations: \{\}` for none"):
        tenants_of("# nothing\n")
    assert tenants_of("organizations: {}\n").organizations == {}


def test_a_file_that_is_not_there_is_no_mistake_in_it(tmp_path):
    """The command says so in its own words."""
    with pytest.raises(OSError, match=r"none\.yaml"):
        read_tenants(tmp_path / "none.yaml", {})
