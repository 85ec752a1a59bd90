import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.dialects import Priors
from policies.latency import BAND, CROWDING, ENOUGH, HALF_LIFE, LEAST_SPREAD, MOST_SPREAD, Latency, Pool
from policies.lessons import Lesson, Lessons, taught

PRIORS = Priors(ttft_fixed=0.2, prefill_rate=10_000.0, token_time=0.02)


def ttft(latency, now, tokens=0):
    pace = latency.pace(now)
    return pace.fixed + pace.prefill * tokens


def test_nothing_seen_is_the_prior():
    """A new deployment gets its chance."""
    pace = Latency(PRIORS).pace(1e9)
    assert (pace.fixed, pace.prefill, pace.token) == pytest.approx((0.2, 1 / 10_000, 0.02))
    assert pace.crowding == pytest.approx(CROWDING * 0.02)


def test_a_slow_replica_is_seen_within_ten_calls():
    """And a long prompt's own prefill time is held against its prefill, not its delay."""
    latency = Latency(PRIORS)
    dice = random.Random(1)
    for call in range(10):
        tokens = dice.choice([500, 2_000, 20_000])
        latency.observe_first(float(call), 0.2 + tokens / 2_000, tokens)
        latency.observe_pace(float(call), 0.1, beside=0)

    assert ttft(latency, 10.0, 20_000) == pytest.approx(10.2, rel=0.3)
    assert ttft(latency, 10.0) < 1.0
    assert latency.pace(10.0).token == pytest.approx(0.1, rel=0.3)


def test_what_crowds_a_batch_is_told_from_a_slow_machine():
    """The pace of a full batch says what a token takes alone."""
    latency = Latency(PRIORS)
    dice = random.Random(1)
    for call in range(200):
        beside = dice.randrange(0, 64)
        latency.observe_pace(float(call), 0.01 + 0.0005 * beside, beside)
    pace = latency.pace(200.0)
    assert pace.token == pytest.approx(0.01, rel=0.2)
    assert pace.crowding == pytest.approx(0.0005, rel=0.2)


def test_what_is_unusual_fades_without_news():
    """So that a replica once slow is tried again, and a slow machine is not thought fast."""
    latency, slow = Latency(PRIORS), Latency(PRIORS)
    for call in range(200):
        latency.observe_first(call * 0.1, 0.2, 0)
        slow.observe_first(call * 0.1, 4.0, 0)
    for call in range(10):
        latency.observe_first(20.0 + call, 4.0, 0)
    fresh = ttft(latency, 29.0)
    assert fresh > 2.0
    assert ttft(latency, 29.0 + HALF_LIFE) < fresh / 2
    assert ttft(latency, 29.0 + 20 * HALF_LIFE) < 0.6
    assert ttft(slow, 20.0 + 20 * HALF_LIFE) > 3.0


def test_it_says_for_how_long_nobody_was_heard():
    """For ever, where too few were to judge by."""
    latency = Latency(PRIORS)
    assert latency.unheard(5.0) == float("inf")
    for call in range(ENOUGH):
        assert latency.unheard(40.0) == float("inf")
        latency.observe_first(float(call), 0.2, 0)
    assert latency.unheard(40.0) == 40.0 - (ENOUGH - 1)


def test_the_spread_is_what_nineteen_of_twenty_first_tokens_stay_within():
    """By a running quantile: most come after 1 s, some after 6 s; neither the mean nor the worst."""
    latency = Latency(PRIORS)
    dice = random.Random(1)
    for call in range(2000):
        now = call * 0.01
        latency.observe_first(now, 6.0 if dice.random() < 0.1 else 1.0, ahead=0)
    latest = ttft(latency, 20.0) + latency.pace(20.0).spread

    assert 4.0 < latest < 9.0


def test_a_spread_is_kept_within_bounds_and_forgotten():
    """First tokens that are minutes late must not keep calls waiting for ever."""
    latency = Latency(PRIORS)
    assert latency.pace(0.0).spread == PRIORS.ttft_fixed
    for call in range(100):
        latency.observe_first(float(call), 10.0 ** (call % 40), ahead=0)
    assert LEAST_SPREAD < latency.pace(99.0).spread <= MOST_SPREAD
    assert latency.pace(99.0 + 20 * HALF_LIFE).spread == pytest.approx(PRIORS.ttft_fixed, abs=1e-2)
    for _ in range(1000):
        latency.observe_first(100.0, 0.2, ahead=0)
    assert latency.pace(100.0).spread == pytest.approx(LEAST_SPREAD)


