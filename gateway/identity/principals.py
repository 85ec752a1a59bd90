"""What a credential means: a principal, or the reason why its bearer may not call.

Law: a level is held to what its record says, else to what the gateway's file says of it; a plan is the store's, else
the file's. A plan that is named and nowhere to be found, or that cannot be read, refuses the caller; it is never read
as "no limits". What any level forbids is forbidden. Wishes are joined here, once for a principal: the organization's
plan's, the team's, the key's and the key's own, each narrower than the one before.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from msgspec import Struct

from gateway.config.mistakes import ConfigError
from gateway.config.settings import Organization
from gateway.config.stored import kept_wishes
from gateway.identity.issuers import Verified
from gateway.identity.records import KeyRecord, OrganizationRecord, PlanRecord, TeamRecord, Terms
from policies.domain import Level, LevelKind, Plan, Principal, Reach, Scope, WhenDown
from policies.rejections import Reason, Rejection
from policies.terms import NO_WISHES, Origin, RoutingWishes, Voice, heard

COMPILED_KEPT = 10_000
"""Plans of the store that are kept as they were compiled; beyond, all are compiled anew."""

CompilePlan = Callable[[str, dict[str, Any]], Plan]
"""Read a plan, by its name, from what the file would write. Raises ConfigError."""


class Bearer(Struct, frozen=True):
    """What a credential says by itself of whoever sends it; `what` names it in words to its bearer.

    `stranger`: no admin of ours has said that its organization calls here. `routing`: as a key's record has it.
    """

    organization: str
    team: str
    key: str
    name: str
    what: str
    terms: Terms
    scopes: frozenset[Scope]
    expires: float | None = None
    cut: bool = False
    stranger: bool = False
    routing: dict[str, Any] | None = None


class Tenants(Struct, frozen=True):
    """What the store has on a bearer's organization and team (None: nothing), and the file on the organization."""

    organization: OrganizationRecord | None
    team: TeamRecord | None
    file: Organization | None


class _Side(Struct, frozen=True):
    """One level: what its record says (None: there is none), and the plan that the file gives it."""

    kind: LevelKind
    id: str
    what: str
    terms: Terms | None
    file: Plan | None

    @property
    def named(self) -> str | None:
        """The name of the plan that binds it, None for none or for meters of its own."""
        if self.terms is not None and (self.terms.plan is not None or self.terms.meters is not None):
            return self.terms.plan if self.terms.meters is None else None
        return None if self.file is None else self.file.name


def of_key(record: KeyRecord) -> Bearer:
    """Return what a key's record says of its bearer."""
    return Bearer(
        organization=record.organization,
        team=record.team,
        key=record.key_id,
        name=record.name,
        what=f"API key {record.key_id}",
        terms=record,
        scopes=_scopes(record.scopes),
        expires=record.expires,
        routing=record.routing,
    )


def of_token(verified: Verified) -> Bearer:
    """Return what a token says of its bearer."""
    subject = verified.subject
    return Bearer(
        organization=subject.organization,
        team=subject.team,
        key=subject.key,
        name=subject.name,
        what=f"subject {subject.key}",
        terms=Terms(plan=verified.plan),
        scopes=subject.scopes,
        expires=verified.expires,
        cut=verified.cut,
        stranger=True,
    )


def plans_named(bearer: Bearer, tenants: Tenants) -> list[str]:
    """Return the names of the plans that bind a bearer's levels."""
    return [side.named for side in _sides(bearer, tenants) if side.named is not None]


