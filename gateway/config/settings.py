"""What the gateway runs on: the file, compiled.

Law: frozen values, swapped whole, free of the file's spelling. Credentials are in here and nowhere in a `repr`: a log,
a traceback or a rich table shows `***` in their place.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

from msgspec import Struct

from gateway.forwarded import Network
from policies.domain import Meter, MeterKind, Model, Plan, Price, WhenDown
from policies.subjects import Mapping

KINDS = ("openai", "anthropic", "nvidia", "nim", "vllm", "sglang", "llamacpp", "lmstudio", "transformers")
"""The engines a backend can be."""

PROBE_EVERY = 5.0
"""Seconds between two probes of an own engine."""

PROBE_HOSTED_EVERY = 60.0
"""Seconds between two of a hosted one: all it tells is a list, which says little, and asking may count as a call."""

HOSTED = ("openai", "anthropic", "nvidia")
"""The kinds that somebody else runs, for money: without a price in the file theirs is unknown."""

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""What a token may be signed with: a public key tells that it is its issuer's, and nobody else could have made it."""

TRANSPORTS = ("pooled", "httpx")
"""How a backend can be reached: by our own pool, or by stock httpx (slower; it knows corporate proxies)."""

STANDARD = Plan(
    name="standard",
    meters=(
        Meter(MeterKind.REQUESTS_PER_MINUTE, limit=600, burst=600),
        Meter(MeterKind.TOKENS_PER_MINUTE, limit=400_000, burst=400_000),
        Meter(MeterKind.CONCURRENT_REQUESTS, limit=32, burst=32),
    ),
)
"""The plan that is always there; a file may define its own under the same name."""


def default_price(kind: str) -> Price | None:
    """Return the price of an unpriced deployment of `kind`: nothing on own machines, unknown where hosted."""
    return None if kind in HOSTED else Price(0, 0)


class Discreet(Struct, frozen=True):
    """A value whose `SECRETS` are never printed."""

    SECRETS: ClassVar[frozenset[str]] = frozenset()

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Return the fields for printing, with `***` for what is secret."""
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        return [(name, "***" if name in self.SECRETS and value else value) for name, value in values.items()]

    def __repr__(self) -> str:
        """Return the value as text, with `***` for what is secret."""
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({fields})"


class Tls(Struct, frozen=True):
    """PEM files: a certificate chain, our own first, and its key."""

    cert: Path
    key: Path


class Listen(Struct, frozen=True):
    """One address to listen on. `tls` None: plain. `trusted_proxies`: whose word is taken for callers' addresses.

    `cors`: the origins whose pages may read answers, `*` alone for all of them.
    """

    host: str
    port: int
    tls: Tls | None = None
    trusted_proxies: tuple[Network, ...] = ()
    cors: tuple[str, ...] = ()


class StoreSettings(Discreet, frozen=True):
    """Where the ledger lives: `url` is `embedded` or a URL with perhaps a password; `data_dir` holds local files.

    `when_down`: the stance of levels whose plan has none, while the store is gone. `allow_eviction`: take a store that
    may forget what it was told. `identity_grace`: seconds for which callers whose plans are `local` are still known by
    what was last read of them, once the store is missed. `deadline`: seconds a round trip to it may take.
    """

    SECRETS: ClassVar[frozenset[str]] = frozenset({"url"})

    url: str
    data_dir: Path
    when_down: WhenDown = "deny"
    allow_eviction: bool = False
    identity_grace: float = 600.0
    deadline: float = 0.25


class Limits(Struct, frozen=True):
    """What one gateway takes on: bytes of one body and of all bodies together, open calls, callers' connections.

    `body_deadline`: seconds to send a body, to which what has come of it adds (`gateway/intake.py`). `connections` is
    lowered at start to what file descriptors allow; `connections_per_address` None: one address may hold them all.
    `waiting_calls`: calls that may wait for a place at once.
    """

    body: int = 32 << 20
    buffered_total: int = 512 << 20
    open_calls: int = 20_000
    body_deadline: float = 30.0
    connections: int = 25_000
    connections_per_address: int | None = None
    waiting_calls: int = 1000


class Shutdown(Struct, frozen=True):
    """How a gateway ends: seconds in which it still takes calls but is not ready, then those that open calls get."""

    pause: float = 0.0
    grace: float = 30.0


class Backend(Discreet, frozen=True):
    """One place that serves models. `base_url` ends without a slash; `api_key` is its credential, if it wants one.

    `ca`: a PEM file of the only authorities trusted for it (None: the usual ones). `max_connections`: None, no bound.
    `max_in_flight`: calls at once for each model there, of all gateways (None: any number). `requests_per_minute`: what
    it takes of an account, for each model there (None: nobody has said). `probe_every`: seconds between free probes, 0
    for none (None: as its kind has it). `discover`: each address of `base_url`'s name is a replica; `list_file`: each
    URL in it is one. `address`: where to connect to in place of resolving the name. `told_hosted`: what the file says
    of `hosted` (None: nothing). `ca_digest`: of what `ca` held when it was read, so that others in its place show.
    """

    SECRETS: ClassVar[frozenset[str]] = frozenset({"api_key"})

    name: str
    kind: str
    base_url: str
    api_key: str | None = None
    transport: str = "pooled"
    ca: Path | None = None
    max_connections: int | None = None
    max_in_flight: int | None = None
    requests_per_minute: int | None = None
    probe_every: float | None = None
    discover: Literal["dns"] | None = None
    list_file: Path | None = None
    address: str | None = None
    told_hosted: bool | None = None
    ca_digest: str = ""

    @property
    def hosted(self) -> bool:
        """Whether what is sent there leaves the organization's own machines."""
        return self.kind in HOSTED if self.told_hosted is None else self.told_hosted

    @property
    def discovered(self) -> bool:
        """Whether it stands for replicas that are yet to be found."""
        return self.discover is not None or self.list_file is not None

    @property
    def pause(self) -> float:
        """Seconds between two free probes; 0: it is not probed."""
        if self.probe_every is not None:
            return self.probe_every
        return PROBE_HOSTED_EVERY if self.kind in HOSTED else PROBE_EVERY


