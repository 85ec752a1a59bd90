"""`sluiceway explain`: where a call would go right now, and why, without making it.

Law: the gateway plans and ranks; nothing is computed here. What is asked is what a caller would send, byte for byte as
the SDKs write JSON. A call that would be refused is told as its caller would be, and ends with exit code 1.
"""

import re
import sys
from pathlib import Path
from typing import Any, get_args

import click
import msgspec

from gateway.cli import tables
from gateway.cli.admin_api import Document, admin_options, connect
from gateway.identity.keys import ID_LENGTH
from policies.domain import API

STDIN = Path("-")

_BYTE = re.compile(r"\(byte (\d+)\)")
"""Where msgspec says that JSON ends to be any."""

_LIKE = 'a call\'s body is a JSON object, such as {"messages": [{"role": "user", "content": "Hello"}]}'


class _Origin(msgspec.Struct):
    level: str
    plan: str | None


class _Terms(msgspec.Struct):
    policy: str
    priority: str
    value_of_time: float
    ttft_target: float | None
    tpot_target: float | None
    max_price: float | None
    max_attempts: int
    max_wait: float
    origins: dict[str, _Origin]


class _Candidate(msgspec.Struct):
    deployment: str
    score: float
    money: float | None
    shadow: float
    ttft: float
    own: float
    imposed: float
    risk: float
    cached: float
    why: str


class _Dropped(msgspec.Struct):
    deployment: str
    why: str


class _Refusal(msgspec.Struct):
    status: int
    code: str
    message: str


class _Explanation(msgspec.Struct):
    model: str | None
    prompt_tokens: int | None
    output_tokens: int | None
    terms: _Terms | None
    candidates: list[_Candidate]
    dropped: list[_Dropped]
    because: str | None
    refusal: _Refusal | None
    store: str | None = None


@click.command("explain")
@click.option("--model", help="The model that is asked for, in place of the body's own.")
@click.option(
    "--file",
    "path",
    required=True,
    type=click.Path(path_type=Path),
    help="The call's body, as its caller would send it; - for stdin.",
)
@click.option(
    "--api", type=click.Choice(get_args(API)), default="chat", show_default=True, help="The API that would be called."
)
@click.option("--key", metavar="ID", help="Whose call it would be.  [default: nobody's, with nothing forbidden]")
@admin_options
def command(
    *,
    model: str | None,
    path: Path,
    api: str,
    key: str | None,
    url: str,
    admin_key_file: Path | None,
    as_json: bool,
) -> None:
    """Tell where a call would go right now, and why; nothing is paid, taken or sent.

    It is ranked as a call that comes in would be, by the load, the caches and the failures of this moment. Caches are
    told apart by organization: without --key nothing counts as cached.
    """
    request = _body(path)
    if model is not None:
        request["model"] = model
    asked: Document = {"api": api, "request": request, "key": None if key is None else _id(key)}
    admin = connect(url, admin_key_file)
    if as_json:
        answer = admin.ask("POST", "/explain", Document, body=asked)
        tables.as_json(answer)
        refusal = answer.get("refusal")
    else:
        told = admin.ask("POST", "/explain", _Explanation, body=asked)
        _show(told)
        refusal = told.refusal
    sys.exit(0 if refusal is None else 1)


def _body(path: Path) -> dict[str, Any]:
    """Return the body that is in a file. Raises click.ClickException."""
    name = "stdin" if path == STDIN else str(path)
    try:
        text = sys.stdin.buffer.read() if path == STDIN else path.read_bytes()
    except OSError as error:
        raise click.ClickException(f"{name} cannot be read: {error.strerror}. Give --file, or - for stdin.") from error
    try:
        body = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        place = _BYTE.search(str(error))
        line = text.count(b"\n", 0, int(place[1]) if place else len(text)) + 1
        raise click.ClickException(f"{name}:{line}: {error}; {_LIKE}.") from error
    if not isinstance(body, dict):
        raise click.ClickException(f"{name}:1: is no JSON object; {_LIKE}.")
    return body


def _id(key: str) -> str:
    """Return a key's id: of a whole key, which somebody may paste, no more than that goes anywhere."""
    return key[3 : 3 + ID_LENGTH] if key.startswith("sw_") else key


def _show(told: _Explanation) -> None:
    if told.model is not None:
        tokens = f"about {told.prompt_tokens:,} tokens of prompt and {told.output_tokens:,} of output"
        click.echo(f"{told.model}: {tokens}")
    if told.terms is not None:
        click.echo(_terms(told.terms))
    if told.candidates:
        right = ("score USD", "money USD", "first token s", "own s", "imposed s", "risk s", "shadow USD", "cached")
        numbers = [tables.Column(name, right=True, whole=True) for name in right]
        rows = (_row(rank, one) for rank, one in enumerate(told.candidates, 1))
        tables.table([tables.Column("#", right=True), "deployment", *numbers, "why"], rows)
    if told.dropped:
        tables.table(("dropped", "why"), ((one.deployment, one.why) for one in told.dropped))
    if told.because is not None:
        click.echo(told.because)
    if told.store is not None:
        click.echo(told.store)
    if told.refusal is not None:
        click.echo(f"It would be refused with {told.refusal.status} {told.refusal.code}: {told.refusal.message}")


def _terms(terms: _Terms) -> str:
    """Return in words how a call is routed, and who has said each of it."""
    said = {
        "policy": f"policy {terms.policy}",
        "priority": f"priority {terms.priority}",
        "value_of_time": f"a second is worth {_usd(terms.value_of_time)}",
        "ttft_target": "" if terms.ttft_target is None else f"first token within {terms.ttft_target:g} s",
        "tpot_target": "" if terms.tpot_target is None else f"{terms.tpot_target:g} s an output token",
        "max_price": "" if terms.max_price is None else f"at most {_usd(terms.max_price)}",
        "max_attempts": f"at most {terms.max_attempts} attempts" if terms.max_attempts > 1 else "1 attempt",
        "max_wait": f"waits up to {terms.max_wait:g} s",
    }
    return ", ".join(f"{words} ({_origin(terms.origins[name])})" for name, words in said.items() if words)


def _usd(dollars: float) -> str:
    """Return an amount to the nano-dollar, as finely as it can be written, without an exponent."""
    return f"{dollars:.9f}".rstrip("0").rstrip(".") + " USD"


def _origin(one: _Origin) -> str:
    """Return who has said a term; of a level's plan its name too."""
    return one.level if one.plan is None else f"{one.level}'s plan {one.plan}"


def _row(rank: int, one: _Candidate) -> tuple[str, ...]:
    money = "unknown" if one.money is None else f"{one.money:.6f}"
    seconds = (f"{value:.3f}" for value in (one.ttft, one.own, one.imposed, one.risk))
    return (
        str(rank),
        one.deployment,
        f"{one.score:.6f}",
        money,
        *seconds,
        f"{one.shadow:.6f}",
        f"{100 * one.cached:.0f} %",
        one.why,
    )
