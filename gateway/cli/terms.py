"""The options that say what an organization, a team or a key is held to, and how they change what is there.

Law: an option that is not given changes nothing. What was given comes to a command as one document, `given`, in the
admin API's words, and None in it takes a field away.
"""

import os
import re
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import click

from gateway.cli.admin_api import Document
from gateway.config.mistakes import ConfigError
from gateway.config.plan_file import read_plan
from policies.terms import Policy, Priority

Command = TypeVar("Command", bound=Callable[..., Any])

SCOPES = ("inference", "admin:read", "admin:write")

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def pair(value: str) -> tuple[str, str]:
    """Read `NAME=VALUE`."""
    name, sign, text = value.partition("=")
    if not name or not sign:
        raise click.BadParameter(f"{value!r} is not NAME=VALUE.")
    return name, text


def duration(value: str) -> int:
    """Read `90d`, `12h`, `30m` or seconds; return it in seconds."""
    found = re.fullmatch(r"([0-9]{1,9})([smhdw]?)", value)
    if found is None:
        raise click.BadParameter(f"{value!r} is no duration: write it as 90d, 12h, 30m or in seconds.")
    return int(found[1]) * _UNITS[found[2]]


def number(value: str) -> float:
    """Read a plain number; its range is for the gateway to judge."""
    if not re.fullmatch(r"-?[0-9]{1,12}(\.[0-9]{1,12})?", value):
        raise click.BadParameter(f"{value!r} is no plain number, such as 0.5.")
    return float(value) if "." in value else int(value)


def moment(value: str) -> int | str:
    """Read unix seconds as a number; a date, an ISO time and `90d` from now are for the gateway to read."""
    return int(value) if re.fullmatch(r"[0-9]{1,15}", value) else value


def plan_file(value: str) -> Document:
    """Read the YAML or JSON file of that name, `-` for standard input."""
    try:
        content = sys.stdin.buffer.read() if value == "-" else Path(value).read_bytes()
        return read_plan(content, "standard input" if value == "-" else value, os.environ)
    except OSError as error:
        raise click.BadParameter(f"cannot read {value}: {error.strerror}.") from error
    except ConfigError as error:
        raise click.BadParameter("; ".join(map(str, error.mistakes))) from error


_OPTIONS: dict[str, Callable[..., Any]] = {
    "name": click.option("--name", help="What the key is for, to know it again in a list."),
    "plan": click.option("--plan", metavar="PLAN", help="The plan that binds it, by name (see `sluiceway plans ls`)."),
    "meters": click.option(
        "--meters",
        type=plan_file,
        metavar="FILE",
        help="A file with a plan of its own, as gateway.yaml writes one; - for stdin.",
    ),
    "models": click.option(
        "--model", "models", multiple=True, help="A model it may call; repeat it for more. NAME* is all that begin so."
    ),
    "backends": click.option(
        "--backend", "backends", multiple=True, help="A backend its calls may go to; repeat it for more."
    ),
    "local_only": click.option(
        "--local-only/--no-local-only", default=None, help="Send nothing of it to a hosted backend."
    ),
    "state": click.option("--state", type=click.Choice(["active", "suspended"]), help="suspended: its calls get 403."),
    "time_zone": click.option("--time-zone", metavar="ZONE", help="Where its days and months begin: Europe/Berlin."),
    "scopes": click.option(
        "--scope",
        "scopes",
        multiple=True,
        type=click.Choice(SCOPES),
        help="What the key is good for; repeat it for more.  [default for a new key: inference]",
    ),
    "networks": click.option(
        "--network", "networks", multiple=True, metavar="CIDR", help="From where it may be used; repeat it for more."
    ),
    "expires": click.option(
        "--expires",
        type=moment,
        metavar="TIME",
        help="Until when it is good: 90d from now, a date, an ISO time or unix seconds.",
    ),
    "metadata": click.option(
        "--metadata",
        type=pair,
        multiple=True,
        metavar="NAME=VALUE",
        help="A note of yours; repeat it for more. NAME= takes it away.",
    ),
}

_WISHES: dict[str, Callable[..., Any]] = {
    "ttft_target": click.option(
        "--ttft-target", type=number, metavar="SECONDS", help="To the first token, for a call to be in time."
    ),
    "tpot_target": click.option(
        "--tpot-target", type=number, metavar="SECONDS", help="An output token, for a call to be in time."
    ),
    "value_of_time": click.option(
        "--value-of-time", type=number, metavar="USD", help="What a second of waiting is worth; more buys speed."
    ),
    "max_price": click.option(
        "--max-price", type=number, metavar="USD", help="The most that one call may be expected to cost."
    ),
    "policy": click.option("--policy", type=click.Choice(get_args(Policy)), help="How its calls are routed."),
    "priority": click.option(
        "--priority", type=click.Choice(get_args(Priority)), help="Who goes first where calls have to wait."
    ),
}
"""The options that are, all together, the field `routing`."""

_CLEARED = ("plan", "meters", "models", "backends", "time_zone", "networks", "expires", "metadata")
"""What can be taken away again."""


def terms(*fields: str, clearable: bool = False) -> Callable[[Command], Command]:
    """Add the options of these fields to a command, which gets `given`; with `clearable`, `--clear FIELD` too."""
    names = [name for field in fields for name in (_WISHES if field == "routing" else (field,))]

    def decorate(command: Command) -> Command:
        @wraps(command)
        def run(**values: Any) -> Any:  # noqa: ANN401 - any command's arguments
            given = _given({name: values.pop(name) for name in names}, values.pop("clear", ()))
            return command(**values, given=given)

        wrapped = cast(Command, run)
        if clearable:
            cleared = [name.replace("_", "-") for name in names if name in _CLEARED or name in _WISHES]
            wrapped = click.option(
                "--clear", type=click.Choice(cleared), multiple=True, help="A field to take away; repeat it for more."
            )(wrapped)
        for name in reversed(names):
            wrapped = (_OPTIONS | _WISHES)[name](wrapped)
        return wrapped

    return decorate


def merged(given: Document, present: Document) -> Document:
    """Return what becomes of `present`: fields given replace it, notes are added to it, an empty one is taken away.

    Wishes are added to one another; None takes one away. A plan takes the place of own meters, and the other way round.
    """
    new = {**present, **given}
    if given.get("metadata"):
        notes = {**(present.get("metadata") or {}), **given["metadata"]}
        new["metadata"] = {name: value for name, value in notes.items() if value}
    if given.get("routing"):
        wishes = {**(present.get("routing") or {}), **given["routing"]}
        new["routing"] = {name: value for name, value in wishes.items() if value is not None} or None
    for one, other in (("plan", "meters"), ("meters", "plan")):
        if given.get(one) is not None:
            new[other] = None
    return new


def _given(said: dict[str, Any], clear: tuple[str, ...]) -> Document:
    given: Document = {field: value for field, value in said.items() if value not in (None, ())}
    for field in ("models", "backends", "scopes", "networks"):
        if field in given:
            given[field] = list(given[field])
    if "metadata" in given:
        given["metadata"] = dict(given["metadata"])
    if "plan" in given and "meters" in given:
        raise click.UsageError("--plan and --meters exclude each other: a plan by name, or one of its own.")
    for name in clear:
        field = name.replace("-", "_")
        if field in given:
            raise click.UsageError(f"--clear {name} contradicts the option that gives it a value.")
        given[field] = {} if field == "metadata" else None
    wishes = {name: given.pop(name) for name in _WISHES if name in given}
    return given | {"routing": wishes} if wishes else given
