from policies.rejections import SHAPES, Reason, Rejection


def test_every_reason_has_a_status_and_a_type():
    """The set is closed."""
    assert set(SHAPES) == set(Reason)
    assert all(400 <= shape.status < 600 for shape in SHAPES.values())


def test_only_limits_answer_429():
    """A full gateway or a failed upstream is not the caller's quota."""
    assert {r for r, s in SHAPES.items() if s.status == 429} == {Reason.RATE_LIMITED, Reason.TOO_LARGE_FOR_LIMIT}
    assert Rejection(Reason.STORE_DOWN, "x").shape.status == 503
