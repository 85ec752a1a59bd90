import msgspec
import pytest

from gateway.identity.records import (
    PREFIX,
    DrainRecord,
    Former,
    KeyRecord,
    OrganizationRecord,
    PlanRecord,
    Record,
    TeamRecord,
    TokenRecord,
    key_of,
)
from gateway.ledger.wire import stem

ALL = [
    OrganizationRecord(name="acme"),
    TeamRecord(organization="acme", name="lab"),
    KeyRecord(key_id="k", organization="acme", team="lab", name="ci", digest="aa", former=Former("bb", 5), created=1),
    PlanRecord(name="p", plan={"requests_per_minute": 5}),
    DrainRecord(backend="gpu@10.0.0.1:8000"),
    TokenRecord(token="corp/ab", seconds=60),
]


@pytest.mark.parametrize("record", ALL, ids=lambda record: record.kind)
def test_a_record_is_the_same_after_json(record):
    """What is left out has its default, so that fields can be added."""
    assert msgspec.json.decode(msgspec.json.encode(record), type=type(record)) == record


def test_every_kind_has_its_own_place():
    """All in one slot of a cluster, and none where an organization's books could be."""
    places = [key_of(record.kind, record.id) for record in ALL]

    assert len(set(places)) == len(ALL) == len({record.kind for record in ALL})
    assert all(place.startswith(PREFIX) for place in places)
    assert key_of("team", ALL[1].id) == f"{PREFIX}team:acme/lab"
    assert not PREFIX.startswith(stem("id"))


def test_only_revoked_tokens_are_forgotten_by_the_store():
    """When they would have ended by themselves."""
    assert [record.kept for record in ALL] == [0, 0, 0, 0, 0, 60]


def test_a_record_of_no_kind_has_no_name():
    """Every kind says which of its fields it goes by."""
    with pytest.raises(NotImplementedError):
        _ = Record().id
