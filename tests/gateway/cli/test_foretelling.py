import pytest

from gateway.cli.diffing import Kept, Target, outlook
from gateway.cli.foretelling import MOST_NAMED, refused_deletions

ACME, LAB, GOLD = Target("organization", ("acme",)), Target("team", ("acme", "lab")), Target("plan", ("gold",))


def kept(told, wanted=(), keys=(), of_file=()):
    """Return why which of `told` would be refused to be deleted."""
    stored = {target: Kept(body, 1) for target, body in told.items()}
    ahead = outlook(dict(wanted), stored, prune=True)
    found = refused_deletions(ahead, stored, keys, of_file)
    return {str(ahead.steps[number].target): why for number, why in found.items()}


def key(team="lab", *, plan=None, revoked=False):
    return {"id": "k", "organization": "acme", "team": team, "plan": plan, "revoked": revoked}


def test_what_nobody_needs_may_go_with_all_above_it():
    """Teams before their organization, plans last; revoked keys need nothing."""
    assert kept({ACME: {"plan": "gold"}, LAB: {"plan": "gold"}, GOLD: {}}, keys=[key(plan="gold", revoked=True)]) == {}


def test_a_live_key_keeps_its_team_its_organization_and_its_plan():
    """Each with what it is needed for."""
    assert kept({ACME: {}, LAB: {}, GOLD: {}}, keys=[key(plan="gold")]) == {
        "team acme/lab": "it has keys that are not revoked: 1",
        "organization acme": "it has teams: 1, and keys that are not revoked: 1",
        "plan gold": "held to it: key k",
    }


def test_a_plan_of_the_gateways_file_too_may_go():
    """It is in force again."""
    assert kept({GOLD: {}}, keys=[key("other", plan="gold")], of_file=["gold"]) == {}


@pytest.mark.parametrize(("plan", "stays"), [("tin", False), ("gold", True)])
def test_a_plan_is_judged_by_what_the_run_makes_of_its_holders(plan, stays):
    """Which a file may give another one before."""
    found = kept({ACME: {"plan": "gold"}, GOLD: {}}, wanted={ACME: {"plan": plan}})

    assert found == ({"plan gold": "held to it: organization acme"} if stays else {})


def test_many_holders_are_told_by_their_number():
    """The first few by name."""
    keys = [key("other", plan="gold") for _ in range(MOST_NAMED + 2)]

    assert kept({GOLD: {}}, keys=keys)["plan gold"].endswith(", key k and 2 more")
