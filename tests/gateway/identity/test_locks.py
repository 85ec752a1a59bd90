import pytest

from gateway.identity.keys import digest
from gateway.identity.locks import EXPIRED, REVOKED, UNKNOWN, lock_of
from gateway.identity.records import Former, KeyRecord
from policies.rejections import Reason

NEW, OLD = b"sw_new", b"sw_old"
NOW = 1_000_000.0


def lock(**fields):
    fields = {"digest": digest(NEW).hex()} | fields
    return lock_of(KeyRecord(key_id="k", organization="o", team="t", name="n", created=1, **fields))


def test_the_secret_opens_and_no_other_does():
    """From anywhere, and for good, where nothing else is said."""
    assert lock().refusal(NEW, "", NOW) is None
    assert lock().refusal(OLD, "", NOW) is UNKNOWN


def test_the_secret_before_opens_until_its_time_is_over():
    """So that a key can be replaced without an outage; the new one opens from the first moment on."""
    rotated = lock(former=Former(digest(OLD).hex(), 1_000_010))

    assert rotated.refusal(OLD, "", NOW) is None
    assert rotated.refusal(OLD, "", NOW + 9.999) is None
    assert rotated.refusal(OLD, "", NOW + 10) is UNKNOWN
    assert rotated.refusal(NEW, "", NOW + 10) is None


def test_a_key_ends_at_its_second():
    """`expires` is the first moment at which it is no good."""
    ending = lock(expires=1_000_010)

    assert ending.refusal(NEW, "", NOW + 9.999) is None
    assert ending.refusal(NEW, "", NOW + 10) is EXPIRED


@pytest.mark.parametrize(
    ("networks", "address", "opens"),
    [
        (("10.0.0.0/8",), "10.255.0.1", True),
        (("10.0.0.0/8",), "11.0.0.1", False),
        (("10.0.0.0/8",), "::ffff:10.255.0.1", True),
        (("::ffff:10.0.0.0/104",), "10.255.0.1", True),
        (("::ffff:10.0.0.0/104",), "::ffff:11.0.0.1", False),
        (("192.168.1.7",), "192.168.1.7", True),
        (("192.168.1.7/24",), "192.168.1.200", True),
        (("2001:db8::/32",), "2001:db8:ffff::1", True),
        (("2001:db8::/32",), "10.0.0.1", False),
        (("::/0",), "10.0.0.1", False),
        (("10.0.0.0/8", "2001:db8::/32"), "2001:db8::1", True),
        (("10.0.0.0/8",), "", False),
        (("10.0.0.0/8",), "unix:/run/x", False),
        (("no network", "10.0.0.0/8"), "10.0.0.1", True),
        (("no network",), "10.0.0.1", False),
        ((), "10.0.0.1", False),
    ],
)
def test_a_key_opens_from_its_networks_only(networks, address, opens):
    """An IPv4 address is the same however it is written; what nobody can read lets nobody in."""
    refusal = lock(networks=networks).refusal(NEW, address, NOW)

    assert (refusal is None) is opens
    if not opens:
        assert refusal.reason is Reason.NOT_ALLOWED
        assert (address or "(none)") in refusal.message
        assert "10.0.0.0" not in refusal.message


def test_who_does_not_hold_the_secret_learns_nothing_of_the_key():
    """Not that it was revoked, nor that it has ended, nor from where it may be used."""
    shut = lock(revoked=True, expires=1, networks=())

    assert shut.refusal(b"guess", "", NOW) is UNKNOWN
    assert shut.refusal(NEW, "", NOW) is REVOKED


@pytest.mark.parametrize("written", ["", "zz", "not hex"])
def test_a_digest_that_nobody_can_read_opens_for_nobody(written):
    """And no caller sees an error of ours."""
    broken = lock(digest=written, former=Former(written, 2_000_000))

    assert broken.refusal(NEW, "", NOW) is UNKNOWN
    assert broken.refusal(b"", "", NOW) is UNKNOWN
