"""Why a call goes where it goes: a route in words, for the trace and for whoever asks.

Law: every term of every score is told, with its unit; what is told is what was decided with, never computed anew. What
is said of two candidates follows from the difference of their scores, term by term. Who has said
what a call is routed by is told by the very steps that join it.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from msgspec import Struct

from policies.domain import Candidate, Route
from policies.limits import NANO
from policies.ordering import EXPLORING, TIE, paid
from policies.scoring import FIRST_TOKEN, IMPOSED
from policies.terms import Origin, Policy, RoutingTerms, Voice, attributed

MOST = 16
"""Deployments told of."""

LARGEST = 4096
"""Bytes of all that is told, but for its first item: a header has to fit into what clients and proxies take, which is
8 KB and less for all of them together."""

WORDS = 200
"""Characters of one text: what an upstream said of itself may be long."""

GOVERNED = 1024
"""Models and callers' wishes whose terms are kept in words: a traced call has the same ones as the last."""

NOTEWORTHY = 0.1
"""Share of the first's score from which on what speaks against it is told too."""

_RULES: dict[Policy, str] = {
    "pinned": "the policy is pinned, so that the order of the file counts",
    "weighted": "the policy is weighted, so that each call is drawn by weight",
}
"""What decides under the policies that do not go by the score."""

_ODD = re.compile(r'[^ -~]|["\\]')


class _Difference(Struct, frozen=True):
    """What one term adds to the score of the second over that of the first, in nano-dollars, and that in words.

    `better`: what speaks for the first where it is more than nothing; `worse`: against it, where it is less.
    """

    amount: float
    better: str
    worse: str


def explained(route: Route) -> tuple[str, ...]:
    """Return one item a deployment, those to try in their order, then those dropped, within `MOST` and `LARGEST`.

    Each is an item of a structured field (RFC 9651): the deployment and, as parameters, USD (`score`, `money`,
    `shadow`), seconds (`own`, `imposed` on the calls there, `ttft`, `risk`), `prefill` tokens, the `cached` share of
    the prompt, and why it stands where it does or is `dropped`.
    """
    items = [_ranked(candidate) for candidate in route.order[:MOST]]
    items += [_dropped(candidate) for candidate in route.dropped[: MOST - len(items)]]
    return tuple(_fitting(items))


def governed(route: Route, voices: tuple[Voice, ...]) -> tuple[str, ...]:
    """Return one item a term that a route was decided by, without those that bind nothing; `voices`: its caller's.

    Each is a member of a structured dictionary (RFC 9651): the term in seconds or USD and, as parameters, who has said
    it (`by`), and in which `plan`.
    """
    return _governed(route.model.routing, route.model.told, voices)


@lru_cache(GOVERNED)
def _governed(routing: RoutingTerms, told: frozenset[str], voices: tuple[Voice, ...]) -> tuple[str, ...]:
    terms, origins = attributed(routing, told, voices)
    values = {
        "policy": terms.policy,
        "priority": terms.priority,
        "value_of_time": _decimal(terms.worth / NANO),
        "ttft_target": None if terms.ttft_target is None else _decimal(terms.ttft_target),
        "tpot_target": None if terms.tpot_target is None else _decimal(terms.tpot_target),
        "max_price": None if terms.max_price is None else _decimal(terms.max_price / NANO),
        "max_attempts": str(terms.max_attempts),
        "max_wait": _decimal(terms.max_wait),
    }
    return tuple(f"{name}={value}{_by(origins[name])}" for name, value in values.items() if value is not None)


def because(route: Route) -> str:
    """Say in one sentence why a route's first deployment comes before its second."""
    first = route.order[0]
    if route.waits:
        return (
            f"All that could serve the call are full, so that it waits for up to {route.terms.max_wait:g} s for a place"
            f" and is ranked anew; now {_name(first)} would be first."
        )
    if _doubtful(first):
        return f"{_name(first)} is asked all the same: {first.reason}."
    if len(route.order) == 1:
        return f"{_name(first)} is the only one that can serve the call."
    second = route.order[1]
    here, there = _names(first, second)
    return f"{here} is first: {next(_advantages(route, first, second, there))}."


def _advantages(route: Route, first: Candidate, second: Candidate, there: str) -> Iterator[str]:
    """Yield what puts the first before the second, what decides first of all; `there`: the second's name."""
    own = route.model.deployments
    if first.deployment in own and second.deployment not in own:
        yield f"{there} serves only what {route.model.name} falls back to"
    if _doubtful(second):
        yield f"of {there} is said: {second.reason}"
    if first.reason == EXPLORING:
        yield f"{EXPLORING}, and this call finds out how it does"
    if rule := _RULES.get(route.terms.policy):
        yield rule
    if second.reason == "late" and first.reason != "late":
        yield f"it is in time, and {there} is late, with a first token after {second.ttft:.3g} s"
    if first.money is not None and second.money is None:
        yield f"what the call costs at {there} is unknown"
    less = paid(second) - paid(first)
    if route.terms.policy == "cheapest" and first.money is not None and less > 0:
        worth = "" if first.shadow == second.shadow else ", what its place is worth to others included"
        yield f"the policy is cheapest, and the call costs {_usd(less)} USD less{worth}"
    if first.score > second.score * (1 + TIE) or (first.money is None and second.money is not None):
        yield f"{there} serves only a later fallback"
    if abs(second.score - first.score) <= TIE * first.score:
        yield f"its score is that of {there} within {_percent(TIE)}, so that the dice decide, or the session"
    yield _difference(first, second, there, route.terms)


