import math
from functools import partial

import msgspec
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import ConfigError
from gateway.config.settings import STANDARD
from gateway.config.stored import document_of, kept_plan, kept_wishes, stored_plan, stored_wishes
from policies.domain import Meter, MeterKind, Plan
from policies.meters import SORTS, Keeping, largest
from policies.terms import NO_WISHES, RoutingWishes

WHOLE = {
    "requests_per_minute": {"limit": 600, "burst": 50},
    "tokens_per_day": {"limit": 10, "enforce": False},
    "budget_per_month": 0.5,
    "models": {"small": {"concurrent_requests": 4}},
    "overrun": "cut",
    "when_down": "local",
    "routing": {"value_of_time": 0.002, "max_price": 5, "priority": "low"},
}
PLAN = Plan(
    "gold",
    (
        Meter(MeterKind.REQUESTS_PER_MINUTE, 600, 50),
        Meter(MeterKind.TOKENS_PER_DAY, 10, 10, enforce=False),
        Meter(MeterKind.BUDGET_PER_MONTH, 5 * 10**8, 5 * 10**8),
        Meter(MeterKind.CONCURRENT_REQUESTS, 4, 4, model="small"),
    ),
    "cut",
    "local",
    RoutingWishes(value_of_time=2_000_000, max_price=5 * 10**9, priority="low"),
)


def mistakes(document, models=None, read=stored_plan):
    with pytest.raises(ConfigError) as caught:
        read("gold", document, models)
    return [(one.where, one.message, one.remedy) for one in caught.value.mistakes]


@pytest.mark.parametrize("read", [stored_plan, kept_plan])
@pytest.mark.parametrize("name", ["small", "tiny"])
def test_a_document_is_read_as_the_file_would_be(read, name):
    """A model goes by its own name."""
    document = WHOLE | {"models": {name: WHOLE["models"]["small"]}}
    assert read("gold", document, {"small": "small", "tiny": "small"}) == PLAN
    assert read("gold", WHOLE | {"budget_per_month": "0.5"}, None) == PLAN


@pytest.mark.parametrize(
    ("document", "where", "words"),
    [
        (
            {},
            "plan",
            "has no meters and no wishes, so it does nothing; write `routing: {WISH: VALUE}`, or add one of r",
        ),
        ([1], "plan", "must be a mapping"),
        ({"tokens_per_dya": 5}, "tokens_per_dya", "is not a setting of a plan; did you mean `tokens_per_day`?"),
        ({"tokens_per_day": 0}, "tokens_per_day", "is out of range"),
        ({"tokens_per_day": -5}, "tokens_per_day", "is out of range"),
        ({"tokens_per_day": 1.5}, "tokens_per_day", "is not a whole number"),
        ({"tokens_per_day": True}, "tokens_per_day", "'true' is not a whole number"),
        ({"tokens_per_day": None}, "tokens_per_day", "has no value"),
        ({"tokens_per_day": [5]}, "tokens_per_day", "must be a single value"),
        ({"tokens_per_day": "${HOME}"}, "tokens_per_day", "'${HOME}' is not a whole number"),
        ({"tokens_per_day": "${N:-5}"}, "tokens_per_day", "is not a whole number"),
        ({"tokens_per_day": "5\n"}, "tokens_per_day", "holds a line break"),
        ({"tokens_per_day": {"limit": 5, "burst": 3}}, "tokens_per_day.burst", "is not a setting of a meter"),
        ({"budget_per_day": math.inf}, "budget_per_day", "is not a plain decimal number"),
        ({"budget_per_day": 1e-10}, "budget_per_day", "is finer than a billionth of a dollar"),
        ({"budget_per_day": 1e300}, "budget_per_day", "is not a plain decimal number"),
        (
            {"routing": {}},
            "plan",
            "no wishes, so it does nothing; write `routing: {WISH: VALUE}`, or add one of requests",
        ),
        ({"routing": {"policy": "cheap"}}, "routing.policy", "write one of balanced"),
        ({"routing": {"max_wait": 5}}, "routing.max_wait", "is not a setting of routing"),
        ({"routing": {"policy": "fastest", "value_of_time": 1}}, "routing.value_of_time", "does nothing"),
        ({"routing": {"policy": "pinned", "tpot_target": 1}}, "routing.tpot_target", "does nothing"),
        ({"tokens_in_all": 5, "overrun": "stop"}, "overrun", "write one of finish, cut"),
        ({"requests_per_minute": 5, "overrun": "cut"}, "overrun", "does nothing"),
        ({"requests_per_minute": {"limit": 5, "burst": 6}}, "requests_per_minute.burst", "more than the limit of 5"),
        ({"requests_per_second": 1, "requests_per_hour": 10**6}, "requests_per_hour", ""),
        ({"models": {"smal": {"tokens_in_all": 5}}}, "models.smal", "'smal' is not a model; did you mean `small`?"),
        ({"models": {"a b": {"tokens_in_all": 5}}}, "models.a b", "is no valid name"),
        (
            {"models": {"small": {"tokens_in_all": 5}, "tiny": {"tokens_in_all": 6}}},
            "models.tiny",
            "is the same model as 'small'; keep one of them",
        ),
    ],
)
def test_a_document_that_the_file_would_not_take_is_refused_with_the_path_inside_it(document, where, words):
    """And nothing of this machine's environment is filled in."""
    (told,) = mistakes(document, {"small": "small", "tiny": "small"})
    assert told[0] == where
    assert words in f"{told[1]}; {told[2]}"
    assert " line " not in told[1].replace("line break", "")


