import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.line import CLIP, CONVERGED, RANGE, Factor, Line


def learn(line, truth, works, *, noise=0.2, outliers=0.0, seed=0):
    """Show a line samples of the `truth`, with lognormal noise and some outliers of 20 times."""
    dice = random.Random(seed)
    for work in works(dice):
        seen = (truth[0] + truth[1] * work) * math.exp(dice.gauss(0, noise))
        line.take(work, seen * 20 if dice.random() < outliers else seen)


def prompts(count):
    return lambda dice: [dice.lognormvariate(7, 1.5) for _ in range(count)]


def off(line, truth):
    """Return the largest error over three sizes of prompt, as a logarithm."""
    return max(
        abs(math.log((line.fixed + line.slope * work) / (truth[0] + truth[1] * work))) for work in (100, 1000, 10_000)
    )


@pytest.mark.parametrize(("truth", "samples"), [((0.05, 1 / 30_000), CONVERGED), ((0.2, 1 / 3000), CONVERGED)])
def test_a_line_is_learned_within_a_stated_number_of_samples(truth, samples):
    """In nine of ten runs."""
    errors = []
    for seed in range(50):
        line = Line(0.2, 1 / 12_000)
        learn(line, truth, prompts(samples), seed=seed)
        errors.append(off(line, truth))
    assert sorted(errors)[45] < 0.4


def test_outliers_move_little():
    """One of twenty samples is twenty times what it should be: a stopped process, a lost packet."""
    truth, errors = (0.2, 1 / 12_000), []
    for seed in range(50):
        line = Line(*truth)
        learn(line, truth, prompts(60), outliers=0.05, seed=seed)
        errors.append(off(line, truth))
    assert sorted(errors)[45] < 0.4


def test_a_line_follows_what_lasts_and_comes_back_to_what_is_usual():
    """It is shared by many: no sample moves it far."""
    line = Line(0.2, 1 / 12_000)
    learn(line, (0.2, 1 / 12_000), prompts(200))
    before = line.at(1_000)
    line.take(1_000, 100 * before)
    line.take(1_000, 100 * before)
    assert line.at(1_000) < 1.6 * before
    learn(line, (2.0, 10 / 12_000), prompts(40))
    slow = line.at(1_000)
    assert slow > 5 * before
    line.relax(0.0)
    assert line.at(1_000) < slow / 2


def factor_of(*logs):
    factor = Factor()
    for log in logs:
        factor.take(log)
    return factor


def test_a_factor_is_followed_and_its_usual_is_come_back_to():
    """By the share that is not kept."""
    factor = factor_of(*[0.5] * 100)
    assert factor.log == pytest.approx(0.5, abs=0.01)
    for _ in range(4):
        factor.take(3.0)
    high = factor.log
    assert high > 2.0
    factor.relax(0.5)
    assert factor.log == pytest.approx((high + factor.usual) / 2)
    factor.relax(0.0)
    assert factor.log == factor.usual < 0.8


def test_a_factor_takes_one_outlier_for_an_outlier_and_two_for_a_change():
    """Within two samples it follows as far as a sample may move it."""
    factor = factor_of(*[0.0] * 50)
    factor.take(3.0)
    assert factor.log < 0.1
    factor.take(3.0)
    assert factor.log > CLIP


def test_doubt_believes_the_next_samples_more():
    """Whoever comes back may be another machine."""
    sure, doubted = factor_of(*[0.0] * 50), factor_of(*[0.0] * 50)
    doubted.doubt()
    for factor in (sure, doubted):
        factor.take(1.0)
    assert doubted.log > 2 * sure.log


@given(st.lists(st.floats(-1e6, 1e6), max_size=100))
def test_a_factor_stays_within_bounds(samples):
    """Whatever is seen."""
    factor = factor_of(*samples)
    assert abs(factor.log) <= RANGE
    assert abs(factor.usual) <= RANGE


@given(st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 1e9)), max_size=200))
def test_whatever_is_seen_all_stays_finite_and_within_bounds(samples):
    """No sample, or row of them, breaks a line."""
    line = Line(0.2, 1e-4)
    for work, seen in samples:
        line.take(work, seen)
    assert abs(math.log(line.fixed / 0.2)) <= RANGE + 1e-9
    assert abs(math.log(line.slope / 1e-4)) <= RANGE + 1e-9
    assert CLIP < RANGE


def test_what_samples_do_not_tell_of_stays_near_its_prior():
    """Only tiny prompts for a day, with slow spells: what is believed of a long prompt is not lost."""
    line, dice = Line(0.1, 1 / 12_000), random.Random(1)
    for call in range(20_000):
        work = dice.uniform(5, 60)
        spell = 4.0 if call % 500 < 60 else 1.0
        line.take(work, spell * (0.1 + work / 12_000) * math.exp(dice.gauss(0, 0.5)))

    assert 1.0 < line.at(40_000) < 12.0
