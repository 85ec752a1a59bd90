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


def tenants_of(text, environ=None, plans=None):
    """Read a text as a file of tenants."""
    return read_tenants(text.encode(), "tenants.yaml", environ or {}, plans)


def test_a_file_of_tenants_becomes_what_the_admin_api_takes():
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


def test_every_mistake_is_told_at_once_with_its_line():
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


def test_an_empty_file_says_what_to_write():
    """It is not taken for the wish to have no tenants."""
    with pytest.raises(ConfigError, match=r"name organizations or plans, or write `organizations: \{\}` for none"):
        tenants_of("# nothing\n")
    assert tenants_of("organizations: {}\n").organizations == {}


def test_a_plan_may_be_the_files_or_the_gateways_or_none_at_all():
    """Those are all that there are; which the gateway has may not be known."""
    text = (
        "plans: {lab: {tokens_per_day: 5}}\norganizations: {acme: {plan: lab}, globex: {plan: standard}, initech: {}}"
    )
    assert tenants_of(text, plans=["standard"]).organizations["acme"]["plan"] == "lab"
    assert tenants_of("organizations: {acme: {plan: tin}}").organizations["acme"]["plan"] == "tin"


def test_plans_that_are_nowhere_are_told_with_their_lines_beside_what_else_is_wrong():
    """Each place that names one, with the nearest that there is, or all of them."""
    with pytest.raises(ConfigError) as caught:
        tenants_of(
            """\
plans:
  gold: {tokens_per_day: 0}
organizations:
  acme:
    plan: tin
    teams:
      lab: {plan: gold}
      ops:
        plan: standart
""",
            plans=["standard"],
        )
    nowhere = "is a plan that neither this file nor the gateway has"
    assert list(map(str, caught.value.mistakes[1:])) == [
        f"tenants.yaml:5: organizations.acme.plan: 'tin' {nowhere}; known are: gold, standard",
        f"tenants.yaml:9: organizations.acme.teams.ops.plan: 'standart' {nowhere}; did you mean `standard`?",
    ]
    assert caught.value.mistakes[0].where == "plans.gold.tokens_per_day"


def test_where_its_plans_cannot_be_read_none_is_called_unknown():
    """It may well be among them."""
    with pytest.raises(ConfigError) as caught:
        tenants_of("plans: [gold]\norganizations: {acme: {plan: gold}}\n", plans=["standard"])
    assert [mistake.where for mistake in caught.value.mistakes] == ["plans"]
