import pytest

from policies.simulation.hardware import H100_X4, H200_X2, H200_X8, MACHINES


def test_a_long_prompt_takes_more_than_its_share():
    """A token attends to all before it: 100,000 tokens are 4 to 9 s of eight H200."""
    short, long = H200_X8.prefill(0, 1_000), H200_X8.prefill(0, 100_000)
    assert long > 100 * short
    assert 4.0 < long < 9.0


def test_a_cached_beginning_spares_its_own_work_only():
    """Prefill may be cut anywhere: the parts cost what the whole costs."""
    whole = H200_X8.prefill(0, 10_000)
    assert H200_X8.prefill(0, 4_000) + H200_X8.prefill(4_000, 6_000) == pytest.approx(whole)


def test_a_call_that_decodes_with_others_takes_up_less():
    """The weights are read once a step for all calls of a batch: what a call costs depends on its company."""
    alone, shared = H200_X8.work(1_000, 0, 500, batch=1), H200_X8.work(1_000, 0, 500, batch=50)
    assert shared < alone / 2
    assert H200_X8.work(1_000, 512, 500, batch=1) < alone


def test_more_cards_do_more():
    """Each preset must be better than the next smaller one in every way, or one of its figures is wrong."""
    assert set(MACHINES.values()) == {H200_X8, H100_X4, H200_X2}
    for large, small in ((H200_X8, H100_X4), (H100_X4, H200_X2)):
        assert large.prefill_rate > small.prefill_rate
        assert large.attention < small.attention
        assert large.step < small.step
        assert large.per_context < small.per_context
        assert large.room > small.room
        assert small.chunk > small.sequences
