from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.allowance import (
    MINUTE,
    SECOND,
    Allowance,
    Answer,
    Shared,
    believed,
    kept_until,
    refused,
    spacing,
    take,
)
from tests.fakes.window import Window

START = 1000 * MINUTE
NEW = Shared()


def granted(told, asks, shared=NEW):
    """Return the times, of those at which it was asked, at which a call was granted."""
    times = []
    for now in asks:
        shared, answer = take(shared, told, now)
        if not answer.wait:
            times.append(now)
    return times


def greedy(told, count, now=START, shared=NEW):
    """Ask as soon as there is room, time after time; return the times of the calls."""
    times = []
    while len(times) < count:
        shared, answer = take(shared, told, now)
        if answer.wait:
            now += answer.wait
        else:
            times.append(now)
    return times


def fullest(times, span=MINUTE):
    """Return the most times in any span [t, t + span), wherever it begins."""
    times = sorted(times)
    return max(sum(begin <= time < begin + span for time in times) for begin in times)


def after(shared, told, now, *, pause=-1, sent=0, knew=True):
    return refused(shared, told, now, pause=pause, sent=sent, knew=knew)[0]


def busy(shared, told, now, minutes):
    """Use all there is for some minutes; return what is known then, and when that is."""
    ends = now + minutes * MINUTE
    while now < ends:
        shared, answer = take(shared, told, now)
        now += answer.wait or max(answer.room, 1)
    return shared, now


GAPS = st.lists(st.one_of(st.integers(0, 3 * SECOND), st.integers(0, 2 * MINUTE)), min_size=1, max_size=300)


@given(st.integers(2, 100), GAPS)
def test_no_minute_wherever_it_begins_holds_more_calls_than_the_limit(limit, gaps):
    """The upstream's windows may begin at any moment, the worst one too; both of a minute's ends count here."""
    times = granted(limit, accumulate(gaps, initial=START))

    assert fullest(times, MINUTE + 1) <= limit


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 10, 19, 20, 36, 40, 100, 1000])
@pytest.mark.parametrize("before", [0, 1, 3])
def test_a_caller_that_takes_all_it_gets_stays_within_every_window(limit, before):
    """A burst after a pause, and then as fast as it goes: the most that there can be."""
    times = greedy(limit, before) + greedy(limit, 3 * limit, START + 10 * MINUTE)

    assert fullest(times) <= limit
    assert fullest(times) >= limit - 1, "and little is given away"


@given(st.integers(2, 60), st.data())
def test_calls_that_are_held_up_on_their_way_by_less_than_a_space_stay_within_it_too(limit, data):
    """A window counts them as they come, not as they were let go."""
    times = greedy(limit, 3 * limit)
    most = spacing(limit)[1]
    late = data.draw(st.lists(st.integers(0, most), min_size=len(times), max_size=len(times)))

    assert fullest([time + held for time, held in zip(times, late, strict=True)]) <= limit


def test_forty_a_minute_are_a_burst_of_four_and_thirty_six():
    """What the hosted endpoint takes."""
    times = greedy(40, 400)

    assert spacing(40)[0] == 4
    assert times[:4] == [START] * 4
    assert times[-1] - times[4] == pytest.approx(395 * MINUTE / 36, rel=1e-4)


