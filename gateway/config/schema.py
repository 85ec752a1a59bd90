"""The file's format: one Row per kind of mapping, one annotated field per key.

Law: this page, with `plans.py` for plans, `routing.py` for routing and `issuers.py` for issuers, is the reference of
what a file may say; what a key means alone stands here, what keys mean together in `checks.py`. Defaults are the
fields' own. Money is already in whole units: pico-dollars a token, nano-dollars a second.
"""

from pathlib import Path
from typing import Annotated, ClassVar, Literal, get_args

from msgspec import field

from gateway.config import amounts, values
from gateway.config.issuers import IssuerRow
from gateway.config.kinds import kind_of
from gateway.config.lists import (
    BACKEND,
    NAME,
    PLAIN_NAME,
    TENANT,
    Item,
    each,
    named,
    names,
    one_or_more,
    section,
    words,
)
from gateway.config.plans import PLAN, PlanRow
from gateway.config.reading import Key, Row
from gateway.config.routing import RoutingRow
from gateway.config.settings import KINDS, TRANSPORTS, Limits, Shutdown
from policies.domain import Deadlines, OnStreamFailure, Tokenizer, WhenDown
from policies.meters import MOST

MODALITIES = ("text", "image", "audio", "file")
"""What a message can be made of."""

_DAY = "86400"
_BYTES = 1 << 40
_PRICE = values.usd(amounts.pico_dollars, 10_000, "per million tokens")


class TlsRow(Row, frozen=True, kw_only=True):
    """`listen.tls`: PEM files, read anew when they change."""

    NOUN: ClassVar[str] = "TLS"

    cert: Annotated[Path, Key(values.path, "add the file of the certificate chain, our own first")] = Path()
    key: Annotated[Path, Key(values.path, "add the file of the certificate's key")] = Path()


class ListenRow(Row, frozen=True, kw_only=True):
    """`listen`: the callers' address."""

    NOUN: ClassVar[str] = "a listen address"

    host: Annotated[str, Key(values.host)] = "127.0.0.1"
    port: Annotated[int, Key(values.whole(1, 65535, "a port"))] = 8600
    tls: Annotated[TlsRow | None, Key(section(TlsRow))] = None
    trusted_proxies: Annotated[
        tuple[Item, ...], Key(words(values.network, "add a proxy's address, or remove the line"))
    ] = ()
    cors: Annotated[tuple[Item, ...], Key(one_or_more(values.origin, "add a page's origin, or remove the line"))] = ()


class OperationsRow(Row, frozen=True, kw_only=True):
    """`operations`: the address of probes and metrics."""

    NOUN: ClassVar[str] = "the operations address"

    host: Annotated[str, Key(values.host)] = "127.0.0.1"
    port: Annotated[int, Key(values.whole(1, 65535, "a port"))] = 8601


class StoreRow(Row, frozen=True, kw_only=True):
    """`store`."""

    NOUN: ClassVar[str] = "the store"

    url: Annotated[str, Key(values.store_url)] = "embedded"
    data_dir: Annotated[Path | None, Key(values.path)] = None
    when_down: Annotated[WhenDown, Key(values.one_of(get_args(WhenDown)))] = "deny"
    allow_eviction: Annotated[bool, Key(values.truth)] = False
    identity_grace: Annotated[float, Key(values.decimal("0", _DAY, "seconds"))] = 600.0
    deadline: Annotated[float, Key(values.decimal("0.01", "10", "seconds"))] = 0.25


class AdminRow(Row, frozen=True, kw_only=True):
    """`admin`: where the admin API is."""

    NOUN: ClassVar[str] = "the admin API"

    on: Annotated[Literal["callers", "operations"], Key(values.one_of(["callers", "operations"]))] = "callers"


