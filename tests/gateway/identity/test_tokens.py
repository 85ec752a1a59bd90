import json

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.identity import tokens
from gateway.identity.tokens import (
    MOST_KEYS,
    NO_KID,
    SIGNATURE,
    UNFIT_KEY,
    UNKNOWN_KID,
    BadKeysError,
    read_keys,
)
from policies.tokens import Refused, read_token
from tests.fakes.identity_provider import digits, new_key

ALL = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")


def key_set(*keys):
    return read_keys(json.dumps({"keys": [getattr(key, "entry", key) for key in keys]}).encode())


def refused(call, *arguments):
    with pytest.raises(Refused) as caught:
        call(*arguments)
    return caught.value.rejection


def signed(key, **header):
    return read_token(key.sign({"sub": "ada"}, **header).encode())


def private_entry(key):
    """Tell a key as an issuer does that publishes the wrong half of it."""
    return (
        {"kid": key.kid}
        | jwt.get_algorithm_by_name(key.algorithm).to_jwk(key.private, as_dict=True)
        | {"key_ops": ["verify"]}
    )


@pytest.mark.parametrize("algorithm", ALL)
def test_a_key_verifies_what_it_signed_by_each_algorithm(algorithm):
    """Those of RFC 7518 with a public key, and EdDSA."""
    key = new_key(algorithm)
    keys = key_set(key)

    assert keys.signer(signed(key)).kid == "k1"
    assert refused(keys.signer, signed(new_key(algorithm, number=1))) == SIGNATURE


def test_eddsa_is_for_ed448_too():
    """RFC 8037 has one name for both curves."""
    key = new_key("EdDSA", size=448)

    assert key_set(key).signer(signed(key)).algorithms == {"EdDSA"}


@pytest.mark.parametrize("algorithm", ALL)
@pytest.mark.parametrize("kind", ["RS256", "ES256", "ES384", "ES512", "EdDSA"])
def test_a_key_is_for_the_algorithms_of_its_type_and_curve(kind, algorithm):
    """Also where its entry does not say which: whoever sends the token may not choose (RFC 8725 3.1)."""
    keys = key_set(new_key(kind, alg=None))
    token = signed(new_key(algorithm))
    own = algorithm[0] in "RP" if kind == "RS256" else algorithm == kind

    if own:
        assert keys.signer(token).kid == "k1"
    else:
        assert refused(keys.signer, token) == UNFIT_KEY


def test_a_key_that_says_its_algorithm_is_for_no_other():
    """RFC 7517 4.4."""
    keys = key_set(new_key(alg="RS512"))

    assert refused(keys.signer, signed(new_key())) == UNFIT_KEY


@pytest.mark.parametrize(
    "entry",
    [
        new_key(size=1024).entry,
        new_key(use="enc").entry,
        new_key(use=7).entry,
        new_key(key_ops=["sign"]).entry,
        new_key(key_ops="verify").entry,
        new_key(alg="RSA-OAEP").entry,
        new_key(alg="none").entry,
        private_entry(new_key("ES256")),
        private_entry(new_key("EdDSA")),
        private_entry(new_key()),
        new_key(kid="").entry,
        new_key(e="AQ").entry,
        new_key(e=digits((2**65 + 1).to_bytes(9, "big"))).entry,
        new_key(n=None).entry,
        new_key(n=7).entry,
        new_key(n="!").entry,
        new_key(kty="EC").entry,
        new_key("ES256", crv="P-384").entry,
        new_key("ES256", crv="secp256k1", alg=None).entry,
        new_key("ES256", crv=["P-256"]).entry,
        new_key("ES256", x="AA").entry,
        new_key("ES256", y=new_key("ES256").entry["x"]).entry,
        new_key("EdDSA", x="AA").entry,
        new_key("EdDSA", crv="X25519").entry,
        {"kty": "oct", "kid": "k1", "k": "AAAA", "alg": "HS256"},
        {"kty": ["RSA"], "kid": "k1"},
        {"kid": 1} | {"kty": "RSA"},
        {},
        None,
        [],
        "k1",
    ],
    ids=lambda _: "entry",
)
def test_what_is_no_key_for_signatures_is_passed_over(entry):
    """And the good ones of the set are kept: issuers have keys for encryption, and add types we do not know."""
    good = new_key("EdDSA", "good")
    keys = key_set(entry, good)

    assert len(keys.fingerprints) == 1
    assert keys.signer(signed(good)).kid == "good"


