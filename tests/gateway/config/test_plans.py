import pytest

from gateway.config.plans import MetersRow, PlanRow, with_meters
from gateway.config.reading import keys_of
from policies.domain import Meter, MeterKind
from policies.meters import SORTS, Keeping, Measure, largest

BACKEND = "backends: {gpu: {kind: vllm, base_url: http://h/v1}}\n"
PRICED = "models: {m: {deployments: [{backend: gpu, model: m, price: {input: 1, output: 2}}]}}\n"
RATES = [kind for kind in MeterKind if SORTS[kind].keeping is Keeping.RATE]
MONEY = [kind for kind in MeterKind if SORTS[kind].measure is Measure.MONEY]


def plan(settings_of, text):
    return settings_of(f"{BACKEND}{PRICED}plans:\n  p: {text}\n").plans["p"]


@pytest.mark.parametrize("row", [PlanRow, MetersRow])
def test_every_kind_of_meter_is_a_key_of_a_plan_and_of_its_models(row):
    assert keys_of(with_meters(row)).keys() - keys_of(row).keys() == set(MeterKind)


@pytest.mark.parametrize("kind", list(MeterKind))
def test_every_meter_is_a_number_or_a_mapping_and_may_be_a_shadow(settings_of, kind):
    unit = 10**9 if kind in MONEY else 1
    assert plan(settings_of, f"{{{kind}: 5}}").meters == (Meter(kind, 5 * unit, 5 * unit),)
    assert plan(settings_of, f"{{{kind}: {{limit: 7}}}}").meters == (Meter(kind, 7 * unit, 7 * unit),)
    shadow = plan(settings_of, f"{{{kind}: {{limit: 7, enforce: false}}}}")
    assert shadow.meters == (Meter(kind, 7 * unit, 7 * unit, enforce=False),)
    single = plan(settings_of, f"{{models: {{m: {{{kind}: {{limit: 7, enforce: true}}}}}}}}")
    assert single.meters == (Meter(kind, 7 * unit, 7 * unit, model="m"),)


@pytest.mark.parametrize("kind", RATES)
def test_a_rate_may_have_a_burst(settings_of, kind):
    assert plan(settings_of, f"{{{kind}: {{limit: 7, burst: 3}}}}").meters == (Meter(kind, 7, 3),)


@pytest.mark.parametrize("kind", [kind for kind in MeterKind if kind not in RATES])
def test_nothing_else_has_one(mistakes_of, kind):
    (mistake,) = mistakes_of(f"{BACKEND}{PRICED}plans: {{p: {{{kind}: {{limit: 7, burst: 3}}}}}}\n")
    assert (mistake.where, mistake.message) == (f"plans.p.{kind}.burst", "is not a setting of a meter")


@pytest.mark.parametrize("kind", list(MeterKind))
def test_every_meter_goes_from_the_least_to_the_most_that_is_counted_exactly(settings_of, only_mistake_of, kind):
    most = str(largest(kind))
    if kind in MONEY:
        most = f"{most[:-9]}.{most[-9:]}"
    assert plan(settings_of, f"{{{kind}: {most}}}").meters[0].limit == largest(kind)
    beyond = f"{int(most[:7]) + 1}{most[7:]}"
    for amount in ("0", beyond):
        mistake = only_mistake_of(f"plans: {{p: {{{kind}: {amount}}}}}\n")
        assert (mistake.line, mistake.where) == (2, f"plans.p.{kind}")
        assert "is out of range" in mistake.message


def test_the_meters_of_a_plan_are_in_the_order_of_their_kinds(settings_of):
    text = "{" + ", ".join(f"{kind}: {{limit: 5, enforce: false}}" for kind in reversed(MeterKind)) + "}"
    assert [meter.kind for meter in plan(settings_of, text).meters] == list(MeterKind)


def test_a_budget_is_exact_to_a_nano_dollar(settings_of):
    (meter,) = plan(settings_of, "{budget_in_all: 0.123456789}").meters
    assert meter.limit == 123_456_789


@pytest.mark.parametrize(
    ("key", "told"),
    [
        (
            "requests_per_day",
            "write requests_per_hour; for requests there are requests_per_second, requests_per_minute, requests_per_",
        ),
        ("budget_per_year", "write budget_per_month; for budget there are budget_per_day, "),
        ("output_tokens_per_day", "write output_tokens_per_hour; for output tokens there are "),
        ("tokens_per_dya", "did you mean `tokens_per_day`?"),
        ("request_per_minute", "did you mean `requests_per_minute`?"),
    ],
)
def test_a_period_that_there_is_not_is_answered_with_those_that_there_are(mistakes_of, key, told):
    """Of the same thing: a limit of requests is not meant to become one of tokens."""
    mistakes = mistakes_of(f"{BACKEND}plans: {{p: {{requests_per_second: 5, {key}: 5, models: {{}}}}}}\n")

    assert next(one.remedy for one in mistakes if one.where == f"plans.p.{key}").startswith(told)
