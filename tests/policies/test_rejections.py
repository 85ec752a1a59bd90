from policies.rejections import SHAPES, Reason, Rejection


def test_every_reason_has_a_status_and_a_type():
    """The set is closed."""
    assert set(SHAPES) == set(Reason)
    assert all(400 <= shape.status < 600 for shape in SHAPES.values())


def test_only_limits_answer_429():
    """A full gateway or a failed upstream is not the caller's quota."""
    limits = {Reason.RATE_LIMITED, Reason.TOO_LARGE_FOR_LIMIT, Reason.SPENT}

    assert {r for r, s in SHAPES.items() if s.status == 429} == limits
    assert Rejection(Reason.STORE_DOWN, "x").shape.status == 503


def test_a_spent_quota_is_told_as_openai_tells_it():
    """Its SDKs and those built on them look for this code and type."""
    no = Rejection(Reason.SPENT, "x")

    assert (no.reason.value, no.shape.type) == ("insufficient_quota", "insufficient_quota")