class LimitsRow(Row, frozen=True, kw_only=True):
    """`limits`: bytes, calls, connections and seconds. The seconds for a body grow by one for each 64 KiB that came."""

    NOUN: ClassVar[str] = "limits"

    body: Annotated[int, Key(values.size(_BYTES))] = Limits().body
    buffered_total: Annotated[int, Key(values.size(_BYTES))] = Limits().buffered_total
    open_calls: Annotated[int, Key(values.whole(1, 1_000_000, "calls"))] = Limits().open_calls
    body_deadline: Annotated[float, Key(values.decimal("0.1", _DAY, "seconds"))] = Limits().body_deadline
    connections: Annotated[int, Key(values.whole(1, 1_000_000, "connections"))] = Limits().connections
    connections_per_address: Annotated[int | None, Key(values.whole(1, 1_000_000, "connections"))] = None
    waiting_calls: Annotated[int, Key(values.whole(0, 1_000_000, "calls"))] = Limits().waiting_calls


class ShutdownRow(Row, frozen=True, kw_only=True):
    """`shutdown`: seconds."""

    NOUN: ClassVar[str] = "the shutdown"

    pause: Annotated[float, Key(values.decimal("0", _DAY, "seconds"))] = Shutdown().pause
    grace: Annotated[float, Key(values.decimal("0", _DAY, "seconds"))] = Shutdown().grace


class BackendRow(Row, frozen=True, kw_only=True):
    """One of `backends`."""

    NOUN: ClassVar[str] = "a backend"

    kind: Annotated[str, Key(kind_of, f"say which engine it is: {', '.join(KINDS)}")] = ""
    base_url: Annotated[str, Key(values.web_url)] = ""
    discover: Annotated[Literal["dns"] | None, Key(values.one_of(["dns"]))] = None
    list: Annotated[Path | None, Key(values.path)] = None
    api_key: Annotated[str | None, Key(values.secret)] = None
    transport: Annotated[str, Key(values.one_of(TRANSPORTS))] = "pooled"
    ca: Annotated[Path | None, Key(values.authorities)] = None
    max_connections: Annotated[int | None, Key(values.whole(1, 65_535, "connections"))] = None
    max_in_flight: Annotated[int | None, Key(values.whole(1, 1_000_000, "calls"))] = None
    requests_per_minute: Annotated[int | None, Key(values.whole(1, 1_000_000, "requests"))] = None
    probe_every: Annotated[float | None, Key(values.decimal("0", _DAY, "seconds, 0 for no probes,"))] = None
    hosted: Annotated[bool | None, Key(values.truth)] = None


class PriceRow(Row, frozen=True, kw_only=True):
    """A deployment's `price`: USD per million tokens in the file, pico-dollars a token here."""

    NOUN: ClassVar[str] = "a price"

    input: Annotated[int, Key(_PRICE, "add the price of input tokens")] = 0
    output: Annotated[int, Key(_PRICE, "add the price of output tokens")] = 0
    cached_input: Annotated[int | None, Key(_PRICE)] = None
    reasoning: Annotated[int | None, Key(_PRICE)] = None


class DeploymentRow(Row, frozen=True, kw_only=True):
    """One of a model's `deployments`."""

    NOUN: ClassVar[str] = "a deployment"

    backend: Annotated[str, Key(values.text, "name one of `backends`")] = ""
    model: Annotated[str, Key(values.text, "add the name by which the backend knows the model")] = ""
    context_window: Annotated[int | None, Key(values.whole(1, MOST, "tokens"))] = None
    modalities: Annotated[
        tuple[Item, ...] | None, Key(words(values.one_of(MODALITIES), "add text, or remove the line"))
    ] = None
    price: Annotated[PriceRow | None, Key(section(PriceRow))] = None
    tokenizer: Annotated[Tokenizer | None, Key(values.one_of(get_args(Tokenizer)))] = None
    weight: Annotated[int, Key(values.whole(1, 1000, "a weight"))] = 1


class DeadlinesRow(Row, frozen=True, kw_only=True):
    """A model's `deadlines`: seconds."""

    NOUN: ClassVar[str] = "deadlines"

    total: Annotated[float, Key(values.decimal("1", _DAY, "seconds"))] = Deadlines().total
    first_content: Annotated[float | None, Key(values.decimal("0.1", _DAY, "seconds"))] = Deadlines().first_content
    stall: Annotated[float | None, Key(values.decimal("0.1", _DAY, "seconds"))] = Deadlines().stall
    keep_alive: Annotated[float | None, Key(values.decimal("1", _DAY, "seconds"))] = Deadlines().keep_alive