def test_what_nobody_saw_is_told_by_time_and_pace():
    """0.2 s until it begins, then 50 tokens a second for each answer, up to what was asked for."""
    latency = Latency(PRIORS)

    assert latency.unseen_tokens(0.0, 1.0, choices=1, most=1000) == pytest.approx(50, abs=1)
    assert latency.unseen_tokens(0.0, 1.0, choices=16, most=1000) == pytest.approx(800, abs=16)
    assert latency.unseen_tokens(0.0, 1.0, choices=16, most=100) == 100
    assert latency.unseen_tokens(0.0, -0.1, choices=1, most=100) == 0


def test_who_was_away_is_believed_to_be_as_it_usually_is():
    """A deployment that hung was slow before; once it is back it is tried again at once."""
    latency = Latency(PRIORS)
    for call in range(100):
        latency.observe_first(float(call), 0.2, 0)
    latency.observe_first(100.0, 60.0, 0)
    latency.observe_first(101.0, 60.0, 0)
    latency.forget()
    assert ttft(latency, 101.0) < 0.5
    assert latency.pace(101.0).spread == Latency(PRIORS).pace(101.0).spread


def test_equals_that_share_a_pool_are_taken_for_equals():
    """What noise makes of one's factor would else draw calls to and fro."""
    pool = Pool(PRIORS)
    dice, ones = random.Random(1), [Latency(PRIORS, pool) for _ in range(4)]
    for call in range(400):
        tokens = dice.choice([500, 2_000, 20_000])
        one = dice.choice(ones)
        one.observe_first(call * 0.1, (0.2 + tokens / 5_000) * dice.lognormvariate(0, 0.2), tokens)
        one.observe_pace(call * 0.1, (0.02 + 0.001 * (call % 30)) * dice.lognormvariate(0, 0.2), call % 30)
    paces = [one.pace(40.0) for one in ones]

    assert len({pace.prefill for pace in paces}) == 1 or max(p.prefill for p in paces) < 1.1 * min(
        p.prefill for p in paces
    )
    assert paces[0].prefill == pytest.approx(1 / 5_000, rel=0.3)
    assert paces[0].token == pytest.approx(0.02, rel=0.35)


@pytest.mark.parametrize("slower", [2.0, 5.0, 50.0])
def test_one_of_a_pool_that_is_slower_is_told_from_the_others(slower):
    """Within twenty calls of its own, by all but the band."""
    pool, dice = Pool(PRIORS), random.Random(1)
    ones = [Latency(PRIORS, pool) for _ in range(4)]
    for call in range(80):
        tokens = dice.choice([500, 2_000, 20_000])
        factor = slower if call % 4 == 3 else 1.0
        ones[call % 4].observe_first(call * 0.1, factor * (0.2 + tokens / 10_000) * dice.lognormvariate(0, 0.1), tokens)
    quick, slow = ones[0].pace(8.0), ones[3].pace(8.0)
    seen = (slow.fixed + slow.prefill * 5_000) / (quick.fixed + quick.prefill * 5_000)

    assert 0.7 * slower / 1.83 < seen < 1.4 * slower
    assert BAND < 0.31


def test_a_pool_that_is_wholly_unlike_its_prior_is_learned_by_all():
    """Engines on a CPU, of a kind that is thought to be on a GPU."""
    pool, dice = Pool(PRIORS), random.Random(1)
    ones = [Latency(PRIORS, pool) for _ in range(2)]
    for call in range(200):
        tokens = dice.choice([50, 200, 1_000])
        ones[call % 2].observe_first(call * 1.0, (0.1 + tokens / 50) * dice.lognormvariate(0, 0.1), tokens)

    for one in ones:
        assert ttft(one, 200.0, 500) == pytest.approx(10.1, rel=0.4)


def test_plain_answers_tell_a_slow_one_from_a_quick_one():
    """Though both are quicker than what their kind is thought to need before its first token."""
    pool, dice = Pool(PRIORS), random.Random(1)
    ones = [Latency(PRIORS, pool) for _ in range(2)]
    for call in range(40):
        for one, seconds in zip(ones, (0.015, 0.15), strict=True):
            one.observe_whole(call * 0.1, seconds * dice.lognormvariate(0, 0.1), 50, 23, 1.0)
    quick, slow = (one.pace(4.0) for one in ones)

    assert slow.fixed > 4 * quick.fixed
    assert slow.token > 4 * quick.token
    assert quick.fixed + 23 * quick.token == pytest.approx(0.015, rel=0.5)


