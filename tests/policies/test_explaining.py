import random

from msgspec.structs import replace

from policies.domain import Estimate, RoutingTerms
from policies.explaining import MOST, explained
from policies.routing import route
from tests.policies.builders import HOSTED, deployment, model, request, snapshot

CALL = Estimate(1000, 100, 200, 1000)


def planned(*snapshots):
    of = model(*(one.deployment for one in snapshots), terms=RoutingTerms(ttft_target=1.0))
    return route(request(), [of], {"m": snapshots}, CALL, random.Random(1))


def test_every_term_of_every_score_is_told():
    """With what it is made of: money, own seconds, those of others, the first token, what is prefilled."""
    paid = snapshot(deployment("hosted", price=HOSTED, kind="nvidia"), in_flight=1)
    gone = replace(snapshot(deployment("gpu-b")), drained=True)

    free, dear, dropped = explained(planned(paid, replace(snapshot(), cached=0.5), gone))

    assert free == (
        '"gpu-a/m";score=0.002500;money=0.000000;own=1.250;imposed=0.000;ttft=0.250;prefill=500;why="in time"'
    )
    assert dear.startswith('"hosted/m";score=')
    assert ";money=0.002250;own=1.320;imposed=0.120;" in dear
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
    assert len(", ".join(told)) < 4096


def test_words_that_a_header_cannot_hold_are_not_told():
    """An operator's text may have anything in it."""
    odd = replace(snapshot(), off='it said "nö"\r\nx: y')

    (only,) = explained(planned(odd))

    assert only.isascii()
    assert "\r" not in only
    assert only.endswith('why="nothing else is left (off: it said ?n????x: y)"')