def test_who_is_turned_away_pays_nothing():
    """Asking ten times as often gets no fewer calls."""
    often = granted(40, range(START, START + 10 * MINUTE, SECOND // 10))

    assert len(often) >= 36 * 10


def test_a_refusal_lowers_the_limit_by_a_fifth_and_those_beside_it_do_nothing():
    """Calls that were in flight together are refused together."""
    shared = after(Shared(), 40, START)
    assert believed(shared, 40) == 32

    for late in range(20):
        shared = after(shared, 40, START + late * SECOND // 10)

    assert believed(shared, 40) == 32
    assert (shared.frozen_until, shared.in_a_row) == (START + 5 * SECOND, 0)


def test_it_is_lowered_once_a_minute_down_to_a_quarter():
    """A limit is the upstream's to say: below a quarter of it something else is wrong."""
    shared, limits = Shared(), []
    for minute in range(8):
        shared = after(shared, 40, START + minute * MINUTE)
        shared = after(shared, 40, START + minute * MINUTE + MINUTE - 1)
        limits.append(believed(shared, 40))

    assert limits == [32, 25, 20, 16, 12, 10, 10, 10]


@pytest.mark.parametrize(("told", "least"), [(1, 1), (2, 2), (3, 2), (8, 2), (100, 25), (0, 2)])
def test_some_calls_are_always_tried(told, least):
    """Or nobody would find out that there is room again."""
    shared = Shared()
    for minute in range(30):
        shared = after(shared, told, START + minute * MINUTE, sent=100)

    assert believed(shared, told) == least


def test_each_refusal_after_a_pause_doubles_the_next_up_to_a_minute():
    """Nobody says when the window ends."""
    shared, now, pauses = Shared(), START, []
    for _ in range(6):
        shared = after(shared, 40, now)
        pauses.append((shared.frozen_until - now) // SECOND)
        now = shared.frozen_until + SECOND
    assert pauses == [5, 10, 20, 40, 60, 60]

    now = shared.frozen_until + MINUTE
    assert after(shared, 40, now).frozen_until == now + 5 * SECOND, "a clean minute ends the row"


def test_what_the_upstream_asks_for_is_kept_and_only_lengthened():
    """It knows when its window ends."""
    shared = after(Shared(), 40, START, pause=30 * SECOND)
    assert shared.frozen_until == START + 30 * SECOND

    shared = after(shared, 40, START + SECOND, pause=3 * SECOND)
    assert shared.frozen_until == START + 30 * SECOND

    shared = after(shared, 40, START + SECOND, pause=90 * SECOND)
    assert shared.frozen_until == START + 91 * SECOND
    assert take(shared, 40, START + 2 * SECOND)[1] == Answer(89 * SECOND, 32, 89 * SECOND)


def test_after_a_pause_one_call_finds_out_and_no_burst():
    """The window that refused may not have ended."""
    shared = after(Shared(), 40, START)
    burst, every = spacing(32)
    thawed = shared.frozen_until

    assert burst > 1
    assert greedy(40, 3, START, shared) == [thawed, thawed + every, thawed + 2 * every]


def test_a_clean_minute_that_used_the_limit_up_gives_a_call_back_and_an_idle_one_nothing():
    """That nothing was refused says something only where as much was sent."""
    shared = after(Shared(), 40, START)

    used, _ = busy(shared, 40, shared.frozen_until, 4)
    idle, _ = take(shared, 40, START + 4 * MINUTE)

    assert believed(used, 40) in (34, 35)
    assert believed(idle, 40) == 32


def test_where_it_was_refused_it_waits_ten_minutes_before_it_goes_on_to_what_is_told():
    """Each trial may cost a refusal."""
    shared = after(Shared(), 40, START)

    shared, now = busy(shared, 40, shared.frozen_until, 9)
    assert believed(shared, 40) == 39
    shared, now = busy(shared, 40, now, 7)
    assert believed(shared, 40) == 39
    shared, now = busy(shared, 40, now, 4)

    assert (believed(shared, 40), shared.limit) == (40, 0)


def test_what_nobody_told_is_without_a_limit_until_it_refuses():
    """And nothing is kept of it."""
    assert take(Shared(), 0, START) == (Shared(), Answer(0, 0, 0))

    shared, answer = refused(Shared(), 0, START, pause=-1, sent=50, knew=False)

    assert (answer.limit, answer.wait) == (40, 5 * SECOND)
    assert shared.ceiling == 50


def test_another_gateway_that_is_refused_adds_what_it_sent():
    """The limit is for all, and the first one counted only its own calls."""
    shared = after(Shared(), 0, START, sent=50, knew=False)
    shared = after(shared, 0, START + SECOND, sent=30, knew=False)
    assert (shared.limit, shared.ceiling) == (64, 80)

    shared = after(shared, 0, START + 2 * SECOND, sent=30)
    assert shared.limit == 64, "one that keeps to it adds nothing"


def test_a_limit_that_nobody_told_grows_by_a_tenth_a_minute_past_where_it_was_refused():
    """It may be far away: the refusal may have come from a crowd that is gone."""
    shared = after(Shared(), 0, START, sent=100, knew=False)

    shared, now = busy(shared, 0, shared.frozen_until, 6)
    assert shared.limit == 99
    shared, now = busy(shared, 0, now, 30)

    assert shared.limit > 200
    assert not shared.ceiling


def test_what_was_learned_is_kept_for_an_hour():
    """Then a limit that is used has grown back, and of another nothing is known any more."""
    shared = after(Shared(), 40, START)
    assert kept_until(shared) == START + 60 * MINUTE

    plain, _ = take(Shared(), 40, START)
    assert kept_until(plain) == START + spacing(40)[1], "before a refusal there is nothing to keep but what was paid"


def test_a_file_that_tells_less_is_kept_to():
    """What was learned while it told more does not outlast it."""
    shared = after(Shared(), 40, START)

    assert believed(shared, 20) == 20


@pytest.mark.parametrize("back", [0, 1, 30, 61, 3600, 86_400])
def test_a_clock_that_steps_back_holds_nobody_up_for_more_than_a_minute(back):
    """A store's successor may be behind."""
    used, now = busy(Shared(), 40, START, 5)
    paused = after(used, 40, now, pause=(3600 if back > 60 else 60) * SECOND)

    for shared in (used, paused):
        times = greedy(40, 100, now - back * SECOND, shared)
        assert times[0] <= now - back * SECOND + 2 * MINUTE
        assert fullest(times) <= 40


@pytest.mark.parametrize("hidden", [20, 30, 12])
@pytest.mark.parametrize("begins", [0, 7, 29, 58])
def test_a_limit_that_is_lower_than_told_is_found_at_the_cost_of_a_few_refusals(hidden, begins):
    """Against the fixed window, whose phase is not known either."""
    shared, now, refusals, served = Shared(), START, [], []
    window = Window(hidden, 60, at_once=True, now=lambda: now / SECOND)
    window.refuses()
    now += begins * SECOND
    ends = now + 30 * MINUTE
    while now < ends:
        shared, answer = take(shared, 40, now)
        if answer.wait:
            now += answer.wait
        elif window.refuses():
            refusals.append(now)
            shared = after(shared, 40, now)
        else:
            served.append(now)

    assert sum(time < START + 10 * MINUTE for time in refusals) <= 8
    assert sum(time > ends - 10 * MINUTE for time in refusals) <= 2
    assert sum(time > ends - 10 * MINUTE for time in served) >= 0.9 * hidden * 10


def test_a_gateway_goes_by_what_it_last_heard():
    """It need not ask while there can be no room."""
    allowance = Allowance(40)
    assert (allowance.limit, allowance.wait(10.0)) == (40, 0.0)

    allowance.told(Answer(0, 40, 2 * SECOND), 10.0)

    assert [allowance.wait(now) for now in (10.0, 11.5, 12.0, 99.0)] == [2.0, 0.5, 0.0, 0.0]
    allowance.told(Answer(0, 0, 0), 11.0)
    assert (allowance.limit, allowance.wait(11.0)) == (0, 0.0), "the store has forgotten it"


def test_those_that_have_not_asked_yet_count_as_if_they_were_sent():
    """No more ask at once than there is room for: a burst at first, then what is left of it, then one."""
    allowance, now = Allowance(40), 10.0
    every = spacing(40)[1] / SECOND

    def fit():
        """Hold as many as there is room for."""
        allowance.held = 0
        while not allowance.wait(now):
            allowance.held += 1
        return allowance.held

    assert fit() == 4
    assert allowance.wait(now) == pytest.approx(every)
    shared = Shared()
    for left in (3, 2, 1, 0):
        shared, answer = take(shared, 40, int(now * SECOND))
        allowance.told(answer, now)
        assert fit() == left
    now += every + 0.01
    assert fit() == 1
    allowance.limit, allowance.held = 0, 100
    assert allowance.wait(now) == 0.0, "where no limit is known nobody waits"


def test_calls_of_the_last_minute_are_counted():
    """What a limit begins with that nobody told."""
    allowance = Allowance()
    for second in range(120):
        allowance.sent(600.0 + second)

    assert allowance.in_a_minute(719.0) == pytest.approx(60, abs=1)
    assert allowance.in_a_minute(735.0) == 45
    assert allowance.in_a_minute(900.0) == 0


def test_a_place_becomes_dear_while_calls_find_none_and_cheap_again():
    """Dual ascent: up by a twentieth of a typical price, down by a fiftieth, and by half in 30 s of room."""
    allowance = Allowance(40)
    assert allowance.shadow(10.0) == 0
    allowance.told(Answer(0, 40, SECOND), 10.0)

    allowance.missed(1000, 10.0)
    assert allowance.shadow(10.0) == 50
    allowance.missed(1000, 10.5)
    assert allowance.shadow(11.0) == 100
    allowance.granted(1000, 11.0)
    assert allowance.shadow(11.0) == 98

    assert allowance.shadow(41.0) == 49
    assert allowance.shadow(1000.0) == 0


def test_a_crowd_that_is_turned_away_makes_no_place_dearer_than_ten_calls():
    """What is scarce for long is no reason to wait without an end."""
    allowance = Allowance(40)
    for _ in range(10_000):
        allowance.missed(1000, 10.0)

    assert allowance.shadow(10.0) == 10_000


def test_what_it_costs_is_a_mean_and_an_unknown_price_says_nothing():
    """One dear call is not a typical one."""
    allowance = Allowance(40)
    allowance.missed(0, 10.0)
    assert allowance.shadow(10.0) == 0

    allowance.granted(1000, 10.0)
    allowance.missed(101_000, 10.0)

    assert allowance.shadow(10.0) == 300


def test_alone_a_gateway_keeps_to_half_and_begins_without_a_burst():
    """There may be one other, and nobody knows what it has just sent."""
    allowance, now, times = Allowance(40), 1000.0, []
    while now < 1600.0:
        if not allowance.alone(now).wait:
            times.append(int(now * SECOND))
        now += 0.1

    assert len(times) == pytest.approx(180, abs=3)
    assert fullest(times) <= 20
    assert sum(time < 1001 * SECOND for time in times) == 1
    assert allowance.limit == 40


def test_a_refusal_that_nobody_can_be_told_of_is_kept_to():
    """Until the store is back, which knows nothing of it."""
    allowance = Allowance(40)
    allowance.refused_alone(-1, 1000.0)
    assert (allowance.wait(1000.0), allowance.limit) == (5.0, 40)
    assert allowance.alone(1006.0).wait == 0

    unknown = Allowance()
    for _ in range(50):
        unknown.sent(1000.0)
    unknown.refused_alone(2 * SECOND, 1000.0)
    assert (unknown.wait(1000.0), unknown.limit) == (2.0, 40)

    unknown.told(Answer(0, 0, 0), 1001.0)
    assert (unknown.wait(1001.0), unknown.limit) == (0.0, 0)
