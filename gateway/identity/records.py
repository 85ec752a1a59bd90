"""What the store says of tenants: one Struct a kind of record, and where each is kept.

Law: a record holds no secret that opens a door, only digests. Its version is the store's to give: every change of any
record has the next number, so of two readings of one record the one with the larger number is the newer.

    sw:{~id}:KIND:NAME       hash    v: version, b: the record as JSON
    sw:{~id}:all:KIND        zset    every NAME, all with score 0: in the order of their bytes
    sw:{~id}:keys:ORG        zset    the ids of one organization's keys, likewise
    sw:{~id}:version         int     the last version given
    sw:{~id}:history         string  a random name of all of this, as long as it is there
    sw:{~id}:changes         stream  entry VERSION-0: kind, name; the last 10,000 or so
    sw:{~id}:audit           stream  entry VERSION-0: who did what and when; of the last 400 days
    sw:{~id}:used            hash    key or subject -> unix seconds of its last use; of keys that are there, of subjects
                                     400 days
    sw:{~id}:gateways        set     the instances of gateways that live, and perhaps some that did
    sw:{~id}:gateway:ID      string  what that one runs on, as JSON; gone 15 s after its last beat
"""

from typing import Any, ClassVar, Literal

from msgspec import Struct, field

from policies.domain import Scope

PREFIX = "sw:{~id}:"
"""Of every key: the tag puts all of them into one slot of a cluster, so that one script may write them together. No
organization, whose books have its name for a tag, can be called so."""

State = Literal["active", "suspended"]
Kind = Literal["organization", "team", "key", "plan", "drain", "token"]


class Record(Struct, frozen=True, kw_only=True):
    """One record of the store; `kind` names its sort."""

    kind: ClassVar[Kind]

    @property
    def id(self) -> str:
        """Its name among the records of its kind."""
        raise NotImplementedError

    @property
    def kept(self) -> int:
        """Seconds that the store keeps it, 0 for good; what is not kept for good is in no list."""
        return 0


class Terms(Record, frozen=True, kw_only=True):
    """What a tenant of any level is held to.

    `plan`: the name of a plan; `meters`: in its place a plan of its own, as the file writes one; both None: no meters
    of this level. `models`, `backends`: names that are allowed (None: all); `NAME*` is every name that begins so.
    `local_only`: nothing of it is sent to a hosted backend. `metadata`: an operator's own words.
    """

    plan: str | None = None
    meters: dict[str, Any] | None = None
    models: tuple[str, ...] | None = None
    backends: tuple[str, ...] | None = None
    local_only: bool = False
    state: State = "active"
    metadata: dict[str, str] = field(default_factory=dict)


class OrganizationRecord(Terms, frozen=True, kw_only=True):
    """An organization. What it leaves open (`plan` and `meters`, `time_zone`) is as the gateway's file has it."""

    kind = "organization"

    name: str
    time_zone: str | None = None

    @property
    def id(self) -> str:
        """Its name."""
        return self.name


class TeamRecord(Terms, frozen=True, kw_only=True):
    """A team of an organization. What it leaves open (`plan` and `meters`) is as the gateway's file has it."""

    kind = "team"

    organization: str
    name: str

    @property
    def id(self) -> str:
        """`ORGANIZATION/TEAM`."""
        return f"{self.organization}/{self.name}"


class Former(Struct, frozen=True):
    """A secret that was replaced: its digest, and until when it is still taken (unix seconds)."""

    digest: str
    until: int


class KeyRecord(Terms, frozen=True, kw_only=True):
    """An API key.

    `digest`: the SHA-256 of the whole key, in hex. `former`: the one before, while it still opens. `networks`: the
    addresses it may be used from, as CIDRs (None: any). `created`, `expires`: unix seconds. `routing`: how its calls
    want to be routed, as the file writes it (None: as its plans have it).
    """

    kind = "key"

    key_id: str
    organization: str
    team: str
    name: str
    digest: str
    former: Former | None = None
    scopes: tuple[Scope, ...] = ("inference",)
    networks: tuple[str, ...] | None = None
    created: int
    expires: int | None = None
    revoked: bool = False
    routing: dict[str, Any] | None = None

    @property
    def id(self) -> str:
        """The twelve characters after `sw_`."""
        return self.key_id


class PlanRecord(Record, frozen=True, kw_only=True):
    """A plan, as the file would write it; it takes the place of the file's plan of that name."""

    kind = "plan"

    name: str
    plan: dict[str, Any]

    @property
    def id(self) -> str:
        """Its name."""
        return self.name


class DrainRecord(Record, frozen=True, kw_only=True):
    """A backend that takes no new calls, at any gateway, while this record is there; `reason`: an operator's words."""

    kind = "drain"

    backend: str
    reason: str = ""

    @property
    def id(self) -> str:
        """The backend's name."""
        return self.backend


class TokenRecord(Record, frozen=True, kw_only=True):
    """A JWT that was revoked before its end. `token`: `ISSUER/` and the SHA-256 of its `jti` in hex.

    `seconds`: how long it has to be remembered, which is until the token would have ended by itself.
    """

    kind = "token"

    token: str
    seconds: int

    @property
    def id(self) -> str:
        """`token`."""
        return self.token

    @property
    def kept(self) -> int:
        """Seconds that the store keeps it."""
        return self.seconds


class Author(Struct, frozen=True):
    """Who changes something: `who` is `admin key`, `key ID` or `subject NAME`; the address and the request's id."""

    who: str
    address: str = ""
    request_id: str = ""


def key_of(kind: Kind, name: str) -> str:
    """Return the store's key of a record."""
    return f"{PREFIX}{kind}:{name}"
