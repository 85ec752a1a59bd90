"""What the admin API needs of the gateway around it.

Law: no behaviour here. The composition root hands everything over; nothing below the routes is reached for.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

from msgspec import Struct

from gateway.api.guards import Callers
from gateway.config.settings import Organization
from gateway.identity.principals import CompilePlan
from gateway.identity.registry import Registry
from gateway.store.door import Store
from policies.domain import Plan


class BackendView(Struct, frozen=True, kw_only=True):
    """One backend as this gateway sees it. `up`: None where it is not probed; `why`: what is wrong with it.

    `in_flight`: calls of this gateway that are there now. `models`: their names as the backend has them.
    """

    name: str
    kind: str
    hosted: bool
    up: bool | None
    why: str | None
    in_flight: int
    models: tuple[str, ...]


class Parts(Struct, frozen=True, kw_only=True):
    """Handed over by the composition root.

    `plans`, `organizations`, `issuers` (names): the file's, `plans` with the built-in one. `compile_plan` raises
    ConfigError on a plan that nobody may store. `backends`: what this gateway sees now.
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
