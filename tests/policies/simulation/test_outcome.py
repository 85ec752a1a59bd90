import pytest

from policies.simulation.calls import Call
from policies.simulation.outcome import Served, outcome, quantile, spread, ttft_target


def call(number=0, *, prompt=1000, output=101):
    return Call(number, float(number), "t", "s", (), prompt, output)


def served(number=0, *, first=1.0, ended=2.0, place=0, **more):
    return Served(call(number), first=first, ended=ended, place=place, attempts=1, **more)


def test_a_long_prompt_has_more_time():
    """Goodput must not call a prompt of 100,000 tokens late that no machine could have prefilled in two seconds."""
    assert ttft_target(call(prompt=1000)) == 2.0
    assert ttft_target(call(prompt=50_000)) == 10.0


def test_a_call_is_good_that_kept_both_targets():
    """A stream that begins at once and then crawls is of no use, nor the other way round."""
    assert served(first=1.9, ended=6.8).good
    assert not served(first=2.1, ended=6.0).good
    assert not served(first=1.0, ended=6.2).good
    assert not served(first=1.0, ended=None).good


def test_the_first_calls_only_warm_up():
    """Empty caches and queues say nothing of a policy."""
    late = [served(number, first=9.0, ended=9.5) for number in range(10)]
    good = [served(number) for number in range(10, 100)]
    assert outcome("p", late + good, 2).goodput == 1.0
    assert outcome("p", good + late, 2).goodput < 1.0


def test_a_failed_call_is_not_good_and_has_no_times():
    """Who answers nobody would have the best latency of all."""
    found = outcome("p", [served(0), served(1, first=None, ended=None, place=-1)], 1)
    assert (found.goodput, found.failed, found.ttft.p99) == (0.5, 0.5, 1.0)


def test_imbalance_is_of_the_work_that_our_own_replicas_did():
    """Cached tokens are no work, and the hosted endpoint has room of its own."""
    calls = [served(0, place=0), served(1, place=0), served(2, place=0), served(3, place=1), served(4, place=2)]
    assert outcome("p", calls, 2).imbalance == pytest.approx(1.5)


def test_quantiles_are_values_that_were_seen():
    """A tail of few calls must not be made up between two of them."""
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.99) == 4.0
    assert spread([]).p99 == 0.0


def test_nothing_called_is_an_error():
    """A run of no calls must not look like a perfect one."""
    with pytest.raises(ValueError, match="no outcome"):
        outcome("p", [], 1)
