from gateway.ledger.holdings import Holdings, Open
from gateway.ledger.plans import Packed
from policies.domain import Bill, Usage

PACKED = Packed(b"", (), {}, 0, 1)


def test_what_is_known_is_what_is_open_or_being_settled():
    holding = Holdings().get("acme")
    holding.open["1"] = Open(PACKED)
    holding.settling |= {"2", "3"}

    assert holding.known == 3


def test_only_what_has_used_tokens_is_told_as_counted():
    holding = Holdings().get("acme")
    holding.open = {id_: Open(PACKED) for id_ in "123"}
    bill = Bill(Usage(3, 4, estimated=True), money=5, deployment="a/m")
    holding.open["2"].so_far = lambda: bill
    holding.open["3"].so_far = lambda: Bill(Usage(0, 0, estimated=True))

    assert holding.counts() == {"2": bill}


def test_an_organization_has_one_part_until_it_is_forgotten():
    holdings = Holdings()
    assert "acme" not in holdings
    acme = holdings.get("acme")

    assert "acme" in holdings
    assert holdings.get("acme") is acme
    assert holdings.all() == [acme]
    holdings.forget(acme)
    assert holdings.all() == []


def test_what_was_lost_is_counted_since_the_start_and_not_forgotten_with_its_organization():
    holdings = Holdings()
    acme = holdings.get("acme")
    acme.lost = 2
    holdings.forget(acme)
    holdings.get("bolt").lost = 3

    assert holdings.lost == 5
