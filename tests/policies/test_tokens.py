import base64
import contextlib
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policies.tokens import (
    LATEST,
    LONGEST_TOKEN,
    MALFORMED,
    NOT_JSON,
    NOT_YET,
    TOO_LONG,
    TWICE,
    Refused,
    check_purpose,
    good_until,
    members,
    read_token,
)
from tests.fakes.identity_provider import digits

HEAD = '{"alg":"RS256","kid":"k1"}'


def token(head=HEAD, claims='{"sub":"ada"}', signature=b"signature"):
    return f"{digits(head)}.{digits(claims)}.{digits(signature)}".encode()


def refused(call, *arguments):
    with pytest.raises(Refused) as caught:
        call(*arguments)
    return caught.value.rejection


def test_a_token_is_taken_apart():
    """What is signed is the first two parts as they were sent, whatever they decode to."""
    found = read_token(token())

    assert (found.algorithm, found.kid, found.claims) == ("RS256", "k1", {"sub": "ada"})
    assert (found.signed + b"." + digits(found.signature).encode(), found.signature) == (token(), b"signature")
    assert read_token(token('{"alg":"RS256"}')).kid is None


def test_a_token_of_the_longest_size_is_read_and_no_longer():
    """The bound is looked at first: what is longer costs nothing."""
    padding = LONGEST_TOKEN - len(token(claims='{"a":""}'))
    longest = token(claims='{"a":"' + "x" * (padding * 3 // 4) + '"}')

    assert len(longest) in {LONGEST_TOKEN, LONGEST_TOKEN - 1}
    assert read_token(longest).kid == "k1"
    assert refused(read_token, b"x" * (LONGEST_TOKEN + 1)) == TOO_LONG


@given(
    st.binary(max_size=200)
    | st.builds(lambda *parts: b".".join(parts), st.binary(max_size=40), st.binary(max_size=40), st.binary(max_size=9))
    | st.builds(token, st.text(), st.text(), st.binary())
)
@example(b"a.b.c")
@example(b"aaaaa.bbbb.cccc")
def test_whatever_is_sent_is_read_or_refused(sent):
    """Nobody is known yet who could be trusted to send what can be read."""
    with contextlib.suppress(Refused):
        assert isinstance(read_token(sent).claims, dict)


@given(st.binary(min_size=1, max_size=60), st.integers(0, 63))
def test_a_signature_has_one_spelling(signature, other):
    """RFC 4648 3.5: the last digit may have bits that stand for nothing; a token's digest must not depend on them."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    spelt = digits(signature)
    respelt = spelt[:-1] + alphabet[other]
    sent = token(signature=signature).decode().rpartition(".")[0] + "." + respelt
    same = base64.urlsafe_b64decode(respelt + "=" * (-len(respelt) % 4)) == signature

    if same and respelt != spelt:
        assert refused(read_token, sent.encode()) == MALFORMED


@pytest.mark.parametrize(
    ("refusal", "advice"),
    [(MALFORMED, "see whether it was cut."), (NOT_YET, "see whether its issuer's clock is right.")],
)
def test_a_guess_at_the_cause_is_told_as_what_to_look_for(refusal, advice):
    """Each refusal ends with a full stop, behind which a question would read as a claim."""
    assert refusal.message.endswith(f": {advice}")


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"1", b'"a"', b'{"a":NaN}', b'{"a":-Infinity}', b'{"a":1e999}', b"\xff"]
)
def test_what_is_no_json_object_is_refused(text):
    """NaN and infinity are Python's, not JSON's, and compare as no number does."""
    assert refused(members, text) == NOT_JSON


@pytest.mark.parametrize("text", ['{"a":1,"a":1}', '{"a":{"b":1,"b":1}}', '{"a":[{"b":1,"\\u0062":2}]}'])
def test_a_member_twice_is_refused_wherever_it_is(text):
    """Two readers would read two things."""
    assert refused(members, text.encode()) == TWICE


@pytest.mark.parametrize("opening", ['{"a":', "["])
def test_depth_ends_no_process(opening):
    """A parser that recurses has to be stopped before its stack is."""
    closing = {"[": "]", '{"a":': "}"}[opening]
    deep, deeper = (f'{{"a":{opening * depth}1{closing * depth}}}'.encode() for depth in (100, 100_000))

    assert "a" in members(deep)
    assert refused(members, deeper) == NOT_JSON


CLAIMS = {"aud": "us", "exp": 1000}


@pytest.mark.parametrize(
    ("claims", "now", "until"),
    [
        ({}, 0, 1030),
        ({}, 1029.9, 1030),
        ({"exp": 1000.5}, 0, 1030.5),
        ({"nbf": 500, "iat": 500}, 470, 1030),
        ({"nbf": 0.5, "iat": 0}, 470, 1030),
        ({"aud": ["them", "us"]}, 0, 1030),
        ({"exp": LATEST}, 0, LATEST + 30),
    ],
)
def test_a_good_token_says_until_when(claims, now, until):
    """With the leeway: that is from when it would be refused."""
    assert good_until(CLAIMS | claims, ("us", "we"), 30.0, now) == until


@pytest.mark.parametrize(
    ("claims", "now", "word"),
    [
        ({}, 1030, "expired"),
        ({"nbf": 500}, 469, "not valid yet"),
        ({"iat": 500}, 469, "not valid yet"),
        ({"iat": None}, 0, "nbf and iat"),
        ({"exp": LATEST + 1}, 0, "(exp)"),
        ({"exp": False}, 0, "(exp)"),
        ({"aud": "them"}, 0, "(aud)"),
        ({"aud": ["us", None]}, 0, "(aud)"),
    ],
)
def test_a_token_that_is_not_good_now_says_why(claims, now, word):
    """To the second: the leeway is the operator's word for how far clocks may be apart."""
    assert word in refused(good_until, CLAIMS | claims, ("us",), 30.0, now).message


@pytest.mark.parametrize("claims", [{"events": {}}, {"cnf": {}}, {"jti": None}, {"jti": "j" * 1025}])
def test_what_is_no_plain_credential_is_refused(claims):
    """The table of forged tokens says why of each."""
    assert refused(check_purpose, claims).shape.status == 401


def test_a_plain_credential_has_a_purpose_with_or_without_a_name_of_its_own():
    """A jti is optional (RFC 7519 4.1.7)."""
    check_purpose({})
    check_purpose({"jti": "x" * 1024})


def test_json_that_is_right_is_read_as_it_is():
    """Strict, not choosy."""
    told = {"a": [1, 2.5, None, True, "é", {"b": {}}], "": 0, "n": -1e300}

    assert members(json.dumps(told, ensure_ascii=False).encode()) == told