def test_every_mistake_of_a_document_is_told_at_once():
    document = {"tokens_per_day": 0, "budget_in_all": "x", "models": {"small": 5}, "over": 1}
    assert [where for where, *_ in mistakes(document)] == ["tokens_per_day", "budget_in_all", "models.small", "over"]


def test_a_document_without_end_is_one_mistake():
    """However deep the reader before it goes."""
    deep = {}
    for _ in range(5_000):
        deep = {"models": deep}
    assert [where for where, *_ in mistakes(deep)] == ["plan"]


def test_what_was_stored_once_is_only_read():
    """A model that is gone, and a check that is new, take nobody's plan away."""
    document = {"requests_per_minute": 5, "overrun": "cut", "models": {"gone": {"tokens_in_all": 5}}}
    assert len(mistakes(document, {"small": "small"})) == 1
    assert [meter.model for meter in kept_plan("gold", document, {"small": "small"}).meters] == [None, "gone"]
    for document in ({"tokens_per_day": "many"}, {"tokens_per_eon": 5}, {"routing.policy": "fastest"}):
        assert [where for where, *_ in mistakes(document, read=kept_plan)] == list(document)


def test_a_plan_is_written_as_a_file_would():
    assert document_of(PLAN) == WHOLE
    assert document_of(STANDARD) == {
        "requests_per_minute": 600,
        "tokens_per_minute": 400_000,
        "concurrent_requests": 32,
    }


def test_dollars_that_no_json_number_can_say_are_written_as_text():
    """Beyond eight million dollars a number is no longer exact to a billionth."""
    most = Meter(MeterKind.BUDGET_IN_ALL, largest(MeterKind.BUDGET_IN_ALL), largest(MeterKind.BUDGET_IN_ALL))
    small = Meter(MeterKind.BUDGET_IN_ALL, 1, 1)
    assert document_of(Plan("p", (most,))) == {"budget_in_all": "9007199.254740991"}
    assert document_of(Plan("p", (small,))) == {"budget_in_all": 1e-9}


def meters(kind):
    limits = st.integers(1, largest(kind))
    return limits.flatmap(
        lambda limit: st.builds(
            Meter,
            st.just(kind),
            st.just(limit),
            st.integers(1, limit) if SORTS[kind].keeping is Keeping.RATE else st.just(limit),
            st.booleans(),
            st.sampled_from([None, "small"]),
        )
    )


@given(st.sampled_from(list(MeterKind)).flatmap(meters), st.sampled_from(["finish", "cut"]))
def test_what_is_written_is_read_as_the_same_plan(meter, overrun):
    """To the nano-dollar, through JSON."""
    plan = Plan("gold", (meter,), overrun)
    document = msgspec.json.decode(msgspec.json.encode(document_of(plan)))
    assert kept_plan("gold", document, None) == plan


SECONDS = st.decimals("0.001", "86400", places=3).map(float)
DOLLARS = st.integers(0, 1000 * 10**9)
WISHES = st.builds(
    RoutingWishes,
    st.none() | SECONDS,
    st.none() | DOLLARS,
    st.none() | st.decimals("0.0001", "60", places=4).map(float),
    st.none() | DOLLARS,
    st.none() | st.sampled_from(["balanced", "cheapest", "fastest", "pinned", "weighted"]),
    st.none() | st.sampled_from(["high", "normal", "low"]),
)


