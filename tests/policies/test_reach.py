import pytest
from msgspec.structs import replace

from policies.domain import Reach
from policies.reach import MOST_NAMED, booked, family, may_use, named, out_of_reach, reachable
from tests.policies.builders import deployment, model


@pytest.mark.parametrize(
    ("lists", "may"),
    [
        ((), True),
        ((("m",),), True),
        ((("other", "m"),), True),
        ((("other",),), False),
        ((("m*",),), True),
        ((("*",),), True),
        ((("mm*",),), False),
        (((),), False),
        ((("m",), ("m*",)), True),
        ((("m",), ("other",)), False),
        ((("nick",),), True),
        ((("nick",), ("m",)), True),
    ],
)
def test_every_list_has_to_allow_a_model(lists, may):
    """By its own name or an alias; an empty list allows nothing, no list everything."""
    asked = replace(model(deployment()), aliases=("nick",))

    assert may_use(Reach(models=lists), asked) is may


@pytest.mark.parametrize(
    ("backend", "lists", "may"),
    [
        ("gpu", (), True),
        ("gpu", (("gpu",),), True),
        ("gpu", (("cpu",),), False),
        ("gpu@10.0.0.1:8000", (("gpu",),), True),
        ("gpu@10.0.0.1:8000", (("gpu@10.0.0.1:8000",),), True),
        ("gpu@10.0.0.2:8000", (("gpu@10.0.0.1:8000",),), False),
        ("gpus@10.0.0.1:8000", (("gpu",),), False),
        ("gpu", (("g*",), ("gpu",)), True),
    ],
)
def test_a_replica_is_allowed_as_its_backend_is(backend, lists, may):
    """Names of replicas come and go, so lists name the family."""
    found = out_of_reach(Reach(backends=lists), deployment(backend))

    assert found == (None if may else "not among this caller's backends")


@pytest.mark.parametrize("local_only", [True, False])
@pytest.mark.parametrize("hosted", [True, False])
def test_prompts_that_stay_local_go_to_no_hosted_deployment(local_only, hosted):
    """Hosted is what the backend is said to be, not what its kind is."""
    found = out_of_reach(Reach(local_only=local_only), replace(deployment(), hosted=hosted))

    assert (found is not None) is (local_only and hosted)


@pytest.mark.parametrize(
    ("reach", "may"),
    [
        (Reach(), True),
        (Reach(local_only=True), True),
        (Reach(backends=(("far",),)), True),
        (Reach(backends=(("far",),), local_only=True), False),
        (Reach(models=(("other",),)), False),
    ],
)
def test_a_model_is_reachable_where_any_deployment_of_it_is(reach, may):
    """What is listed can be called."""
    asked = model(deployment("near"), replace(deployment("far"), hosted=True))

    assert reachable(reach, asked) is may


@pytest.mark.parametrize(("name", "of"), [("gpu", "gpu"), ("gpu@h:1", "gpu"), ("gpu@[::1]:1/a@b", "gpu")])
def test_a_replica_belongs_to_its_family(name, of):
    """As discovery names them."""
    assert family(name) == of


@pytest.mark.parametrize(
    ("backend", "upstream", "told"),
    [
        ("gpu", "m", ("gpu/m", "")),
        ("gpu@10.0.0.1:8000", "m", ("gpu/m", "10.0.0.1:8000")),
        ("gpu@10.0.0.1:8000/base", "org/m@q4", ("gpu/org/m@q4", "10.0.0.1:8000/base")),
        ("gpu@[fd00::1]:8000", "m", ("gpu/m", "[fd00::1]:8000")),
    ],
)
def test_all_replicas_of_a_backend_are_booked_as_one(backend, upstream, told):
    """Whatever slashes their addresses and their models have."""
    assert booked(replace(deployment(backend), model=upstream)) == told


def test_of_many_names_the_first_are_told_and_how_many_more_there_are():
    assert named(["a", "b"]) == "a, b"
    assert named([str(number) for number in range(MOST_NAMED)]).endswith(f", {MOST_NAMED - 1}")
    assert named([str(number) for number in range(MOST_NAMED + 3)]).endswith(f", {MOST_NAMED - 1} and 3 more")