def school(slower=(1.0, 1.0, 5.0), calls=90):
    """Let deployments of one pool learn, which are so many times slower than it is thought of; return it and them."""
    pool, dice = Pool(PRIORS), random.Random(1)
    ones = [Latency(PRIORS, pool) for _ in slower]
    for call in range(calls):
        one, factor = ones[call % len(ones)], slower[call % len(ones)]
        tokens = dice.choice([500, 2_000, 20_000])
        one.observe_first(call * 0.1, factor * (0.4 + tokens / 5_000) * dice.lognormvariate(0, 0.1), tokens)
        one.observe_pace(call * 0.1, factor * (0.02 + 0.001 * (call % 30)) * dice.lognormvariate(0, 0.1), call % 30)
    return pool, ones


def pupils(pool, ones, age=0.0, now=1e6):
    """Return a pool and deployments that begin with what others have learned."""
    other = Pool(PRIORS)
    other.begin(pool.lessons(), age, now)
    begun = [Latency(PRIORS, other) for _ in ones]
    for one, learned in zip(begun, ones, strict=True):
        one.begin(learned.lessons(), age, now)
    return other, begun


def test_who_begins_with_what_others_have_learned_believes_the_same():
    """Of each deployment, before its first call there; and it knows that somebody has heard of it."""
    pool, ones = school()
    _, begun = pupils(pool, ones, age=2.0)

    for one, learned in zip(begun, ones, strict=True):
        told, there = one.pace(1e6), learned.pace(9.0)
        assert (told.fixed, told.prefill) == pytest.approx((there.fixed, there.prefill), rel=0.1)
        assert (told.token, told.crowding, told.spread) == pytest.approx(
            (there.token, there.crowding, there.spread), rel=0.1
        )
    assert begun[2].pace(1e6).fixed > 2.5 * begun[0].pace(1e6).fixed


@pytest.mark.parametrize("age", [2.0, 600.0])
def test_what_others_heard_is_as_good_as_heard_when_one_begins(age):
    """However long ago: else the first calls would go where others have not called for long, for it is slow."""
    _, begun = pupils(*school(), age=age)
    assert [one.unheard(1e6 + 7.0) for one in begun] == [7.0] * 3
    begun[0].observe_first(1e6 + 20.0, 1.0, 500)

    assert [one.unheard(1e6 + 40.0) for one in begun] == [20.0, 40.0, 40.0]


def test_it_can_be_told_on():
    """From one gateway to the next, as in a rolling restart, nothing is added to it or lost."""
    pool, ones = school()
    last = pool, ones
    for _ in range(5):
        last = pupils(*last)

    for one, learned in zip(last[1], ones, strict=True):
        assert one.pace(1e6).fixed == pytest.approx(learned.pace(9.0).fixed, rel=0.02)


@pytest.mark.parametrize("age", [1.0, 60.0, 600.0])
def test_what_was_unusual_is_forgotten_on_the_way_as_by_whoever_has_learned_it(age):
    """As if it had been heard then and not since."""
    pool, ones = school((1.0, 1.0, 5.0), calls=600)
    for call in range(6):
        ones[0].observe_first(60.0 + call, 20.0, 500)
    begun = pupils(pool, ones, age)[1]

    for one, learned in zip(begun, ones, strict=True):
        assert ttft(one, 1e6, 5_000) == pytest.approx(ttft(learned, 65.0 + age, 5_000), rel=0.1)
    assert (ttft(begun[0], 1e6) > 2 * ttft(begun[1], 1e6)) == (age <= 60.0)
    assert ttft(begun[2], 1e6) > 2 * ttft(begun[1], 1e6)


def test_after_hours_only_what_all_of_a_pool_have_in_common_is_left():
    """A slow one was mended, for all that anybody knows; that all are slower than their kind is still so."""
    _, begun = pupils(*school((1.0, 1.0, 5.0)), age=36_000.0)
    quick, _, slow = (ttft(one, 1e6, 5_000) for one in begun)

    assert slow < 1.1 * quick
    assert quick > 2 * ttft(Latency(PRIORS), 1e6, 5_000)


def miss(latency, now, truth):
    """Return the largest error over three sizes of prompt, as a logarithm."""
    return max(
        abs(math.log(ttft(latency, now, work) / (truth * (0.2 + work / 10_000)))) for work in (100, 1000, 10_000)
    )


