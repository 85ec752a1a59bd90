import json

from gateway.identity.records import PlanRecord
from tests.gateway.cli.cells import cells

GOLD = """
requests_per_minute: {limit: 600, burst: 50}
budget_per_month: 25.5
models: {small: {tokens_per_day: 1000}}
overrun: cut
routing: {value_of_time: 0.01, policy: balanced}
"""
DOCUMENT = {
    "requests_per_minute": {"limit": 600, "burst": 50},
    "budget_per_month": 25.5,
    "models": {"small": {"tokens_per_day": 1000}},
    "overrun": "cut",
    "routing": {"value_of_time": 0.01, "policy": "balanced"},
}


async def test_a_plan_comes_from_a_file_or_from_standard_input(sluiceway, registry, tmp_path):
    """YAML and JSON alike, and the second of them changes nothing."""
    (tmp_path / "gold.yaml").write_text(GOLD)
    told = (await sluiceway("plans", "set", "gold", "-f", "gold.yaml")).stdout
    assert told.splitlines()[:2] == ["made gold", "  requests_per_minute.limit: (none) -> 600"]
    there = await registry.get(PlanRecord, "gold")
    assert there.record.plan == DOCUMENT

    told = (await sluiceway("plans", "set", "gold", "-f", "-", stdin=json.dumps(DOCUMENT))).stdout
    assert told == "gold is so already: nothing was changed\n"
    assert await registry.get(PlanRecord, "gold") == there

    told = (await sluiceway("plans", "set", "gold", "-f", "-", stdin="budget_per_month: 30")).stdout
    assert "  budget_per_month: 25.5 -> 30" in told.splitlines()
    assert "  overrun: cut -> (none)" in told.splitlines()
    assert (await registry.get(PlanRecord, "gold")).record.plan == {"budget_per_month": 30}


async def test_what_show_prints_set_reads(sluiceway, registry):
    """So a plan is edited with any editor, also the file's into one of the store."""
    await sluiceway("plans", "set", "gold", "-f", "-", stdin=GOLD)
    shown = (await sluiceway("plans", "show", "gold")).stdout
    assert shown.startswith("# gold, from: store\n")
    await sluiceway("plans", "set", "copy", "-f", "-", stdin=shown)
    assert (await registry.get(PlanRecord, "copy")).record.plan == DOCUMENT

    shown = (await sluiceway("plans", "show", "standard")).stdout
    assert shown.startswith("# standard, from: built-in\n")
    await sluiceway("plans", "set", "standard", "-f", "-", stdin=shown)
    assert (await sluiceway("plans", "show", "standard")).stdout == shown.replace(
        "built-in", "store (in place of the file)"
    )


async def test_plans_are_listed_with_where_they_come_from(sluiceway):
    """A stored one takes the place of the file's."""
    await sluiceway("plans", "set", "gold", "-f", "-", stdin="tokens_per_day: {limit: 5, enforce: false}")
    await sluiceway("plans", "set", "silver", "-f", "-", stdin="tokens_per_day: 7")
    told = cells((await sluiceway("plans", "ls")).stdout)

    assert told[:3] == [
        ["plan", "from", "says"],
        ["gold", "store", "tokens_per_day.limit 5, tokens_per_day.enforce false"],
        ["silver", "store (in place of the file)", "tokens_per_day 7"],
    ]
    assert told[3][:2] == ["standard", "built-in"]


async def test_a_plan_is_removed_once_nobody_is_held_to_it(sluiceway, refused, registry):
    """Unless the file has one of its name, which is in force again."""
    await sluiceway("plans", "set", "gold", "-f", "-", stdin="tokens_per_day: 5")
    await sluiceway("orgs", "set", "acme", "--plan", "gold")
    assert "organization acme" in await refused("plans", "rm", "gold")
    await sluiceway("orgs", "set", "acme", "--clear", "plan")

    assert (await sluiceway("plans", "rm", "gold")).stdout == "removed gold\n"
    assert await registry.get(PlanRecord, "gold") is None
    assert "there is no plan gold" in (await refused("plans", "rm", "gold")).lower()
    assert "not in the store" in await refused("plans", "rm", "silver")


async def test_a_plan_with_mistakes_is_refused_before_it_is_sent(run, url):
    """Each with its line."""
    wrong = "tokens_per_day: 0\ntokens_per_fortnight: 5\n"
    result = await run("plans", "set", "gold", "-f", "-", stdin=wrong, SLUICEWAY_URL=url)

    assert result.exit_code == 2
    told = " ".join(result.stderr.split())
    assert "standard input:1: tokens_per_day: " in told
    assert "standard input:2: tokens_per_fortnight: is not a setting of a plan" in told
