from gateway.cli.diffing import Change, Kept, Target, changes, outlook


def plan(name):
    return Target("plan", (name,))


def org(name):
    return Target("organization", (name,))


def team(organization, name):
    return Target("team", (organization, name))


def done(ahead):
    return [str(step) for step in ahead.steps]


def test_what_is_missing_is_made_in_an_order_that_works():
    """A plan before whoever names it, an organization before its teams."""
    wanted = {
        team("acme", "ops"): {},
        team("acme", "lab"): {"plan": "gold"},
        org("globex"): {},
        org("acme"): {"plan": "gold"},
        plan("gold"): {"tokens_per_day": 5},
    }
    ahead = outlook(wanted, {}, prune=False)

    assert done(ahead) == [
        "create plan gold",
        "create organization acme",
        "create organization globex",
        "create team acme/lab",
        "create team acme/ops",
    ]
    assert [step.version for step in ahead.steps] == [None] * 5
    assert [step.body for step in ahead.steps] == [wanted[step.target] for step in ahead.steps]


def test_what_is_there_already_is_left_alone():
    """What nobody says and what is so by default are the same thing."""
    stored = {
        plan("gold"): Kept({"tokens_per_day": 5}, 3),
        org("acme"): Kept({"plan": None, "local_only": False, "state": "active", "metadata": {}, "time_zone": None}, 7),
        team("acme", "lab"): Kept({"models": ["a"]}, 8),
    }
    wanted = {plan("gold"): {"tokens_per_day": 5}, org("acme"): {}, team("acme", "lab"): {"models": ["a"]}}
    ahead = outlook(wanted, stored, prune=True)

    assert (ahead.steps, ahead.kept, ahead.right) == ((), (), 3)


def test_a_change_tells_each_field_as_it_is_and_as_it_will_be():
    """And replaces the version that was seen."""
    stored = {org("acme"): Kept({"plan": "gold", "models": ["a"], "metadata": {"owner": "ann"}}, 7)}
    wanted = {org("acme"): {"meters": {"tokens_per_day": 5}, "metadata": {"owner": "bob", "cost": "12"}}}
    (step,) = outlook(wanted, stored, prune=False).steps

    assert (str(step), step.version, step.body) == ("update organization acme", 7, wanted[org("acme")])
    assert sorted(step.changes, key=lambda change: change.field) == [
        Change("metadata.cost", None, "12"),
        Change("metadata.owner", "ann", "bob"),
        Change("meters.tokens_per_day", None, 5),
        Change("models", ["a"], None),
        Change("plan", "gold", None),
    ]


def test_what_only_the_store_has_is_kept_unless_it_is_to_be_pruned():
    """Deleted last, and the other way round: nothing is removed from under what stands on it."""
    stored = {
        plan("old"): Kept({"tokens_per_day": 5}, 1),
        org("globex"): Kept({"plan": "old"}, 2),
        team("globex", "ops"): Kept({}, 3),
        team("acme", "gone"): Kept({}, 4),
        org("acme"): Kept({"plan": "old"}, 5),
    }
    wanted = {plan("new"): {"tokens_per_day": 9}, org("acme"): {"plan": "new"}}

    kept = outlook(wanted, stored, prune=False)
    assert done(kept) == ["create plan new", "update organization acme"]
    assert kept.kept == (plan("old"), org("globex"), team("acme", "gone"), team("globex", "ops"))

    pruned = outlook(wanted, stored, prune=True)
    assert done(pruned) == [
        *done(kept),
        "delete team globex/ops",
        "delete team acme/gone",
        "delete organization globex",
        "delete plan old",
    ]
    assert [step.version for step in pruned.steps[2:]] == [3, 4, 2, 1]
    assert pruned.kept == ()


def test_done_once_there_is_nothing_left_to_do():
    """Whatever the file and the store say."""
    wanted = {plan("p"): {"models": {"m": {"tokens_per_day": {"limit": 5, "enforce": False}}}}, org("a"): {"plan": "p"}}
    first = outlook(wanted, {org("b"): Kept({}, 9)}, prune=True)
    stored = {step.target: Kept(step.body, 10) for step in first.steps if step.body is not None}

    assert outlook(wanted, stored, prune=True).steps == ()


def test_a_field_of_a_plan_is_told_by_its_path():
    """However deep it is."""
    before = {"models": {"m": {"tokens_per_day": {"limit": 5}}}, "overrun": "cut"}
    after = {"models": {"m": {"tokens_per_day": {"limit": 6}}}, "overrun": "cut"}

    assert changes("plan", before, after) == (Change("models.m.tokens_per_day.limit", 5, 6),)


def test_a_suspension_is_lifted_by_nobodys_silence():
    """A file that is applied every hour must not let in whom somebody has just locked out."""
    stored = {org("acme"): Kept({"plan": "gold", "state": "suspended"}, 7)}

    (step,) = outlook({org("acme"): {"local_only": True}}, stored, prune=False).steps

    assert step.body == {"local_only": True, "state": "suspended"}
    assert not any(change.field == "state" for change in step.changes)
    (lifted,) = outlook({org("acme"): {"plan": "gold", "state": "active"}}, stored, prune=False).steps
    assert lifted.changes == (Change("state", "suspended", "active"),)


def test_what_is_suspended_is_not_pruned():
    """Without its record its tokens would be let in again."""
    stored = {team("acme", "red"): Kept({"state": "suspended"}, 7), team("acme", "blue"): Kept({}, 8)}

    ahead = outlook({}, stored, prune=True)

    assert done(ahead) == ["delete team acme/blue"]
    assert ahead.kept == (team("acme", "red"),)
    assert outlook({}, stored, prune=False).suspended == ahead.suspended == {team("acme", "red")}
