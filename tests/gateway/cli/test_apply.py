import json
from functools import partial

import httpx
import pytest

from gateway.identity.records import Author, OrganizationRecord, PlanRecord, TeamRecord
from tests.gateway.cli.conftest import ADMIN_KEY

FILE = """
plans:
  gold: {tokens_per_minute: 1000, budget_per_month: 25.50}
organizations:
  acme:
    plan: gold
    time_zone: Europe/Berlin
    metadata: {owner: ann}
    teams:
      lab: {models: [mistral-*], local_only: true}
      ops: {meters: {concurrent_requests: 3}}
  globex: {}
"""
ALL = """\
+ plan gold
    tokens_per_minute: 1000
    budget_per_month: 25.5
+ organization acme
    plan: gold
    metadata.owner: ann
    time_zone: Europe/Berlin
+ organization globex
+ team acme/lab
    models: ["mistral-*"]
    local_only: true
+ team acme/ops
    meters.concurrent_requests: 3
"""


@pytest.fixture
def written(tmp_path):
    """Write the tenants file; return what names it."""

    def written(text=FILE):
        (tmp_path / "tenants.yaml").write_text(text)
        return "apply", "-f", "tenants.yaml"

    return written


async def test_the_first_run_makes_everything_and_the_second_nothing(sluiceway, written, registry):
    """Plans before whoever names them, organizations before their teams."""
    told = (await sluiceway(*written())).stdout
    done = [f"done: create {line[2:]}\n" for line in ALL.splitlines() if line.startswith("+ ")]
    assert told == f"{ALL}{''.join(done)}5 created; 0 records are right already.\n"
    assert (await registry.get(PlanRecord, "gold")).record.plan == {"tokens_per_minute": 1000, "budget_per_month": 25.5}
    assert (await registry.get(OrganizationRecord, "acme")).record == OrganizationRecord(
        name="acme", plan="gold", time_zone="Europe/Berlin", metadata={"owner": "ann"}
    )
    assert (await registry.get(TeamRecord, "acme/lab")).record == TeamRecord(
        organization="acme", name="lab", models=("mistral-*",), local_only=True
    )

    changes = len(await registry.audit())
    assert (await sluiceway(*written())).stdout == "Nothing to change: 5 records are as the file says.\n"
    assert (await sluiceway(*written(), "--prune")).stdout == "Nothing to change: 5 records are as the file says.\n"
    assert len(await registry.audit()) == changes


async def test_a_dry_run_shows_the_same_and_changes_nothing(sluiceway, written, registry):
    """Whoever reviews a change sees what it will do."""
    told = (await sluiceway(*written(), "--dry-run")).stdout

    assert told == f"{ALL}5 to create; 0 records are right already. Nothing was changed: --dry-run.\n"
    assert await registry.audit() == ()


async def test_a_change_is_shown_field_by_field(sluiceway, written, registry):
    """As it is and as it will be; what the file says no more is as if nobody had ever said it."""
    await sluiceway(*written())
    changed = FILE.replace("plan: gold", "plan: standard").replace("25.50", "30").replace(", local_only: true", "")
    told = (await sluiceway(*written(changed))).stdout

    assert told == (
        "~ plan gold\n    budget_per_month: 25.5 -> 30\n"
        "~ organization acme\n    plan: gold -> standard\n"
        "~ team acme/lab\n    local_only: true -> false\n"
        "done: update plan gold\ndone: update organization acme\ndone: update team acme/lab\n"
        "3 updated; 2 records are right already.\n"
    )
    assert not (await registry.get(TeamRecord, "acme/lab")).record.local_only


async def test_what_only_the_store_has_is_kept_until_it_is_pruned(sluiceway, written, registry):
    """Deleted last, teams before their organization, plans when nobody names them any more."""
    await sluiceway(*written())
    fewer = "organizations: {acme: {plan: standard}}"
    told = (await sluiceway(*written(fewer))).stdout.splitlines()
    assert told[-2:] == ["done: update organization acme", "1 updated; 0 records are right already."]
    assert [line for line in told if line.startswith("= ")] == [
        f"= {target} is kept: only the store has it; --prune deletes it"
        for target in ("plan gold", "organization globex", "team acme/lab", "team acme/ops")
    ]

    told = (await sluiceway(*written(fewer), "--prune")).stdout.splitlines()
    gone = ("team acme/ops", "team acme/lab", "organization globex", "plan gold")
    assert told == [
        *(f"- {target}" for target in gone),
        *(f"done: delete {target}" for target in gone),
        "4 deleted; 1 record is right already.",
    ]
    assert [one.record.name for one in await registry.every(OrganizationRecord)] == ["acme"]
    assert await registry.every(TeamRecord) == await registry.every(PlanRecord) == []


