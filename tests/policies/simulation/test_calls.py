from policies.simulation.calls import Call


def test_an_answer_ends_at_its_bound():
    """Callers send max_tokens, and engines keep to it, whatever the model would have said."""
    call = Call(0, 0.0, "tenant", "session", (1,), 100, 50)
    assert call.answer == 50
    assert Call(0, 0.0, "tenant", "session", (1,), 100, 50, bound=20).answer == 20
    assert Call(0, 0.0, "tenant", "session", (1,), 100, 50, bound=80).answer == 50
