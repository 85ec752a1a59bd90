import msgspec
import pytest

from policies.deadlines import asked_total, first_content, stall, whole_answer
from policies.domain import Deadlines
from policies.rejections import Reason, Rejection
from tests.policies.builders import candidate


def test_a_stream_gets_three_times_its_latest_first_token_within_bounds():
    """10 to 120 seconds, by what comes 19 times of 20 and not by the mean."""
    usual = Deadlines()
    late = msgspec.structs.replace(candidate(ttft=1.0), latest=20.0)

    assert first_content(candidate(ttft=0.1), usual, last=False) == 10.0
    assert first_content(candidate(ttft=20.0), usual, last=False) == 60.0
    assert first_content(late, usual, last=False) == 60.0
    assert first_content(candidate(ttft=1000.0), usual, last=False) == 120.0


def test_the_last_that_can_be_tried_gets_the_most():
    """To give up is to try elsewhere, and there is no elsewhere."""
    assert first_content(candidate(ttft=0.1), Deadlines(), last=True) == 120.0


def test_a_models_own_deadlines_count_as_they_are():
    """Whoever sets them knows the model better than any prediction."""
    set_by_hand = Deadlines(first_content=1.5, stall=2.0)

    assert first_content(candidate(ttft=20.0), set_by_hand, last=False) == 1.5
    assert first_content(candidate(ttft=20.0), set_by_hand, last=True) == 1.5
    assert (stall(set_by_hand, 30.0), stall(Deadlines(), 30.0)) == (2.0, 30.0)


def test_a_plain_answer_gets_at_least_a_minute():
    """Its head comes with its end."""
    assert whole_answer(candidate(seconds=1.0)) == 60.0
    assert whole_answer(candidate(seconds=50.0)) == 150.0


def test_a_caller_may_lower_the_deadline_and_never_raise_it():
    """Whole seconds or parts of one."""
    assert [asked_total(told, 900.0) for told in (None, b"2.5", b" 30 ", b"1000")] == [900.0, 2.5, 30.0, 900.0]


@pytest.mark.parametrize("told", [b"", b"0", b"0.0", b"-1", b"soon", b"1e3", b"inf", b"nan", b"5s", b"\xff"])
def test_a_deadline_that_is_no_number_is_refused_by_its_header(told):
    """Told in words that name it."""
    no = asked_total(told, 900.0)

    assert isinstance(no, Rejection)
    assert (no.reason, no.param) == (Reason.BAD_MEMBER, "x-request-timeout")
    assert "x-request-timeout" in no.message
