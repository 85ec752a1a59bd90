from gateway.ledger.contact import Contact


def test_contact_begins_anew_after_a_loss_or_a_long_silence():
    contact = Contact(gap=10.0)
    assert contact.since(0.0) is None

    for now in (1.0, 9.0, 19.0):
        contact.made(now)
    assert contact.since(29.0) == 1.0
    assert contact.since(30.0) is None

    contact.made(30.0)
    assert contact.since(30.0) == 30.0

    contact.lost()
    assert contact.since(30.0) is None
    contact.made(31.0)
    assert contact.since(31.0) == 31.0