class Telemetry(Struct, frozen=True):
    """Where traces go (None: nowhere) and the share of calls that is traced, 0 to 1."""

    otlp_endpoint: str | None = None
    sample: float = 1.0


class Organization(Struct, frozen=True):
    """The plans that the file gives to an organization and to its teams (None: no plan).

    `time_zone`: where its calendar periods begin, an IANA name.
    """

    plan: Plan | None
    teams: dict[str, Plan | None]
    time_zone: str = "UTC"


class Issuer(Struct, frozen=True, kw_only=True):
    """Somebody whose tokens (JWT) are taken. `name`: ours for it; `issuer`: its own, the `iss` of its tokens, exactly.

    `audience`: one of these must be in `aud`. `algorithms`: those its tokens may be signed with. `jwks_url`: where its
    keys are (None: as its OpenID configuration says). `ca`: a PEM file of the only authorities trusted for both (None:
    the usual ones); `ca_digest`: of what it held when it was read. `leeway`: seconds its clock may differ from ours.
    `plan`: the plan of each of its subjects. `on_expiry`: what becomes of a stream that outlives its token.
    """

    name: str
    issuer: str
    audience: tuple[str, ...]
    algorithms: tuple[str, ...] = ("RS256",)
    jwks_url: str | None = None
    ca: Path | None = None
    leeway: float = 30.0
    mapping: Mapping
    plan: str | None = None
    on_expiry: Literal["finish", "cut"] = "finish"
    ca_digest: str = ""


class Settings(Discreet, frozen=True, kw_only=True):
    """The whole run-time configuration.

    `admin_key` None: one is made in `store.data_dir`. `admin_on`: the address that the admin API is on. `models` None:
    every model that a backend lists is served under its own id. `digest` names the configuration in answers and
    metrics: 12 hex digits. `files`: those that all of it was read from, the file itself first, and that are to be
    looked at for changes (lists of replicas are looked at by who follows those).
    """

    SECRETS: ClassVar[frozenset[str]] = frozenset({"admin_key"})

    listen: Listen
    operations: Listen
    admin_key: str | None
    store: StoreSettings
    limits: Limits
    backends: tuple[Backend, ...]
    models: tuple[Model, ...] | None
    plans: dict[str, Plan]
    organizations: dict[str, Organization]
    telemetry: Telemetry
    digest: str
    admin_on: Literal["callers", "operations"] = "callers"
    issuers: tuple[Issuer, ...] = ()
    shutdown: Shutdown = Shutdown()
    files: tuple[Path, ...] = ()

    @property
    def model_names(self) -> dict[str, str] | None:
        """Each name and alias of a model with the model's own name; None where nobody knows which there are."""
        if self.models is None:
            return None
        return {name: model.name for model in self.models for name in (model.name, *model.aliases)}
