from gateway.ledger.holdings import Holdings, Open


def test_what_is_known_is_what_is_open_or_being_settled():
    holding = Holdings().get("acme")
    holding.open["a"] = Open()
    holding.settling |= {"b", "c"}

    assert holding.known == 3


def test_only_what_was_counted_is_told_as_counted():
    holding = Holdings().get("acme")
    holding.open = {"a": Open(), "b": Open()}
    holding.open["b"].counted = lambda: 7

    assert holding.counts() == {"b": 7}


def test_an_organization_has_one_part_until_it_is_forgotten():
    holdings = Holdings()
    acme = holdings.get("acme")

    assert holdings.get("acme") is acme
    assert holdings.all() == [acme]
    holdings.forget(acme)
    assert holdings.all() == []
