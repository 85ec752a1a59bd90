"""What the commands that administer a gateway share: the admin API over HTTP, its options, its errors.

Law: a command knows nothing but this API; whatever goes wrong is one line that says what to do, and exit code 1.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import click
import httpx
import msgspec

from gateway.errors import CONFIG
from gateway.http import trusting

DEFAULT_URL = "http://127.0.0.1:8600"
DEFAULT_KEY_FILE = Path("data/admin.key")
"""Where `serve` without a file puts the admin key it makes."""

TIMEOUT = 10.0
"""Seconds to wait for an answer."""

PAGE = 500
"""Records asked for at once, as many as the API gives."""

ANY_VERSION = {"if-match": "*"}
"""Headers of a change to whatever is there."""

Document = dict[str, Any]
"""A record as the API tells it."""

NOT_HERE = "is nothing this gateway does"
"""What a gateway says of a path that it does not have at this address."""

_OPTION_NAMES = {"organization": "org"}
"""What options call fields that they have another name for."""

_WISH = "routing."
"""What stands before the fields that have options of their own, though they are one field's."""

_NULL = re.compile(r"(?<=must be )null(?: for all)?,? or ")
"""What a rule says of JSON's null, which an option that is left out stands for."""

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])


class RefusedError(click.ClickException):
    """The gateway said no; `status` is its HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class _ErrorBody(msgspec.Struct):
    message: str
    param: str | None = None


class _ErrorAnswer(msgspec.Struct):
    error: _ErrorBody


class AdminApi:
    """A gateway's admin API, opened by `key`, which is from `source`, in words.

    Every call raises `click.ClickException` with one line for the user.
    """

    def __init__(self, client: httpx.Client, url: str, key: str, source: str) -> None:
        self._client = client
        self._url = url.rstrip("/")
        self._key = key
        self._source = source

    def ask(
        self,
        method: str,
        path: str,
        answer: type[T],
        *,
        params: Mapping[str, str | None] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> T:
        """Call `path` under `/admin/v1`; return its JSON as `answer`. Params that are None are left out.

        `timeout`: seconds to wait for it, None: as long as for any.
        """
        content = self._call(method, path, params=params, body=body, headers=headers, timeout=timeout)
        try:
            return msgspec.json.decode(content, type=answer)
        except msgspec.DecodeError as error:
            raise self._stranger(f"an answer that makes no sense ({error})") from error

    def tell(self, method: str, path: str, *, body: object = None, headers: Mapping[str, str] | None = None) -> None:
        """Call `path` for its effect."""
        self._call(method, path, body=body, headers=headers)

    def find(self, path: str) -> Document | None:
        """Return the record at `path`, None where there is none."""
        try:
            return self.ask("GET", path, Document)
        except RefusedError as error:
            if error.status == 404:
                return None
            raise

    def each(
        self, path: str, member: str, *, params: Mapping[str, str | None] | None = None, most: int | None = None
    ) -> Iterator[Document]:
        """Yield the records that the pages of `path` hold as `member`, at most `most` of them (None: all)."""
        cursor: str | int | None = None
        while True:
            limit = PAGE if most is None else min(PAGE, most)
            asked = {**(params or {}), "cursor": None if cursor is None else str(cursor), "limit": str(limit)}
            page = self.ask("GET", path, dict[str, msgspec.Raw], params=asked)
            try:
                records = msgspec.json.decode(page[member], type=list[Document])
                cursor = msgspec.json.decode(page.get("next", b"null"), type=str | int | None)
            except (KeyError, msgspec.DecodeError) as error:
                raise self._stranger(f"a list without {member}") from error
            yield from records[:most]
            if most is not None:
                most -= len(records)
            if cursor is None or most == 0:
                return

    def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | None] | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> bytes:
        given = {name: value for name, value in (params or {}).items() if value is not None}
        sent = {"authorization": f"Bearer {self._key}", **(headers or {})}
        within = TIMEOUT if timeout is None else timeout
        try:
            response = self._client.request(
                method, f"{self._url}/admin/v1{path}", params=given, json=body, headers=sent, timeout=within
            )
        except httpx.ConnectError as error:
            raise self._unconnected(str(error)) from error
        except httpx.TimeoutException as error:
            raise click.ClickException(f"{self._url} did not answer within {within:.0f} s. Try again.") from error
        except (httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError) as error:
            raise click.ClickException(
                f"{self._url!r} is no address ({error}). Give --url as {DEFAULT_URL}."
            ) from error
        except httpx.HTTPError as error:
            again = f"Try again{self._with_tls(error)}."
            raise click.ClickException(f"the call to {self._url} broke off ({error}). {again}") from error
        if response.is_success:
            return response.content
        raise self._refusal(response)

    def _unconnected(self, why: str) -> click.ClickException:
        """Return what to say where no connection came about: the certificate is not trusted, or nobody is there."""
        if "CERTIFICATE_VERIFY_FAILED" in why:
            return click.ClickException(
                f"the certificate at {self._url} is not trusted ({why}). Set SSL_CERT_FILE to its authority's file, "
                f"and give --url by a name that the certificate has."
            )
        return click.ClickException(
            f"nothing answers at {self._url} ({why}). Is `sluiceway serve` running there? Else give --url."
        )

    def _with_tls(self, error: httpx.HTTPError) -> str:
        """Return what to say where the server may be one that hangs up on whoever speaks no TLS."""
        scheme, _, rest = self._url.partition("://")
        plain = scheme.lower() == "http" and isinstance(error, httpx.RemoteProtocolError | httpx.ReadError)
        return f", or with --url https://{rest} if it speaks TLS" if plain else ""

    def _refusal(self, response: httpx.Response) -> click.ClickException:
        try:
            error = msgspec.json.decode(response.content, type=_ErrorAnswer).error
        except msgspec.DecodeError:
            return self._stranger(f"{response.status_code} without an error of ours")
        if CONFIG not in response.headers:
            return self._stranger(f"{response.status_code} ({error.message.rstrip('.')}) without our {CONFIG}")
        message = _in_options(error)
        if response.status_code == 404 and NOT_HERE in message:
            return click.ClickException(
                f"the admin API is not at {self._url}: {message.rstrip('.')}. It is where calls go, "
                f"as a rule --url {DEFAULT_URL}; with `admin: {{on: operations}}` in the gateway's file it is on the "
                f"operations address, as a rule --url http://HOST:8601."
            )
        if response.status_code == 401:
            message = (
                f"{self._url} refused the admin key of {self._source}: {message.rstrip('.')}. Set SLUICEWAY_ADMIN_KEY "
                f"to the right one, or give --admin-key-file."
            )
        elif response.status_code == 412:
            message = f"somebody else changed it meanwhile ({message.rstrip('.')}). Look at it and run this again."
        return RefusedError(" ".join(message.split()), response.status_code)

    def _stranger(self, answer: str) -> click.ClickException:
        return click.ClickException(f"{self._url} gave {answer}. Is it a Sluiceway gateway? Check --url.")


def _in_options(error: _ErrorBody) -> str:
    """Return what an error says, of the option that the command that runs has for the field at fault."""
    field = f"{error.param}: "
    params = click.get_current_context().command.params
    names = {_OPTION_NAMES.get(str(error.param), str(error.param).removeprefix(_WISH))}
    option = next((one.opts[-1] for one in params if one.name in names and one.opts[-1].startswith("--")), None)
    if option is None or not error.message.startswith(field):
        return error.message
    return f"{option}: {_NULL.sub('', error.message.removeprefix(field))}"


def path_to(*parts: str) -> str:
    """Return the path of `parts` under `/admin/v1`, each quoted. A name that would lead elsewhere is refused."""
    for part in parts:
        if part in {"", ".", ".."} or "/" in part:
            raise click.ClickException(f"{part!r} is no name. Give 1 to 64 letters, digits, dots, _ or -.")
    return "".join(f"/{quote(part, safe='')}" for part in parts)


def as_seen(version: int | None) -> dict[str, str]:
    """Return the headers of a change to the version that was seen; None: nothing was there, and nothing may be."""
    return {"if-none-match": "*"} if version is None else {"if-match": f'"{version}"'}


def connection_options(command: Command) -> Command:
    """Add `--url` and `--admin-key-file` to a command, which gets `url` and `admin_key_file`."""
    for option in (
        click.option(
            "--admin-key-file",
            type=click.Path(path_type=Path),
            help="File with the admin key, or with an API key that has an admin scope. "
            f"Default: SLUICEWAY_ADMIN_KEY, else {DEFAULT_KEY_FILE}.",
        ),
        click.option(
            "--url",
            envvar="SLUICEWAY_URL",
            show_envvar=True,
            default=DEFAULT_URL,
            show_default=True,
            help="The gateway's address.",
        ),
    ):
        command = option(command)
    return command


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
"""Adds `--json` to a command, which gets `as_json`."""


def admin_options(command: Command) -> Command:
    """Add all of these to a command."""
    return connection_options(json_option(command))


def connect(url: str, admin_key_file: Path | None) -> AdminApi:
    """Open the admin API, until the command that runs has ended.

    The key is from the file named, else from the environment, else from the usual place.
    """
    source, key = _admin_key(admin_key_file)
    # A proxy that the environment names sees nothing of a key that goes in the clear; one of https only passes it on.
    client = httpx.Client(trust_env=url.lower().startswith("https:"), verify=trusting(None))
    return AdminApi(click.get_current_context().with_resource(client), url, key, source)


def _admin_key(named: Path | None) -> tuple[str, str]:
    """Return where the key comes from, in words, and the key."""
    source, text = _key_text(named)
    key = text.strip()
    if not re.fullmatch(r"[!-~]+", key):
        raise click.ClickException(f"{source} holds no admin key: one line of printable ASCII is expected.")
    return source, key


def _key_text(named: Path | None) -> tuple[str, str]:
    """Return where the key comes from, in words, and the text there. An option that was given is never passed over."""
    from_environment = os.environ.get("SLUICEWAY_ADMIN_KEY")
    if named is None and from_environment:
        return "SLUICEWAY_ADMIN_KEY", from_environment
    path = named or DEFAULT_KEY_FILE
    try:
        return str(path), path.read_text("utf-8")
    except FileNotFoundError as error:
        advice = "Set SLUICEWAY_ADMIN_KEY, or give --admin-key-file; `sluiceway serve` prints where its key is."
        raise click.ClickException(f"no admin key: {path} does not exist. {advice}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"cannot read the admin key from {path}: {error}") from error
