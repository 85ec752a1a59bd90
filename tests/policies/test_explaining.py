import random

import pytest
from msgspec.structs import replace

from policies.domain import Estimate, Price
from policies.explaining import LARGEST, MOST, WORDS, because, explained, governed
from policies.ordering import Curiosity
from policies.routing import route
from policies.terms import Origin, RoutingTerms, RoutingWishes, Voice, heard
from tests.policies.builders import HOSTED, deployment, model, request, snapshot

CALL = Estimate(1000, 100, 200, 1000)


def planned(*snapshots, **terms):
    of = model(*(one.deployment for one in snapshots), terms=RoutingTerms(**{"ttft_target": 1.0} | terms))
    return route(request(), [of], {"m": snapshots}, CALL, random.Random(1))


def test_every_term_of_every_score_is_told():
    """With what it is made of: money, own seconds, those of others, the first token, what is prefilled."""
    paid = snapshot(deployment("hosted", price=HOSTED, kind="nvidia"), in_flight=1)
    gone = replace(snapshot(deployment("gpu-b")), drained=True)

    free, dear, dropped = explained(planned(paid, replace(snapshot(), cached=0.5), gone))

    assert free == (
        '"gpu-a/m";score=0.003504;money=0.000000;own=1.251;imposed=0.000;ttft=0.251;'
        'risk=0.000;shadow=0.000000;prefill=500;cached=0.500;why="in time"'
    )
    assert dear.startswith('"hosted/m";score=')
    assert ";money=0.002250;own=1.321;imposed=0.121;" in dear
    assert dropped == '"gpu-b/m";dropped="drained by an operator"'


def test_an_unknown_price_is_told_as_unknown():
    """No number would be true."""
    (only,) = explained(planned(snapshot(deployment(price=None))))

    assert ";money=?0;" in only


def test_no_more_is_told_than_a_header_holds():
    """The first ones count."""
    many = [snapshot(deployment(f"gpu-{number}")) for number in range(3 * MOST)]
    told = explained(planned(*many))

    assert len(told) == MOST
    assert len(", ".join(told)) < LARGEST


def test_long_names_and_long_words_leave_room_for_other_headers():
    """What an upstream says of itself may be as long as it likes; one is told all the same."""
    words = "x" * 9000
    many = [snapshot(deployment(f"{number}{words}"), off=words) for number in range(3 * MOST)]
    short = [replace(one, deployment=deployment(f"gpu-{number}{'y' * 100}")) for number, one in enumerate(many)]

    assert len(explained(planned(*many))) >= 1
    assert len(", ".join(explained(planned(*many)))) < LARGEST
    assert 1 < len(explained(planned(*short))) < MOST
    assert len(", ".join(explained(planned(*short)))) < LARGEST


def test_words_that_a_header_cannot_hold_are_not_told():
    """An operator's text may have anything in it."""
    odd = replace(snapshot(), off='it said "nö"\r\nx: y')

    (only,) = explained(planned(odd))

    assert only.isascii()
    assert "\r" not in only
    assert only.endswith('why="nothing else is left (off: it said ?n????x: y)"')


def test_risk_scarcity_and_cache_are_told():
    """A score whose terms do not add up explains nothing."""
    (only,) = explained(planned(snapshot(fails=0.5, shadow=1_000_000, cached=0.25)))

    assert ";risk=0.526;shadow=0.001000;prefill=750;cached=0.250;" in only


def test_the_terms_are_told_with_who_has_said_them():
    """Those that bind nothing are left out; money is in USD, without an exponent."""
    voices = (
        Voice(Origin("team", "lab"), RoutingWishes(priority="low", max_price=2_500_000)),
        Voice(Origin("key"), RoutingWishes(policy="cheapest")),
    )
    of = replace(model(A.deployment, terms=RoutingTerms(ttft_target=1.0)), told=frozenset({"ttft_target"}))
    found = route(request(), [of], {"m": [A]}, CALL, random.Random(1), wishes=heard(voices))

    assert governed(found, voices) == (
        "policy=cheapest;by=key",
        'priority=low;by=team;plan="lab"',
        "value_of_time=0.000000001;by=key",
        "ttft_target=1;by=model",
        'max_price=0.0025;by=team;plan="lab"',
        "max_attempts=3;by=default",
        "max_wait=30;by=default",
    )


def test_terms_with_long_names_leave_room_for_other_headers():
    """A plan's name has its bound as all words do."""
    wishes = RoutingWishes(1.0, 10**9, 0.1, 10**9, "pinned", "high")
    voices = (Voice(Origin("key", "x" * 9000), wishes),)
    found = route(request(), [model(A.deployment)], {"m": [A]}, CALL, random.Random(1), wishes=wishes)

    assert len(", ".join(governed(found, voices))) < 8 * (WORDS + 50) < LARGEST