def _difference(first: Candidate, second: Candidate, there: str, terms: RoutingTerms) -> str:
    """Tell the term that speaks most for the first, and the one that speaks most against it."""
    found = sorted(_differences(first, second, there, terms), key=lambda one: -one.amount)
    most, least = found[0], found[-1]
    return most.better if least.amount > -NOTEWORTHY * first.score else f"{most.better}, although {least.worse}"


def _differences(first: Candidate, second: Candidate, there: str, terms: RoutingTerms) -> list[_Difference]:
    worth = terms.worth
    money = (second.money or 0) - (first.money or 0)
    ttft, risk, imposed = second.ttft - first.ttft, second.risk - first.risk, second.imposed - first.imposed
    output = (second.seconds - second.ttft) - (first.seconds - first.ttft)
    sooner = f"its first token is expected {ttft:.3g} s sooner"
    if first.prefill < second.prefill and first.cached > second.cached:
        sooner = (
            f"it has {_percent(first.cached)} of the prompt cached, {there} {_percent(second.cached)}, and {sooner}"
        )
    told = [
        _Difference(money, f"the call costs {_usd(money)} USD less", f"the call costs {_usd(money)} USD more"),
        _Difference(second.shadow - first.shadow, "its own limit has more room", "its own limit has less room"),
        _Difference(FIRST_TOKEN * worth * ttft, sooner, f"its first token is expected {-ttft:.3g} s later"),
        _Difference(worth * output, f"its output takes {output:.3g} s less", f"its output takes {-output:.3g} s more"),
        _Difference(
            IMPOSED * worth * imposed,
            f"the calls there lose {imposed:.3g} s less by it",
            f"the calls there lose {-imposed:.3g} s more by it",
        ),
        _Difference(worth * risk, "calls fail less there", "calls fail more there"),
    ]
    # Only warming up makes a score more than the sum of its terms.
    rest = second.score - first.score - sum(one.amount for one in told)
    return [*told, _Difference(rest, f"{there} is still warming up after a failure", "it is warming up after one")]


def _doubtful(candidate: Candidate) -> bool:
    """Say whether a candidate is in the route though something speaks against it."""
    return candidate.reason not in ("late", "in time", EXPLORING)


def _names(first: Candidate, second: Candidate) -> tuple[str, str]:
    """Return what to call two deployments: their backends, where these differ."""
    if first.deployment.backend != second.deployment.backend:
        return first.deployment.backend, second.deployment.backend
    return _name(first), _name(second)


def _name(candidate: Candidate) -> str:
    return candidate.deployment.id


def _usd(nano: int) -> str:
    return f"{abs(nano) / NANO:.6f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _fitting(items: Iterable[str]) -> Iterable[str]:
    room = LARGEST
    for at, item in enumerate(items):
        room -= len(item) + len(", ")
        if room < 0 and at:
            return
        yield item


def _by(origin: Origin) -> str:
    return f";by={origin.level}" + ("" if origin.plan is None else f";plan={_text(origin.plan)}")


def _decimal(number: float) -> str:
    """Return a number without an exponent and without zeros at its end."""
    return f"{number:.9f}".rstrip("0").rstrip(".")


def _ranked(candidate: Candidate) -> str:
    terms = {
        "score": f"{candidate.score / NANO:.6f}",
        "money": "?0" if candidate.money is None else f"{candidate.money / NANO:.6f}",
        "own": f"{candidate.seconds:.3f}",
        "imposed": f"{candidate.imposed:.3f}",
        "ttft": f"{candidate.ttft:.3f}",
        "risk": f"{candidate.risk:.3f}",
        "shadow": f"{candidate.shadow / NANO:.6f}",
        "prefill": str(candidate.prefill),
        "cached": f"{candidate.cached:.3f}",
        "why": _text(candidate.reason),
    }
    return _text(candidate.deployment.id) + "".join(f";{name}={value}" for name, value in terms.items())


def _dropped(candidate: Candidate) -> str:
    return f"{_text(candidate.deployment.id)};dropped={_text(candidate.dropped or candidate.reason)}"


def _text(words: str) -> str:
    """Return a string of a structured field; what one cannot hold is a question mark."""
    short = words if len(words) <= WORDS else f"{words[:WORDS]}..."
    return f'"{_ODD.sub("?", short)}"'
