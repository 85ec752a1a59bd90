"""The measurement of two workers beside one process, with few rounds; and what it tells."""

import statistics

import pytest
import uvloop

from tests.bench.__main__ import upstream
from tests.bench.workers import Round, ratios, run, told

MOST = 1.5
"""Times the processor time a call that two workers may take; measured: 1.06, in single rounds 0.98 to 1.15."""


@pytest.mark.ci
@pytest.mark.timeout(180)
def test_a_call_takes_of_two_workers_what_it_takes_of_one_process(tmp_path):
    """Whatever the cores are, and both answer their share; in rounds that take turns."""
    with upstream() as url:
        pairs = uvloop.run(run(url, tmp_path, callers=64, rounds=5, seconds=1.0))

    print("\n" + "\n".join(told(pairs)))
    assert statistics.median(ratios(pairs)) <= MOST
    assert statistics.median(two.lesser for _, two in pairs) >= 0.2


def test_what_is_told_are_medians_and_the_span_of_the_ratio():
    """A round that something else disturbed is no figure."""
    one, two, disturbed = Round(1000, 100.0, 1.0), Round(1500, 120.0, 0.5), Round(10, 1000.0, 0.1)

    assert told([[one, two], [one, two], [one, disturbed]]) == [
        "1 worker(s): 1,000 calls/s, 100 us of a core a call",
        "2 worker(s): 1,500 calls/s, 120 us of a core a call, the idler one answers 50%",
        "2 workers : 1 worker, processor time a call: 1.20 (1.20 to 10.00 in 3 rounds)",
    ]