A, B = snapshot(deployment("gpu-a")), snapshot(deployment("gpu-b"))
PAID = snapshot(deployment("hosted", price=HOSTED))


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (
            replace(A, cached=0.83),
            B,
            "it has 83 % of the prompt cached, gpu-b 0 %, and its first token is expected 0.0835 s sooner",
        ),
        (A, replace(B, queued_tokens=4000), "its first token is expected 0.4 s sooner"),
        (A, snapshot(deployment("gpu-b"), token_time=0.02), "its output takes 1 s less"),
        (A, replace(B, fails=0.5), "calls fail less there"),
        (A, replace(B, share=0.25), "gpu-b is still warming up after a failure"),
        (A, replace(B, shadow=5_000_000), "its own limit has more room"),
        (A, replace(B, kv_use=0.9), "the calls there lose 0.9 s less by it"),
        (A, replace(PAID, deployment=deployment("dear", price=HOSTED)), "the call costs 0.002250 USD less"),
        (
            replace(A, queued_tokens=1000),
            PAID,
            "the call costs 0.002250 USD less, although its first token is expected 0.1 s later",
        ),
        (A, snapshot(deployment("gpu-b", price=None), ttft=0.01), "what the call costs at gpu-b is unknown"),
        (
            PAID,
            snapshot(deployment("gpu-b"), queued=9000),
            "it is in time, and gpu-b is late, with a first token after 1.2 s",
        ),
        (A, B, "its score is that of gpu-b within 1 %, so that the dice decide, or the session"),
        (
            A,
            replace(B, deployment=replace(B.deployment, max_in_flight=1), in_flight=1),
            "of gpu-b is said: full: it has 1 of 1 calls at most",
        ),
    ],
)
def test_the_term_that_decides_is_told(first, second, told):
    """Whichever stands first in the file."""
    for both in ((first, second), (second, first)):
        found = planned(*both)
        if found.order[0].deployment == first.deployment:
            assert because(found) == f"{first.deployment.backend} is first: {told}."
        else:
            assert "the dice decide" in told


def test_a_policy_that_does_not_go_by_the_score_is_told():
    """No difference of terms would be the reason."""
    assert because(planned(PAID, A, policy="pinned")) == (
        "hosted is first: the policy is pinned, so that the order of the file counts."
    )
    assert "each call is drawn by weight" in because(planned(A, B, policy="weighted"))


@pytest.mark.parametrize(
    ("prices", "queued", "less"), [((1_001_000, 1_000_000), 0, "0.000001"), ((1010, 1000), 900_000, "0.000000")]
)
def test_where_money_counts_first_no_score_is_the_reason(prices, queued, less):
    """Under `cheapest` it counts however close the scores are, and however much later the answer is."""
    hosted, gpu = (snapshot(deployment(on, price=Price(p, p))) for on, p in zip(("hosted", "gpu"), prices, strict=True))
    found = planned(hosted, replace(gpu, queued_tokens=queued), policy="cheapest", ttft_target=None)

    assert because(found) == f"gpu is first: the policy is cheapest, and the call costs {less} USD less."


def test_what_a_place_is_worth_to_others_counts_as_money():
    """Where the limit of its own is nearly used up."""
    found = planned(A, replace(B, shadow=5_000_000), policy="cheapest")

    assert because(found).endswith(" the call costs 0.005000 USD less, what its place is worth to others included.")


@pytest.mark.parametrize("terms", [RoutingTerms(policy="cheapest"), RoutingTerms()])
def test_what_nobody_knows_is_not_told_as_less(terms):
    """A fallback that has no price comes before a later one that has."""
    unpriced, priced = snapshot(deployment("hosted", price=None)), snapshot(deployment("gpu", price=HOSTED))
    there = {"m": (), "n": (unpriced,), "o": (priced,)}
    chain = [model(*(one.deployment for one in seen), name=name, terms=terms) for name, seen in there.items()]
    found = route(request(), chain, there, CALL, random.Random(1))

    assert because(found) == "hosted is first: gpu serves only a later fallback."


def test_a_call_that_finds_out_says_so():
    """It goes where the score does not point."""
    seen = [A, snapshot(deployment("gpu-b"), ttft=0.3, unheard=900.0)]
    of = model(*(one.deployment for one in seen))
    found = route(request(), [of], {"m": seen}, CALL, random.Random(1), curiosity=Curiosity())

    assert because(found) == "gpu-b is first: nobody has heard of it for a while, and this call finds out how it does."


def test_a_fallback_is_told_as_one():
    """It may well be the better one by its score."""
    main, other = model(A.deployment, name="m", fallbacks=("n",)), model(B.deployment, name="n")
    last = model(PAID.deployment, name="o")
    slow = replace(A, queued_tokens=5000)
    found = route(request(), [main, other], {"m": [slow], "n": [B]}, CALL, random.Random(1))
    later = route(request(), [main, last, other], {"m": [], "o": [PAID], "n": [B]}, CALL, random.Random(1))

    assert because(found) == "gpu-a is first: gpu-b serves only what m falls back to."
    assert because(later) == "hosted is first: gpu-b serves only a later fallback."


def test_one_that_nothing_comes_after_is_told_as_the_only_one():
    """And one that is asked though something speaks against it as such."""
    assert because(planned(A)) == "gpu-a/m is the only one that can serve the call."
    assert because(planned(replace(A, down="502"), replace(B, off="401"))) == (
        "gpu-a/m is asked all the same: nothing else is left (down: 502)."
    )


def test_two_deployments_on_one_backend_are_told_apart():
    """Its name alone would say nothing."""
    other = replace(B.deployment, backend="gpu-a", model="n", price=Price(10**9, 0))

    assert because(planned(A, replace(B, deployment=other))) == "gpu-a/m is first: the call costs 1.000000 USD less."


def test_a_call_that_waits_is_told_as_waiting():
    """Who is first then, nobody knows now."""
    full = replace(A, deployment=replace(A.deployment, max_in_flight=1), in_flight=1)

    told = because(planned(full, max_wait=12.0))

    assert told.startswith("All that could serve the call are full, so that it waits for up to 12 s for a place")
    assert told.endswith("now gpu-a/m would be first.")