@pytest.mark.parametrize("wrong", [0.2, 5.0])
@pytest.mark.parametrize("told", [True, False])
def test_a_word_that_is_wrong_by_five_is_corrected_as_soon_as_a_prior(wrong, told):
    """Within two fifths after 25 calls of one's own, in nine of ten runs; of a pool and of a deployment."""
    errors = []
    for seed in range(40):
        pool, dice = Pool(PRIORS), random.Random(seed)
        off = math.log(wrong)
        if told:
            line, own = taught(25, off, off, off, off), taught(25, off / 2, off / 2, 0.0)
            pool.begin(Lessons(line, line), 0.0, 0.0)
            latency = Latency(PRIORS, pool)
            latency.begin(Lessons(own, taught(0, 0.0, 0.0)), 0.0, 0.0)
            truth = wrong**0.5
        else:
            latency, truth = Latency(PRIORS, pool), wrong
        for call in range(25):
            tokens = dice.lognormvariate(7, 1.5)
            seen = truth * (0.2 + tokens / 10_000) * dice.lognormvariate(0, 0.2)
            latency.observe_first(call * 0.1, seen, int(tokens))
        errors.append(miss(latency, 2.5, truth))

    assert sorted(errors)[36] < 0.4 + BAND


def test_the_fewer_calls_it_is_of_and_the_older_it_is_the_less_it_is_believed():
    """Against one call of our own that says three times as much; what own calls told is believed more than any."""
    own, alone = Latency(PRIORS), []
    for call in range(25):
        own.observe_first(call * 0.1, 0.2, 0)
    own.observe_first(2.5, 0.6, 0)
    for samples, age in ((25, 0.0), (ENOUGH // 2, 0.0), (1, 0.0), (1, 900.0), (1, 3 * 3600.0)):
        pool = Pool(PRIORS)
        pool.begin(Lessons(*(taught(samples, *[0.0] * 4) for _ in "12")), age, 0.0)
        latency = Latency(PRIORS, pool)
        latency.begin(Lessons(taught(samples, 0.0, 0.0, 0.0), taught(samples, 0.0, 0.0)), age, 0.0)
        latency.observe_first(0.0, 0.6, 0)
        alone.append(ttft(latency, 0.0))
    untold = Latency(PRIORS)
    untold.observe_first(0.0, 0.6, 0)

    assert alone == sorted(alone)
    assert ttft(own, 2.5) < alone[0] < 0.95 * alone[2]
    assert alone[-1] == pytest.approx(ttft(untold, 0.0), rel=0.01)


def test_what_calls_of_our_own_have_told_stays():
    """A store that comes late brings nothing but what nobody here knows."""
    pool, ones = school()
    own, dice = Pool(PRIORS), random.Random(2)
    here, new = (Latency(PRIORS, own) for _ in range(2))
    for call in range(30):
        here.observe_first(call * 0.1, dice.lognormvariate(0, 0.1), 0)
    before = here.pace(2.9)
    own.begin(pool.lessons(), 0.0, 2.9)
    here.begin(ones[2].lessons(), 0.0, 2.9)
    new.begin(ones[2].lessons(), 0.0, 2.9)

    assert (here.pace(2.9).fixed, here.samples) == (before.fixed, (30, 0))
    assert own.samples == (30, ENOUGH)
    assert ttft(new, 2.9) > 1.5 * ttft(here, 2.9)


@given(
    st.lists(st.tuples(st.integers(-5, 10**9), st.lists(st.floats(), max_size=4)), min_size=4, max_size=4),
    st.floats(0, 1e9),
    st.lists(st.tuples(st.floats(1e-6, 1e6), st.integers(0, 10**6)), max_size=10),
)
def test_whatever_is_told_paces_stay_finite_and_above_nothing(told, age, calls):
    """No row can break a deployment, nor what its own calls say after it."""
    pool = Pool(PRIORS)
    first, tokens, own, paces = (Lesson(samples, tuple(logs)) for samples, logs in told)
    pool.begin(Lessons(first, tokens), age, 0.0)
    latency = Latency(PRIORS, pool)
    latency.begin(Lessons(own, paces), age, 0.0)
    for number, (seen, tokens_ahead) in enumerate(calls):
        latency.observe_first(float(number), seen, tokens_ahead)
        latency.observe_pace(float(number), seen, tokens_ahead)
    pace = latency.pace(100.0)

    assert all(0.0 < value < math.inf for value in (pace.fixed, pace.prefill, pace.token, pace.crowding))
    assert LEAST_SPREAD * 0.999 <= pace.spread <= MOST_SPREAD
    assert all(
        lesson.fits(len(lesson.logs)) or not lesson.samples
        for lesson in (latency.lessons().first, pool.lessons().first)
    )
