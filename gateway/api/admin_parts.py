"""What the admin API needs of the gateway around it.

Law: no behaviour here. The composition root hands everything over; nothing below the routes is reached for. Routes ask
for what comes of the file when they need it, because another file may have taken its place.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

from msgspec import Struct

from gateway.api.guards import Callers
from gateway.config.settings import Organization
from gateway.identity.principals import CompilePlan
from gateway.identity.registry import Registry
from gateway.planning import Planned
from gateway.store.door import Store
from gateway.upstream.catalog import Catalog
from policies.domain import API, Plan, Principal, Route
from policies.rejections import Rejection


class ModelOut(Struct, frozen=True):
    """A model that calls are kept away from, as calls have found it.

    `why`: `off: ...` (its upstream refuses: 401, 403, 404, 410), `asked to be left alone`, or `ejected: ...`.
    `seconds`: for how long more, until a call tries an ejected one again; null: until a call or a probe finds it well,
    or after a 410 a restart.
    """

    model: str
    why: str
    seconds: float | None


class BackendView(Struct, frozen=True, kw_only=True):
    """One backend as this gateway sees it. `up`: None where it is not probed; `why`: what is wrong with it.

    `in_flight`: calls of this gateway that are there now. `drained`: by what this gateway knew last. `models`: their
    names as the backend has them; `out`: those kept from calls; `unlisted`: those that its own list lacks.
    """

    name: str
    kind: str
    hosted: bool
    up: bool | None
    why: str | None
    in_flight: int
    models: tuple[str, ...]
    drained: bool = False
    out: tuple[ModelOut, ...] = ()
    unlisted: tuple[str, ...] = ()


class DryRun(Struct, frozen=True):
    """A call that was planned and ranked, and is not made; a Rejection where nothing could serve it."""

    planned: Planned
    route: Route | Rejection


class Parts(Struct, kw_only=True):
    """Handed over by the composition root, which puts others in the place of what comes of the file.

    `plans`, `organizations`, `issuers` (names): the file's, `plans` with the built-in one. `compile_plan` raises
    ConfigError on a plan that nobody may store. `backends`: what this gateway sees now. `dry_run`: plans and ranks
    the body of a call that a principal might make now. `catalog`: the models of now. `serves_without_store`: whether
    any plan is `local` while the store is away.
    """

    registry: Registry
    store: Store
    callers: Callers
    admin_key: str
    plans: Mapping[str, Plan]
    organizations: Mapping[str, Organization]
    issuers: Collection[str]
    compile_plan: CompilePlan
    backends: Callable[[], Sequence[BackendView]]
    dry_run: Callable[[Principal, API, bytes], DryRun | Rejection]
    catalog: Callable[[], Catalog]
    serves_without_store: Callable[[], bool]
