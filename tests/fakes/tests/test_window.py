from tests.fakes.window import Window


def test_a_window_begins_with_its_first_call_and_refused_calls_do_not_lengthen_it():
    """Fixed, not sliding: what was refused is counted, and forgotten at the end with the rest."""
    clock = [100.0]
    window = Window(2, 60, at_once=True, now=lambda: clock[0])
    assert [window.refuses() for _ in range(4)] == [False, False, True, True]
    clock[0] += 59
    assert (window.refuses(), window.counted) == (True, 5)
    clock[0] += 1
    assert (window.refuses(), window.counted) == (False, 1)


def test_a_call_is_refused_only_where_an_earlier_one_was_too_many():
    """The check runs beside the call; what it found is known for a window's length."""
    clock = [0.0]
    window = Window(1, 60, at_once=False, now=lambda: clock[0])
    assert [window.refuses() for _ in range(3)] == [False, False, True]
    clock[0] = 61.0
    assert [window.refuses() for _ in range(3)] == [False, False, True], "forgotten: one slips through again"
    clock[0] = 120.0
    assert window.refuses()
    clock[0] = 122.0
    assert [window.refuses() for _ in range(2)] == [False, True], "still known: the first too many is refused"