class Compiler:
    """Makes principals. `plans`: the file's; `when_down`: the stance of levels whose plan has none."""

    def __init__(self, plans: Mapping[str, Plan], compile_plan: CompilePlan, when_down: WhenDown) -> None:
        self._plans = plans
        self._compile_plan = compile_plan
        self._when_down: WhenDown = when_down
        self._compiled: dict[tuple[str, str], tuple[dict[str, Any], Plan | str]] = {}

    def principal(
        self, bearer: Bearer, tenants: Tenants, stored: Mapping[str, PlanRecord | None]
    ) -> Principal | Rejection:
        """Compile three levels, each with its meters. `stored`: the store's plans, by the names of `plans_named`."""
        if bearer.stranger and tenants.organization is None and tenants.file is None:
            return _uninvited(bearer)
        sides = _sides(bearer, tenants)
        terms = [side.terms for side in sides if side.terms is not None]
        levels: list[Level] = []
        voices: list[Voice] = []
        for side in sides:
            if side.terms is not None and side.terms.state == "suspended":
                return _suspended(side)
            plan = self._plan(side, bearer.organization, stored)
            if isinstance(plan, Rejection):
                return plan
            levels.append(_level(side, plan, self._when_down))
            if plan is not None and plan.wishes != NO_WISHES:
                voices.append(Voice(Origin(side.kind, side.named), plan.wishes))
        wished = _own_wishes(bearer)
        if wished != NO_WISHES:
            voices.append(Voice(Origin("key"), wished))
        own, file = tenants.organization, tenants.file
        return Principal(
            organization=bearer.organization,
            team=bearer.team,
            key=bearer.key,
            name=bearer.name,
            levels=tuple(levels),
            time_zone=(own and own.time_zone) or (file.time_zone if file else "UTC"),
            reach=reach_of(terms),
            scopes=bearer.scopes,
            expires=bearer.expires,
            cut=bearer.cut,
            wishes=heard(voices),
            voices=tuple(voices),
        )

    def _plan(self, side: _Side, organization: str, stored: Mapping[str, PlanRecord | None]) -> Plan | Rejection | None:
        if side.terms is not None and side.terms.meters is not None:
            return self._compile(side, (organization, side.id), f"own meters of {side.id}", side.terms.meters)
        name = side.named
        if name is None:
            return None
        record = stored[name]
        if record is not None:
            return self._compile(side, ("", name), name, record.plan)
        plan = self._plans.get(name)
        if plan is not None:
            return plan
        return side.file if side.file is not None and side.file.name == name else _gone(side)

    def _compile(self, side: _Side, place: tuple[str, str], name: str, document: dict[str, Any]) -> Plan | Rejection:
        """Compile a plan of the store, once for each time that it was read."""
        known = self._compiled.get(place)
        if known is None or known[0] is not document:
            if len(self._compiled) >= COMPILED_KEPT:
                self._compiled.clear()
            known = self._compiled[place] = (document, self._read(name, document))
        return known[1] if isinstance(known[1], Plan) else _unreadable(side, name, known[1])

    def _read(self, name: str, document: dict[str, Any]) -> Plan | str:
        try:
            return self._compile_plan(name, document)
        except ConfigError as error:
            return "; ".join(f"{mistake.where}: {mistake.message}" for mistake in error.mistakes)


def reach_of(terms: Sequence[Terms]) -> Reach:
    """Return where calls may go that are held to all of these terms."""
    return Reach(
        models=tuple(one.models for one in terms if one.models is not None),
        backends=tuple(one.backends for one in terms if one.backends is not None),
        local_only=any(one.local_only for one in terms),
    )


@lru_cache(64)
def _scopes(scopes: tuple[Scope, ...]) -> frozenset[Scope]:
    """Return one and the same set for the many keys that have the same scopes."""
    return frozenset(scopes)


def _sides(bearer: Bearer, tenants: Tenants) -> tuple[_Side, _Side, _Side]:
    organization, team, file = bearer.organization, bearer.team, tenants.file
    return (
        _Side("organization", "org", f"organization {organization}", tenants.organization, file.plan if file else None),
        _Side("team", f"team:{team}", f"team {team}", tenants.team, file.teams.get(team) if file else None),
        _Side("key", f"key:{bearer.key}", bearer.what, bearer.terms, None),
    )


def _own_wishes(bearer: Bearer) -> RoutingWishes:
    """Return what a key itself wishes."""
    return NO_WISHES if bearer.routing is None else kept_wishes(bearer.what, bearer.routing)


def _level(side: _Side, plan: Plan | None, when_down: WhenDown) -> Level:
    if plan is None:
        return Level(side.kind, side.id, (), when_down=when_down)
    return Level(side.kind, side.id, plan.meters, plan.overrun, plan.when_down or when_down)


def _uninvited(bearer: Bearer) -> Rejection:
    """Refuse a token of an organization that nobody here has heard of: it would have no limits at all."""
    name = bearer.organization
    return Rejection(
        Reason.NOT_ALLOWED,
        f"The organization {name!r} of this token is not known here. "
        f"Its operator can make it so: `sluiceway orgs set {name}`.",
    )


def _suspended(side: _Side) -> Rejection:
    return Rejection(
        Reason.NOT_ALLOWED, f"The {side.what} is suspended. Nothing of it is served until its operator activates it."
    )


def _gone(side: _Side) -> Rejection:
    return Rejection(
        Reason.NOT_ALLOWED,
        f"The {side.what} is bound to the plan {side.named!r}, which is neither in the gateway's file nor in the "
        f"store. Its operator must put the plan back, or bind the {side.what} to another.",
    )


def _unreadable(side: _Side, name: str, why: str) -> Rejection:
    what = f"bound to the plan {name!r}" if side.named else "held to meters of its own"
    return Rejection(
        Reason.NOT_ALLOWED,
        f"The {side.what} is {what}, which this gateway cannot read: {why}. Its operator must mend that.",
    )
