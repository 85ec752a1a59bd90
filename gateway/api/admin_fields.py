"""The fields and parameters that several routes have: what each may be, as a type and in words.

Law: every value is bounded before a handler sees it. `RULES` has a sentence for each field that can be wrong: callers
read it in place of a validator's words, which quote regular expressions.
"""

from typing import Annotated, Any, Literal, get_args

from msgspec import Meta

from gateway.identity import keys
from policies.domain import API, Scope
from policies.terms import Policy, Priority

MAX_PAGE = 500
"""Records in one page, at most."""

MOST_NAMES = 256
"""Entries of a list of models, backends or networks: more is a policy, which a `NAME*` says better."""

MOST_PAIRS = 32
"""Pairs of metadata of one record, at most; with the bounds of each at most 18 KB."""

# `(?![\s\S])` instead of `$`, which in Python also matches before a final line feed.
_END = r"(?![\s\S])"
_NO_DOTS = rf"(?!\.{{1,2}}{_END})"  # clients take `.` and `..` out of a path before they send it
NAME = rf"^{_NO_DOTS}[A-Za-z0-9._-]{{1,64}}{_END}"
PLAN = rf"^{_NO_DOTS}[A-Za-z0-9._-]{{1,128}}{_END}"
MODEL = rf"^[A-Za-z0-9._:/-]{{1,128}}\*?{_END}"
BACKEND = rf"^[A-Za-z0-9._:/@\[\]-]{{1,128}}\*?{_END}"
KEY_ID = rf"^[0-9A-Za-z]{{{keys.ID_LENGTH}}}{_END}"

Name = Annotated[str, Meta(pattern=NAME, description="1 to 64 letters, digits, dots, underscores or hyphens.")]
Text = Annotated[str, Meta(min_length=1, max_length=128, description="For people: printable, 1 to 128 characters.")]
PlanName = Annotated[str, Meta(pattern=PLAN, description="A plan of the store or of the file.")]
Models = Annotated[
    tuple[Annotated[str, Meta(pattern=MODEL)], ...],
    Meta(min_length=1, max_length=MOST_NAMES, description="Models that are allowed; NAME* is all that begin so."),
]
Backends = Annotated[
    tuple[Annotated[str, Meta(pattern=BACKEND)], ...],
    Meta(min_length=1, max_length=MOST_NAMES, description="Backends that are allowed; NAME* is all that begin so."),
]
Networks = Annotated[
    tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...],
    Meta(min_length=1, max_length=MOST_NAMES, description="Addresses it may be used from, as CIDRs."),
]
Scopes = Annotated[
    tuple[Scope, ...], Meta(min_length=1, max_length=3, description="What it may be used for: inference, or this API.")
]
Metadata = Annotated[
    dict[Annotated[str, Meta(min_length=1, max_length=64)], Annotated[str, Meta(max_length=512)]],
    Meta(max_length=MOST_PAIRS, description="An operator's own words; printable."),
]
State = Literal["active", "suspended"]


def _number(least: float, most: float, what: str) -> dict[str, Any]:
    """Describe a number that may be text too, as it has to be where a JSON number is not exact."""
    return {"type": ["number", "string"], "minimum": least, "maximum": most, "description": what}


ROUTING: dict[str, Any] = {
    "additionalProperties": False,
    "minProperties": 1,
    "properties": {
        "ttft_target": _number(0.001, 86_400, "Seconds to the first token that count as in time."),
        "value_of_time": _number(0, 1000, "USD that a second of a caller's waiting is worth."),
        "tpot_target": _number(0.0001, 60, "Seconds an output token that count as in time."),
        "max_price": _number(0, 10_000, "USD that one call may be expected to cost, at most."),
        "policy": {"enum": list(get_args(Policy))},
        "priority": {"enum": list(get_args(Priority)), "description": "Who of those that wait goes first."},
    },
}
"""The schema of wishes, which `gateway/config/routing.py` reads."""

Routing = Annotated[
    dict[str, Any],
    Meta(description="How its calls want to be routed, before what its plans wish.", extra_json_schema=ROUTING),
]
Reason = Annotated[str, Meta(max_length=512, description="For people; printable.")]

LAST_SECOND = 253_402_300_799
"""The last second of the year 9999, which is as far as dates go."""

Moment = (
    Annotated[int, Meta(ge=0, le=LAST_SECOND, description="Unix seconds.")]
    | Annotated[str, Meta(min_length=1, max_length=40, description="An ISO time, or 90d, 12h or 2w from now.")]
)

_NAME_RULE = "must be 1 to 64 letters, digits, dots, underscores or hyphens, and not . or .."
_LIST = f"null for all, or a list of 1 to {MOST_NAMES} names of up to 128 letters, digits and"
_AGO = "must be a time ago, such as 30d, 12h or 2w, or a date or ISO time, such as 2026-07-01"
RULES = {
    "organization": _NAME_RULE,
    "team": _NAME_RULE,
    "name": "must be 1 to 128 printable characters, at least one of them not a space",
    "plan": "must be null or the name of a plan: 1 to 128 letters, digits, dots, underscores or hyphens, "
    "and not . or ..",
    "meters": "must be null or an object with meters, as `plans` in gateway.yaml has them",
    "models": f"must be {_LIST} . _ : / -, with perhaps a * at the end",
    "backends": f"must be {_LIST} . _ : / @ [ ] -, with perhaps a * at the end",
    "local_only": "must be true or false",
    "state": "must be active or suspended",
    "time_zone": "must be null or an IANA name, such as Europe/Berlin",
    "metadata": f"must be an object of at most {MOST_PAIRS} pairs: keys of 1 to 64, values of up to 512 printable "
    "characters",
    "scopes": "must be a list of one or more of inference, admin:read and admin:write, each once",
    "networks": f"must be null for all, or a list of 1 to {MOST_NAMES} addresses or ranges such as 10.0.0.0/8",
    "expires": "must be unix seconds, an ISO time such as 2030-01-31T12:00Z, or 90d, 12h or 2w from now",
    "routing": "must be null or an object with some of ttft_target, tpot_target, value_of_time, max_price, policy and "
    "priority, as `routing` of a plan in gateway.yaml has them",
    "overlap": "must be a whole number of seconds from 0 to 2592000, which is 30 days",
    "reason": "must be up to 512 printable characters",
    "api": f"must be one of {', '.join(get_args(API))}",
    "key": "must be null, or the id of a key: the 12 letters and digits after `sw_`",
    "request": "must be the body of a call: a JSON object",
    "issuer": "must be the name of one of the file's `issuers`",
    "jti": "must be the token's `jti`: 1 to 1024 characters",
    "cursor": "must be the `next` of the page before",
    "limit": f"must be a whole number from 1 to {MAX_PAGE}",
    "by": "must be one or more of organization, team, key, model, deployment, day and hour, each once, with commas",
    "since": _AGO,
    "until": _AGO,
}
"""What would be right, in place of a validator's words (which quote a regular expression)."""


def printable(text: str) -> bool:
    """Say whether people can read `text`: printable, and not of spaces alone."""
    return text.isprintable() and not text.isspace()