@given(WISHES)
def test_wishes_that_are_written_are_read_as_the_same(wishes):
    """A plan's and a key's alike, to the nano-dollar, through JSON."""
    plan = Plan("gold", PLAN.meters, wishes=wishes)
    document = msgspec.json.decode(msgspec.json.encode(document_of(plan)))

    assert kept_plan("gold", document, {"small": "small"}) == plan
    assert kept_wishes("API key x", document.get("routing", {})) == wishes


def test_a_plan_may_be_wishes_alone():
    """It limits nothing, but it does something."""
    plan = stored_plan("fast", {"routing": {"policy": "fastest"}}, None)

    assert plan == Plan("fast", (), wishes=RoutingWishes(policy="fastest"))
    assert document_of(plan) == {"routing": {"policy": "fastest"}}


@pytest.mark.parametrize("read", [stored_wishes, partial(kept_wishes, "API key x")])
def test_a_keys_wishes_are_read_as_a_plans(read):
    """Numbers and text alike."""
    wanted = RoutingWishes(ttft_target=1.5, value_of_time=10**9, max_price=1)
    assert read({"ttft_target": 1.5, "value_of_time": 1, "max_price": "0.000000001"}) == wanted


@pytest.mark.parametrize(
    ("document", "where", "words"),
    [
        ({}, "routing", "wishes nothing; write `{WISH: VALUE}`"),
        ([1], "routing", "must be a mapping"),
        ({"ttft_target": 0}, "ttft_target", "is out of range"),
        ({"ttft_target": None}, "ttft_target", "has no value"),
        ({"ttft_targt": 1}, "ttft_targt", "did you mean `ttft_target`?"),
        ({"max_price": 1e-10}, "max_price", "is finer than a billionth of a dollar"),
        ({"max_price": True}, "max_price", "is not a plain decimal number"),
        ({"policy": "cheapest", "value_of_time": 1}, "value_of_time", "`policy: cheapest` has a value of its own"),
        ({"policy": "weighted", "ttft_target": 1}, "ttft_target", "`policy: weighted` goes by the weights alone; keep"),
    ],
)
def test_a_keys_wishes_that_mean_nothing_are_refused_with_the_path_inside_them(document, where, words):
    """As a plan's are."""
    with pytest.raises(ConfigError) as caught:
        stored_wishes(document)
    (told,) = caught.value.mistakes
    assert told.where == where
    assert words in f"{told.message}; {told.remedy}"


def test_wishes_that_were_stored_once_are_only_read():
    """A check that is new takes nobody's wish away."""
    stored = {"policy": "cheapest", "value_of_time": 1}
    wishes = RoutingWishes(policy="cheapest", value_of_time=10**9)

    assert kept_wishes("API key x", stored) == kept_plan("gold", {"routing": stored}, None).wishes == wishes


@pytest.mark.parametrize(
    ("stored", "wishes", "why"),
    [
        (
            {"max_carbon": 5, "priority": "low"},
            RoutingWishes(priority="low"),
            "max_carbon: is not a setting of routing",
        ),
        ({"policy": "greenest", "priority": "low"}, RoutingWishes(priority="low"), "policy: 'greenest' is not"),
        ({"policy": None, "ttft_target": [1, 2]}, NO_WISHES, "policy: has no value; ttft_target: must be a single"),
        ("fastest", NO_WISHES, "routing: must be a mapping"),
    ],
)
def test_a_newer_gateways_wishes_are_left_out_and_logged_once(stored, wishes, why):
    """A key that it gave one, and a plan, go on here; what they have besides counts."""
    with structlog.testing.capture_logs() as told:
        for _ in range(3):
            assert kept_wishes(f"API key of {why}", stored) == wishes
            plan = kept_plan(why, {"tokens_per_day": 5, "routing": stored}, None)
            assert plan == Plan(why, (Meter(MeterKind.TOKENS_PER_DAY, 5, 5),), wishes=wishes)

    assert [line["of"] for line in told] == [f"API key of {why}", f"plan {why!r}"]
    assert all(why in line["why"] for line in told)
    assert {line["log_level"] for line in told} == {"warning"}
