import pytest

from policies.domain import Claim, Meter, MeterKind
from policies.meters import HOUR_US, MINUTE_US, MOST, SECOND_US, SORTS, Keeping, Measure, amount, field, largest

CLAIM = Claim("o", "t", "k", "m", (), 5, 7, money=11)
WORDS = {
    "requests": Measure.REQUESTS,
    "input_tokens": Measure.INPUT,
    "output_tokens": Measure.OUTPUT,
    "tokens": Measure.TOKENS,
    "budget": Measure.MONEY,
}
RATES = {"second": SECOND_US, "minute": MINUTE_US, "hour": HOUR_US}
LIMITS = [kind for kind in MeterKind if kind is not MeterKind.CONCURRENT_REQUESTS]


def test_every_kind_has_a_sort():
    assert set(SORTS) == set(MeterKind)


@pytest.mark.parametrize("kind", LIMITS)
def test_a_kind_means_what_its_name_says(kind):
    sort = SORTS[kind]
    if kind.endswith("_in_all"):
        assert (sort.measure, sort.keeping) == (WORDS[kind.removesuffix("_in_all")], Keeping.TOTAL)
        return
    what, _, period = kind.rpartition("_per_")
    assert sort.measure is WORDS[what]
    if period in RATES:
        assert (sort.keeping, sort.period_us, sort.calendar) == (Keeping.RATE, RATES[period], None)
    else:
        assert (sort.keeping, sort.calendar, sort.period_us) == (Keeping.CALENDAR, period, 0)


def test_slots_are_kept_as_slots():
    sort = SORTS[MeterKind.CONCURRENT_REQUESTS]

    assert (sort.measure, sort.keeping, sort.ticks) == (Measure.SLOTS, Keeping.SLOTS, 0)


@pytest.mark.parametrize(
    ("kind", "ticks"),
    [
        (MeterKind.REQUESTS_PER_SECOND, 1_000_000),
        (MeterKind.TOKENS_PER_MINUTE, 60_000_000),
        (MeterKind.OUTPUT_TOKENS_PER_HOUR, 3_600_000),  # of a millisecond each
    ],
)
def test_a_rates_period_is_a_whole_number_of_ticks(kind, ticks):
    assert SORTS[kind].ticks == ticks
    assert SORTS[kind].period_us == ticks * SORTS[kind].tick_us


@pytest.mark.parametrize("kind", list(MeterKind))
def test_the_largest_limit_is_the_last_whose_state_is_exact(kind):
    unit = max(1, SORTS[kind].ticks)

    assert largest(kind) * unit <= MOST
    assert (largest(kind) + 1) * unit > MOST
    assert float(MOST) == MOST


def test_the_largest_limits_are_large_enough_for_anybody():
    assert largest(MeterKind.TOKENS_PER_MINUTE) >= 150_000_000
    assert largest(MeterKind.TOKENS_PER_HOUR) >= 2_000_000_000
    assert largest(MeterKind.BUDGET_PER_MONTH) >= 9_000_000 * 10**9


def test_a_field_names_the_kind_and_the_model_where_it_counts_one_alone():
    assert field(Meter(MeterKind.TOKENS_PER_DAY, 1, 1)) == "tokens_per_day"
    assert field(Meter(MeterKind.TOKENS_PER_DAY, 1, 1, model="a|b")) == "tokens_per_day|a|b"


@pytest.mark.parametrize(
    ("measure", "asked"),
    [
        (Measure.REQUESTS, 1),
        (Measure.SLOTS, 1),
        (Measure.INPUT, 5),
        (Measure.OUTPUT, 7),
        (Measure.TOKENS, 12),
        (Measure.MONEY, 11),
    ],
)
def test_a_claim_asks_of_each_measure_what_it_needs(measure, asked):
    assert amount(CLAIM, measure) == asked


def test_no_two_measures_and_no_two_keepings_share_a_letter():
    assert len({measure.value for measure in Measure}) == len(list(Measure))
    assert len({keeping.value for keeping in Keeping}) == len(list(Keeping))