def test_a_number_that_is_a_megabyte_long_is_not_even_computed(monkeypatch):
    """The set may be that large, and each of its hundred keys with it."""
    entry = new_key().entry | {"n": "_" * 1_000_000}
    monkeypatch.setitem(tokens._READERS, "RSA", lambda _: pytest.fail("it was computed"))

    assert key_set(entry).fingerprints == frozenset()


@pytest.mark.parametrize(
    "document", [b"", b"[]", b"{}", b'{"keys":{}}', b'{"keys":null}', b'{"keys":[],"keys":[]}', b"<html>", b"\xff"]
)
def test_what_is_no_set_is_no_empty_set(document):
    """An error page must not be taken for "all keys are withdrawn"."""
    with pytest.raises(BadKeysError):
        read_keys(document)


def test_a_set_has_a_bound():
    """Each key costs memory, and the time to check a signature where names are not unique."""
    with pytest.raises(BadKeysError, match=f"more than {MOST_KEYS}"):
        key_set(*[{}] * (MOST_KEYS + 1))


def test_a_name_that_is_not_there_is_unknown():
    """It is looked for again by whoever holds the set, unlike one that does not fit."""
    keys = key_set(new_key())

    assert refused(keys.signer, signed(new_key(), kid="k2")) == UNKNOWN_KID
    assert "k1" in keys.names
    assert "k2" not in keys.names


def test_a_token_without_a_name_has_the_only_key_that_fits():
    """Where two would fit, trying them all would be guessing."""
    rsa, ec, more = new_key(), new_key("ES256", "e1"), new_key(kid="k2", number=1)

    assert key_set(rsa, ec).signer(signed(rsa, kid=None)).kid == "k1"
    assert refused(key_set(rsa, ec, more).signer, signed(rsa, kid=None)) == NO_KID
    assert refused(key_set(ec).signer, signed(rsa, kid=None)) == NO_KID


def test_a_key_without_a_name_serves_a_token_without_one():
    """Small issuers have one key and call it nothing."""
    key = new_key(kid=None)

    assert key_set(key).signer(signed(key)).kid is None
    assert refused(key_set(key).signer, signed(key, kid="k1")) == UNKNOWN_KID


def test_keys_of_one_name_are_all_tried():
    """RFC 7517 4.5 lets types share one; some issuers change a key and keep its name for a while."""
    one, other = new_key(), new_key(number=1)
    keys = key_set(one, other, new_key("ES256", "k1"))

    assert {keys.signer(signed(key)).fingerprint for key in (one, other, new_key("ES256", "k1"))} == keys.fingerprints


def test_a_fingerprint_is_the_same_at_every_reading_and_another_if_anything_is():
    """By it a token that was verified before stays good, or does not."""
    (first,) = key_set(new_key()).fingerprints

    assert key_set(new_key(x5t="abc")).fingerprints == {first}
    for other in (new_key(kid="k2"), new_key(alg="RS512"), new_key(alg=None), new_key(number=1)):
        assert first not in key_set(other).fingerprints


JUNK = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.text(max_size=3), max_size=2)


@given(
    base=st.sampled_from(["RS256", "ES256", "EdDSA"]),
    changes=st.dictionaries(
        st.sampled_from(["kty", "crv", "n", "e", "x", "y", "d", "use", "alg", "kid", "key_ops"]),
        JUNK | st.sampled_from(["RSA", "EC", "OKP", "P-256", "P-521", "Ed448", "AQAB", "A" * 43]),
    ),
)
def test_no_entry_breaks_the_reading_of_a_set(base, changes):
    """One that did would lock out everybody whose tokens the other keys signed."""
    good = new_key("EdDSA", "good")

    assert "good" in key_set(new_key(base).entry | changes, good).names


def test_pyjwt_itself_verifies_what_the_test_issuer_signs():
    """Else these tests could agree with one another and with nobody else."""
    for algorithm in ALL:
        key = new_key(algorithm)
        told = jwt.decode(key.sign({"sub": "ada"}), jwt.PyJWK(key.entry), algorithms=[algorithm])
        assert told == {"sub": "ada"}