async def test_what_the_gateways_file_has_is_never_touched(sluiceway, written, registry):
    """It is not in the store, so it is neither kept nor deleted; what the tenants file says of it is made."""
    told = (await sluiceway(*written("organizations: {filed: {teams: {desk: {local_only: true}}}}"), "--prune")).stdout

    assert told.splitlines()[:3] == ["+ organization filed", "+ team filed/desk", "    local_only: true"]
    assert (await registry.get(OrganizationRecord, "filed")).record == OrganizationRecord(name="filed")


async def test_a_refused_step_ends_the_run_which_goes_on_when_run_again(run, url, sluiceway, written, registry):
    """With what was done and what was not."""
    long = FILE.replace("owner: ann", f"owner: {'a' * 600}")
    result = await run(*written(long), SLUICEWAY_URL=url)
    assert result.exit_code == 1
    assert result.stdout.endswith("done: create plan gold\n")
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("Error: cannot create organization acme: ")
    assert "Done: 1 of 5 steps; not tried: create organization globex, create team acme/lab" in result.stderr
    assert "run this again" in result.stderr

    assert (await sluiceway(*written())).stdout.endswith("4 created; 1 record is right already.\n")
    assert await registry.get(TeamRecord, "acme/ops") is not None


async def test_a_dry_run_foretells_which_deletions_are_refused(sluiceway, run, url, written, registry):
    """The real run keeps those very ones, and ends with the same exit code: a pipeline trusts the first."""
    await sluiceway("plans", "set", "tin", "-f", "-", stdin="tokens_per_day: 5")
    await sluiceway("plans", "set", "lead", "-f", "-", stdin="tokens_per_day: 5")
    await sluiceway("plans", "set", "silver", "-f", "-", stdin="tokens_per_day: 5")
    for team, plan in (("x", "tin"), ("y", "silver")):
        await sluiceway("keys", "create", "--org", "initech", "--team", team, "--name", "ci", "--plan", plan)
    for name, plan in (("umbrella", "lead"), ("hooli", "lead")):
        await sluiceway("orgs", "set", name, "--plan", plan)
    await sluiceway("teams", "set", "hooli", "z")
    before = await registry.audit()
    dry = await run(*written(), "--prune", "--dry-run", SLUICEWAY_URL=url)
    told = json.loads((await run(*written(), "--prune", "--dry-run", "--json", SLUICEWAY_URL=url)).stdout)
    assert (dry.exit_code, await registry.audit()) == (1, before)
    assert "would be kept: team initech/x: it has keys that are not revoked: 1" in dry.stdout.splitlines()
    assert "would be kept: organization initech: it has teams: 2, and keys that are not revoked: 2" in dry.stdout
    assert dry.stderr.endswith("Nothing was changed: --dry-run.\n")

    real = json.loads((await run(*written(), "--prune", "--json", SLUICEWAY_URL=url)).stdout)
    kept = [one["name"] for one in real["kept"]]
    assert kept == ["initech/y", "initech/x", "initech", "tin"]
    assert [one["name"] for one in told["kept"]] == kept
    assert sum(one["done"] for one in real["steps"]) == len(told["steps"]) - len(kept)
    assert f"Would do: {len(told['steps']) - 4} of {len(told['steps'])} steps; would keep: team initech/y" in dry.stderr


async def test_what_must_not_be_deleted_is_kept_and_the_rest_goes(sluiceway, run, url, written, registry):
    """One team with live keys must not keep everybody else's leavings; the caller's script still hears of it."""
    created = await sluiceway("keys", "create", "--org", "initech", "--team", "x", "--name", "ci", "--json")
    key_id = json.loads(created.stdout)["id"]
    await sluiceway("orgs", "set", "umbrella")
    result = await run(*written(), "--prune", SLUICEWAY_URL=url)
    assert result.exit_code == 1
    made = result.stdout.splitlines()[-3:]
    assert made[0].startswith("kept: team initech/x: The team still has keys")
    assert made[1] == "done: delete organization umbrella"
    assert made[2].startswith("kept: organization initech: ")
    assert result.stderr == (
        "Error: Done: 6 of 8 steps; kept: team initech/x, organization initech. "
        "Mend it and run this again: it goes on from there.\n"
    )

    told = json.loads((await run(*written(), "--prune", "--json", SLUICEWAY_URL=url)).stdout)
    assert [one["done"] for one in told["steps"]] == [False, False]
    assert [one["name"] for one in told["kept"]] == ["initech/x", "initech"]
    assert told["kept"][0]["why"].startswith("The team still has keys")

    await sluiceway("keys", "revoke", key_id)
    assert (await sluiceway(*written(), "--prune")).stdout.endswith("2 deleted; 5 records are right already.\n")
    assert await registry.get(OrganizationRecord, "initech") is None


