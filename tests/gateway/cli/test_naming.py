import pytest

from gateway.cli.diffing import Target
from gateway.cli.naming import names_places, unknown_backends, unknown_models

ACME, LAB, GOLD = Target("organization", ("acme",)), Target("team", ("acme", "lab")), Target("plan", ("gold",))


@pytest.mark.parametrize("name", ["gpu", "pool", "pool@10.0.0.1:8000", "later*", "*"])
def test_a_backend_may_be_one_or_all_of_its_replicas_or_a_pattern(name):
    """A pattern is there for what comes later."""
    assert unknown_backends({ACME: {"backends": [name]}}, ["gpu", "pool@10.0.0.1:8000"]) == []


def test_a_backend_that_is_not_there_is_told_with_those_that_are():
    """One line for each."""
    wanted = {ACME: {"backends": ["a", "gpu"]}, LAB: {"backends": ["a", "b"]}}

    assert unknown_backends(wanted, ["gpu"]) == [
        "organization acme, team acme/lab: the gateway has no backend 'a' now (it has: gpu)",
        "team acme/lab: the gateway has no backend 'b' now (it has: gpu)",
    ]
    assert unknown_backends({ACME: {"backends": ["a"]}}, [])[0].endswith("(it has: none)")


def test_a_model_that_is_not_served_is_told_with_those_that_are():
    """Patterns are there for what comes later."""
    wanted = {ACME: {"models": ["m", "n", "n*"]}, LAB: {"models": ["n"]}, GOLD: {"models": {"o": {}}}}

    assert unknown_models(wanted, ["m"]) == [
        "organization acme, team acme/lab: the gateway has no model 'n' now (it has: m)"
    ]


@pytest.mark.parametrize(
    ("body", "expected"),
    [({}, False), ({"models": ["n*"]}, False), ({"models": ["n"]}, True), ({"backends": ["b"]}, True)],
)
def test_a_gateway_is_asked_only_about_what_is_named_in_full(body, expected):
    """Or nothing could be said of it."""
    assert names_places(body) is expected
