"""Why a call goes where it goes: a route in words, for the trace and for a caller who asks.

Law: every term of every score is told, with its unit; what is told is what was decided with, never computed anew.
"""

import re

from policies.domain import Candidate, Route
from policies.limits import NANO

MOST = 16
"""Deployments told of: a header has to fit into what clients and proxies take, which is 8 KB and less."""

_ODD = re.compile(r'[^ -~]|["\\]')


def explained(route: Route) -> tuple[str, ...]:
    """Return one item a deployment, those to try first, in their order, then those dropped, at most `MOST`.

    Each is an item of a structured field (RFC 9651): the deployment and, as parameters, USD (`score`, `money`), seconds
    (`own`, `imposed` on the calls there, `ttft`), `prefill` tokens, and why it stands where it does or is `dropped`.
    """
    told = [_ranked(candidate) for candidate in route.order[:MOST]]
    return (*told, *(_dropped(candidate) for candidate in route.dropped[: MOST - len(told)]))


def _ranked(candidate: Candidate) -> str:
    terms = {
        "score": f"{candidate.score / NANO:.6f}",
        "money": "?0" if candidate.money is None else f"{candidate.money / NANO:.6f}",
        "own": f"{candidate.seconds:.3f}",
        "imposed": f"{candidate.imposed:.3f}",
        "ttft": f"{candidate.ttft:.3f}",
        "prefill": str(candidate.prefill),
        "why": _text(candidate.reason),
    }
    return _text(candidate.deployment.id) + "".join(f";{name}={value}" for name, value in terms.items())


def _dropped(candidate: Candidate) -> str:
    return f"{_text(candidate.deployment.id)};dropped={_text(candidate.dropped or candidate.reason)}"


def _text(words: str) -> str:
    """Return a string of a structured field; what one cannot hold is a question mark."""
    return f'"{_ODD.sub("?", words)}"'
