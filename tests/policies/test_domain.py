import msgspec
import pytest

from policies.domain import Bill, Claim, Level, Meter, MeterKind, Plan, Price, Principal, Usage
from tests.policies.builders import deployment


def test_values_that_cross_rooms_are_frozen():
    """Nobody changes what another room decided."""
    with pytest.raises(AttributeError):
        deployment().backend = "other"


def test_a_deployment_is_named_by_backend_and_model():
    """In metrics, traces and logs."""
    assert deployment("gpu-a").id == "gpu-a/m"


def test_usage_adds_up():
    """Prompt and completion; what of them was cached or is reasoning is in them already."""
    usage = Usage(3, 4, estimated=False, cached_tokens=2, reasoning_tokens=1)

    assert usage.total == 7
    assert msgspec.structs.replace(usage, estimated=True).estimated


def test_an_upstream_that_tells_no_details_had_nothing_cached_and_did_not_reason():
    assert Usage(3, 4, estimated=False) == Usage(3, 4, estimated=False, cached_tokens=0, reasoning_tokens=0)


def test_a_claims_tokens_are_input_and_output():
    assert Claim("o", "t", "k", "m", (), 3, 4).tokens == 7


def test_a_claim_costs_nothing_and_a_day_begins_in_utc_unless_something_is_said():
    claim = Claim("o", "t", "k", "m", (), 3, 4)

    assert (claim.money, claim.seconds, claim.time_zone) == (0, 0.0, "UTC")
    assert Principal("o", "t", "k", "name", ()).time_zone == "UTC"


def test_a_meter_refuses_and_counts_every_model_unless_something_is_said():
    meter = Meter(MeterKind.TOKENS_PER_DAY, 5, 5)

    assert (meter.enforce, meter.model) == (True, None)


def test_a_level_finishes_its_streams_and_denies_without_the_store_unless_a_plan_says_otherwise():
    level = Level("key", "key:k", ())

    assert (level.overrun, level.when_down) == ("finish", "deny")
    assert (Plan("p", ()).overrun, Plan("p", ()).when_down) == ("finish", None)


def test_a_bill_of_nothing_but_usage_ended_well_and_wasted_nothing():
    bill = Bill(Usage(3, 4, estimated=False))

    assert (bill.money, bill.deployment, bill.outcome, bill.request_id) == (0, "", "ok", "")
    assert (bill.wasted, bill.wasted_money) == (None, 0)


def test_cached_input_and_reasoning_cost_as_the_rest_unless_they_have_a_price():
    assert Price(1, 2) == Price(1, 2, cached_input=None, reasoning=None)


def test_a_meters_name_is_its_kind():
    """In the file, in errors, traces and metrics."""
    assert [kind.value for kind in MeterKind] == [kind.name.lower() for kind in MeterKind]
