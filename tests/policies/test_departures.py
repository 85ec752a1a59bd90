import pytest

from policies.departures import LONGEST, Pace, pace_of


@pytest.mark.parametrize(
    ("rooms", "seconds"),
    [([(8.0, 4)], 2.0), ([(8.0, 4), (4.0, 2)], 1.0), ([(60.0, 30)], 2.0), ([(0.0, 4)], LONGEST), ([], LONGEST)],
)
def test_the_pace_to_expect_is_littles(rooms, seconds):
    """Four places for eight seconds each: one every two seconds."""
    assert pace_of(rooms) == seconds


def departing(*times, known=1.0):
    pace = Pace()
    pace.begins(0.0)
    for at in times:
        pace.departs(known, at)
    return pace


TENTHS = [number / 10 for number in range(1, 301)]
"""Half a minute of ten departures a second."""


def test_before_anything_was_seen_the_known_pace_holds():
    assert departing().interval(7.0, 0.0) == 7.0


@pytest.mark.parametrize("together", [1, 8, 100])
def test_places_that_become_free_together_are_told_rightly(together):
    """Engines end the calls of one batch at about the same time; the mean over the time between is the pace."""
    times = (at + 0.001 * number for at in range(8, 160, 8) for number in range(together))
    pace = departing(*times)

    assert pace.interval(1.0, 156.0) == pytest.approx(8 / together, rel=0.2)


def test_one_long_silence_is_an_outlier_when_it_is_over():
    """While it lasts it is the best that is known."""
    pace = departing(*TENTHS)

    assert pace.interval(1.0, 30.0) == pytest.approx(0.1, rel=0.05)
    assert pace.interval(1.0, 330.0) > 1.0
    pace.departs(1.0, 330.0)
    assert pace.interval(1.0, 330.0) < 0.2


def test_a_slower_pace_is_learned():
    """Although at first each of its departures is held for a fault."""
    pace = departing(*TENTHS, *(30.0 + 40 * number for number in range(1, 13)))

    assert pace.interval(10.0, 510.0) == pytest.approx(40.0, rel=0.2)


def test_what_is_expected_counts_ever_less():
    """One departure leaves a quarter of it."""
    assert [departing(*TENTHS[:number]).doubt for number in range(2)] == [1.0, pytest.approx(0.25, rel=0.01)]
    assert departing(*TENTHS).doubt < 0.001