async def test_what_is_suspended_is_kept_and_said_to_be(sluiceway, written):
    """`--prune` would not delete it, so nobody is told that it does."""
    await sluiceway("orgs", "set", "globex", "--state", "suspended")
    for options in ((), ("--prune",)):
        told = (await sluiceway(*written("organizations: {}"), *options)).stdout
        assert "= organization globex is kept: it is suspended\n" in told


@pytest.mark.parametrize("options", [(), ("--dry-run",), ("--json",)])
async def test_plans_that_are_nowhere_are_told_before_anything_is_done(run, url, written, registry, options):
    """Like any other mistake, with those that there are: of the file, of the gateway, of the store."""
    kept = PlanRecord(name="kept", plan={"tokens_per_day": 5})
    await registry.put(kept, Author("admin key"), action="create", expected=0)
    text = """
plans: {gold: {tokens_per_day: 5}}
organizations:
  a: {plan: bronze, teams: {x: {plan: tin}, y: {plan: gold}, z: {plan: kept}}}
  b: {plan: bronze}
  c: {plan: silver}
"""
    result = await run(*written(text), *options, SLUICEWAY_URL=url)
    why, known = "is a plan that neither this file nor the gateway has", "known are: gold, kept, silver, standard"
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines() == [
        f"tenants.yaml:4: organizations.a.plan: 'bronze' {why}; {known}",
        f"tenants.yaml:4: organizations.a.teams.x.plan: 'tin' {why}; {known}",
        f"tenants.yaml:5: organizations.b.plan: 'bronze' {why}; {known}",
        "3 mistakes in tenants.yaml; nothing was changed",
    ]
    assert await registry.get(OrganizationRecord, "c") is None


async def test_backends_that_are_not_there_are_warned_of(sluiceway, written, registry):
    """They may come later, so what names them is made all the same."""
    text = "organizations: {a: {backends: [gpu, gpu-9, h*, x*]}}"
    for options in (("--dry-run",), ()):
        assert (await sluiceway(*written(text), *options)).stderr == (
            "Warning: organization a: the gateway has no backend 'gpu-9' now (it has: gpu, hosted)\n"
        )
    assert await registry.get(OrganizationRecord, "a") is not None


async def test_models_that_are_not_served_are_warned_of(sluiceway, written):
    """By their names and aliases; one misspelt allows nothing."""
    told = await sluiceway(*written("organizations: {a: {models: [mistral-small, small, mistral-smal, x*]}}"))

    assert told.stderr == (
        "Warning: organization a: the gateway has no model 'mistral-smal' now (it has: mistral-small, small)\n"
    )


@pytest.fixture
def meanwhile(url, monkeypatch):
    """Have somebody else change `acme` after the changes were shown and before they are made."""
    from gateway.cli import apply

    show = apply._show

    def shown(ahead):
        show(ahead)
        path = f"{url}/admin/v1/organizations/acme"
        headers = {"authorization": f"Bearer {ADMIN_KEY}"}
        if httpx.get(path, headers=headers).status_code == 200:
            headers["if-match"] = "*"
        httpx.put(path, headers=headers, json={"plan": "silver"}).raise_for_status()

    monkeypatch.setattr(apply, "_show", shown)


@pytest.mark.usefixtures("meanwhile")
async def test_what_somebody_else_makes_meanwhile_is_not_overwritten(run, url, written, registry):
    """Nobody had seen it."""
    result = await run(*written(), SLUICEWAY_URL=url)
    assert result.exit_code == 1
    assert "cannot create organization acme: somebody else changed it meanwhile" in result.stderr
    assert (await registry.get(OrganizationRecord, "acme")).record.plan == "silver"


@pytest.mark.usefixtures("meanwhile")
async def test_what_somebody_else_changes_meanwhile_is_not_overwritten(run, url, sluiceway, written, registry):
    """Nor deleted."""
    await sluiceway("orgs", "set", "acme", "--plan", "standard")
    for text, did in ((FILE, "update"), ("plans: {gold: {tokens_per_day: 5}}", "delete")):
        result = await run(*written(text), "--prune", SLUICEWAY_URL=url)
        assert result.exit_code == 1
        assert f"cannot {did} organization acme: somebody else changed it meanwhile" in result.stderr
        assert (await registry.get(OrganizationRecord, "acme")).record.plan == "silver"
        await sluiceway("orgs", "set", "acme", "--plan", "standard")


