from policies.simulation.faults import FaultKind, black_hole, cold, crash, dead_gateway, slow, stall, storm


def test_each_kind_has_its_maker():
    """A report that names a fault must not have to know how it is told."""
    made = [
        crash(1, 2), black_hole(1, 2), stall(1, 8), slow(1, 2, 4), storm(1, 2), cold(1), dead_gateway(1, 2),
    ]  # fmt: skip
    assert {fault.kind for fault in made} == set(FaultKind)


def test_a_stall_is_told_by_its_length_and_slowness_by_how_many_times():
    """Both are how operators say it."""
    assert stall(10, 8).until == 18
    assert slow(1, 2, times=4).speed == 0.25
