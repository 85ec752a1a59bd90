import pytest

from gateway.ledger.queues import MOST_OPERATIONS, PATIENT_SHARE, Queue
from tests.gateway.ledger.support import Noted


def queue(urgent=0, patient=0):
    """Return a queue with so many operations of each."""
    made = Queue()
    made.urgent.extend(Noted(f"w{i}") for i in range(urgent))
    made.patient.extend(Noted(f"s{i}", urgent=False) for i in range(patient))
    return made


def take(made):
    return [operation.name for operation in made.take()]


@pytest.mark.parametrize(
    ("urgent", "patient", "settlements", "others"),
    [
        (0, 0, 0, 0),
        (3, 2, 2, 3),
        (40, 0, 0, MOST_OPERATIONS),
        (0, 40, MOST_OPERATIONS, 0),
        (40, 40, PATIENT_SHARE, MOST_OPERATIONS - PATIENT_SHARE),
        (40, 3, 3, MOST_OPERATIONS - 3),
        (10, 40, MOST_OPERATIONS - 10, 10),
    ],
)
def test_settlements_go_first_and_take_at_most_half_of_what_others_need(urgent, patient, settlements, others):
    made = queue(urgent, patient)

    assert take(made) == [*(f"s{i}" for i in range(settlements)), *(f"w{i}" for i in range(others))]
    assert (len(made.patient), len(made.urgent)) == (patient - settlements, urgent - others)


def test_what_nobody_wants_any_more_is_dropped_and_makes_room():
    made = queue(urgent=MOST_OPERATIONS + 2)
    for gone in (0, 5):
        made.urgent[gone].is_wanted = False

    assert take(made) == [f"w{i}" for i in range(MOST_OPERATIONS + 2) if i not in {0, 5}]
    assert not made.urgent