async def test_a_run_is_told_to_programs_as_one_object(sluiceway, run, url, written):
    """Also one that was refused."""
    wrong = "plans: {gold: {tokens_per_day: 5}}\norganizations: {acme: {metadata: {a: " + "b" * 600 + "}}, b: {}}"
    result = await run(*written(wrong), "--json", SLUICEWAY_URL=url)
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert [(one["action"], one["kind"], one["name"], one["done"]) for one in told["steps"]] == [
        ("create", "plan", "gold", True),
        ("create", "organization", "acme", False),
        ("create", "organization", "b", False),
    ]
    assert told["steps"][0]["changes"] == [{"field": "tokens_per_day", "before": None, "after": 5}]
    assert "up to 512 printable characters" in told["refused"]

    kept = {"kind": "plan", "name": "gold", "why": "only the store has it"}
    told = json.loads((await sluiceway(*written("organizations: {}"), "--json", "--dry-run")).stdout)
    assert told == {"steps": [], "kept": [kept], "right": 0, "refused": None}


async def test_a_file_with_mistakes_changes_nothing(run, url, written, registry):
    """All of them are told at once, each with its line."""
    wrong = "plans: {gold: {tokens_per_day: 0}}\norganizations:\n  acme: {plam: gold}\n  globex: {plan: tin}\n"
    result = await run(*written(wrong), SLUICEWAY_URL=url)
    lines = result.stderr.splitlines()

    assert result.exit_code == 1
    assert lines[0].startswith("tenants.yaml:1: plans.gold.tokens_per_day: ")
    assert lines[1].startswith("tenants.yaml:3: organizations.acme.plam: ")
    assert lines[2].startswith("tenants.yaml:4: organizations.globex.plan: 'tin' is a plan that neither ")
    assert lines[3] == "3 mistakes in tenants.yaml; nothing was changed"
    assert result.stdout == ""
    assert await registry.audit() == ()


async def test_mistakes_are_told_where_no_gateway_can_be_asked(run, refused, written):
    """All but those that only a gateway knows; a file without any is told what is missing."""
    nowhere = {"SLUICEWAY_URL": "http://127.0.0.1:9"}
    result = await run(*written("organizations: {acme: {plam: gold, plan: tin}}"), **nowhere)
    assert result.exit_code == 1
    assert result.stderr.startswith("tenants.yaml:1: organizations.acme.plam: ")
    assert result.stderr.endswith("\n1 mistake in tenants.yaml; nothing was changed\n")
    assert "nothing answers at" in await refused(*written(), **nowhere)
    assert "no admin key" in await refused(*written(), SLUICEWAY_ADMIN_KEY=None)


async def test_a_file_may_come_by_standard_input(sluiceway, run, url, registry):
    """As for every other command that takes one."""
    told = (await sluiceway("apply", "-f", "-", stdin=FILE)).stdout
    assert told.endswith("5 created; 0 records are right already.\n")
    assert await registry.get(OrganizationRecord, "acme") is not None

    wrong = await run("apply", "-f", "-", stdin="\norganizations: {acme: {plan: tin}}", SLUICEWAY_URL=url)
    assert wrong.exit_code == 1
    assert wrong.stderr.startswith("standard input:2: organizations.acme.plan: 'tin' is a plan that neither ")
    assert wrong.stderr.endswith("1 mistake in standard input; nothing was changed\n")


async def test_a_file_that_is_not_there_is_told(refused):
    """In one line."""
    assert "gone.yaml cannot be read: No such file" in await refused("apply", "-f", "gone.yaml")


async def test_colours_are_for_those_who_look(sluiceway, run, url, written):
    """A file or a pipe gets none."""
    plain = (await sluiceway(*written(), "--dry-run")).stdout
    coloured = await run(*written(), "--dry-run", SLUICEWAY_URL=url, FORCE_COLOR="1", TERM="xterm-256color")

    assert "\x1b" not in plain
    assert "\x1b[32m+ plan gold\x1b[0m" in coloured.stdout


class Cut(httpx.HTTPTransport):
    """Loses the answer to the first change of an organization, which was made."""

    cut = False

    def handle_request(self, request):
        response = super().handle_request(request)
        if request.method == "PUT" and "/organizations/" in request.url.path and not self.cut:
            self.cut = True
            response.close()
            raise httpx.ReadError("reset by peer")
        return response


async def test_a_change_whose_answer_is_lost_ends_the_run_which_goes_on_when_run_again(
    sluiceway, run, url, written, monkeypatch
):
    """Whether it was made, only the store knows: the next run looks."""
    with monkeypatch.context() as patched:
        patched.setattr(httpx, "Client", partial(httpx.Client, transport=Cut()))
        result = await run(*written(), SLUICEWAY_URL=url)
    assert result.exit_code == 1
    assert result.stdout.endswith("done: create plan gold\n")
    assert "cannot create organization acme: the call to" in result.stderr
    assert "Done: 1 of 5 steps; not tried: create organization globex" in result.stderr
    assert (await sluiceway(*written())).stdout.endswith("3 created; 2 records are right already.\n")