_SOME_DEPLOYMENT = "add at least one `{backend: NAME, model: NAME}`"


class ModelRow(Row, frozen=True, kw_only=True):
    """One of `models`."""

    NOUN: ClassVar[str] = "a model"

    deployments: Annotated[tuple[DeploymentRow, ...], Key(each(DeploymentRow, _SOME_DEPLOYMENT), _SOME_DEPLOYMENT)] = ()
    aliases: Annotated[tuple[Item, ...], Key(names(NAME))] = ()
    fallbacks: Annotated[tuple[Item, ...], Key(names(NAME))] = ()
    routing: Annotated[RoutingRow, Key(section(RoutingRow))] = field(default_factory=RoutingRow)
    deadlines: Annotated[DeadlinesRow, Key(section(DeadlinesRow))] = field(default_factory=DeadlinesRow)
    on_stream_failure: Annotated[OnStreamFailure, Key(values.one_of(get_args(OnStreamFailure)))] = "error"


class TeamRow(Row, frozen=True, kw_only=True):
    """One of an organization's `teams`."""

    NOUN: ClassVar[str] = "a team"

    plan: Annotated[str | None, Key(values.text)] = None


class OrganizationRow(TeamRow, frozen=True, kw_only=True):
    """One of `organizations`."""

    NOUN: ClassVar[str] = "an organization"

    time_zone: Annotated[str, Key(values.time_zone)] = "UTC"
    teams: Annotated[dict[str, TeamRow], Key(named(TeamRow, TENANT))] = field(default_factory=dict)


class TelemetryRow(Row, frozen=True, kw_only=True):
    """`telemetry`."""

    NOUN: ClassVar[str] = "telemetry"

    otlp_endpoint: Annotated[str | None, Key(values.web_url)] = None
    sample: Annotated[float, Key(values.decimal("0", "1", "a share"))] = 1.0


_SOME_BACKEND = "add at least one `NAME: {kind: KIND, base_url: URL}`"
_SOME_MODEL = "add a model, or remove the line to serve every model that the backends list"


class FileRow(Row, frozen=True, kw_only=True):
    """The whole file."""

    NOUN: ClassVar[str] = "the file"

    listen: Annotated[ListenRow, Key(section(ListenRow))] = field(default_factory=ListenRow)
    operations: Annotated[OperationsRow, Key(section(OperationsRow))] = field(default_factory=OperationsRow)
    admin_key: Annotated[str | None, Key(values.admin_key)] = None
    admin: Annotated[AdminRow, Key(section(AdminRow))] = field(default_factory=AdminRow)
    store: Annotated[StoreRow, Key(section(StoreRow))] = field(default_factory=StoreRow)
    limits: Annotated[LimitsRow, Key(section(LimitsRow))] = field(default_factory=LimitsRow)
    shutdown: Annotated[ShutdownRow, Key(section(ShutdownRow))] = field(default_factory=ShutdownRow)
    backends: Annotated[dict[str, BackendRow], Key(named(BackendRow, BACKEND, _SOME_BACKEND), _SOME_BACKEND)] = field(
        default_factory=dict
    )
    models: Annotated[dict[str, ModelRow] | None, Key(named(ModelRow, NAME, _SOME_MODEL))] = None
    plans: Annotated[dict[str, PlanRow], Key(named(PLAN, PLAIN_NAME))] = field(default_factory=dict)
    organizations: Annotated[dict[str, OrganizationRow], Key(named(OrganizationRow, TENANT))] = field(
        default_factory=dict
    )
    issuers: Annotated[dict[str, IssuerRow], Key(named(IssuerRow, PLAIN_NAME))] = field(default_factory=dict)
    telemetry: Annotated[TelemetryRow, Key(section(TelemetryRow))] = field(default_factory=TelemetryRow)
