"""The file of tenants, for `sluiceway apply`: plans, organizations and teams as the admin API takes them.

Law: like the gateway's own file: read by a declared schema, every mistake told at once with its line and what would be
right; a plan that is nowhere is one, where it is told which the gateway has. What else only a gateway knows, such as
which models it has, is for the gateway to judge.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from msgspec import UNSET, Struct, field

from gateway.config import values
from gateway.config.document import compose
from gateway.config.lists import BACKENDS, MODELS, PLAIN_NAME, TENANT, Item, mapped, named, names, section
from gateway.config.mistakes import At, ConfigError, Tell, shown
from gateway.config.plan_checks import check_plan
from gateway.config.plans import PLAN, PlanRow
from gateway.config.reading import Key, Reading, Row, nearest
from gateway.config.stored import document_of

STATES = ("active", "suspended")
"""What a tenant can be."""

_NOBODY = "name some, write `state: suspended` for none at all, or remove the line for all"


class Tenants(Struct, frozen=True):
    """Bodies of the admin API's PUTs, by what they are of; a team by its organization and its name."""

    plans: dict[str, dict[str, Any]]
    organizations: dict[str, dict[str, Any]]
    teams: dict[tuple[str, str], dict[str, Any]]


class TenantRow(Row, frozen=True, kw_only=True):
    """One of an organization's `teams`."""

    NOUN: ClassVar[str] = "a team"

    plan: Annotated[str | None, Key(values.text)] = None
    meters: Annotated[PlanRow | None, Key(section(PLAN))] = None
    models: Annotated[tuple[Item, ...] | None, Key(names(MODELS, _NOBODY))] = None
    backends: Annotated[tuple[Item, ...] | None, Key(names(BACKENDS, _NOBODY))] = None
    local_only: Annotated[bool, Key(values.truth)] = False
    state: Annotated[str, Key(values.one_of(STATES))] = "active"
    metadata: Annotated[dict[str, Item], Key(mapped(values.text))] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """Return what the file says of it, and nothing that it does not."""
        wanted: dict[str, Any] = {
            "plan": self.plan,
            "meters": None if self.meters is None else document_of(self.meters.plan("", {})),
            "models": [item.name for item in self.models or ()],
            "backends": [item.name for item in self.backends or ()],
            "local_only": self.local_only,
            "state": self.state,
            "metadata": {key: item.name for key, item in self.metadata.items()},
        }
        return {key: value for key, value in wanted.items() if key in self.lines}


class TenantsOrganizationRow(TenantRow, frozen=True, kw_only=True):
    """One of `organizations`."""

    NOUN: ClassVar[str] = "an organization"

    time_zone: Annotated[str, Key(values.time_zone)] = "UTC"
    teams: Annotated[dict[str, TenantRow], Key(named(TenantRow, TENANT))] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """Return what the file says of it alone, and nothing that it does not."""
        return super().body() | ({"time_zone": self.time_zone} if "time_zone" in self.lines else {})


class TenantsRow(Row, frozen=True, kw_only=True):
    """The whole file of tenants."""

    NOUN: ClassVar[str] = "the file of tenants"

    plans: Annotated[dict[str, PlanRow], Key(named(PLAN, PLAIN_NAME))] = field(default_factory=dict)
    organizations: Annotated[dict[str, TenantsOrganizationRow], Key(named(TenantsOrganizationRow, TENANT))] = field(
        default_factory=dict
    )


def read_tenants(content: bytes, name: str, environ: Mapping[str, str], plans: Collection[str] | None) -> Tenants:
    """Return what the file `name` says, which holds `content`, variables filled in from `environ`.

    `plans`: the names of those that the gateway has; None: not known, so that any may be named. Raises ConfigError with
    every mistake in the file.
    """
    reading = Reading(name, Path(), environ)
    root = compose(content, name, "name organizations or plans, or write `organizations: {}` for none")
    file = reading.attempt(section(TenantsRow), root, At(1, ""))
    if file is not UNSET:
        _check(file, plans, reading.tell)
        if not reading.mistakes:
            return _tenants(file)
    raise ConfigError(tuple(sorted(reading.mistakes)))


def _check(file: TenantsRow, plans: Collection[str] | None, tell: Tell) -> None:
    """Tell plans that mean nothing or are nowhere, and tenants with two."""
    rows: list[TenantRow] = []
    for organization in file.organizations.values():
        rows += (organization, *organization.teams.values())
    known = None if plans is None or "plans" in file.wrong else sorted({*plans, *file.plans})
    for row in rows:
        if known is not None and row.plan is not None and row.plan not in known:
            why = f"{shown(row.plan)} is a plan that neither this file nor the gateway has"
            tell(row.spot("plan"), why, nearest(row.plan, known))
        if {"plan", "meters"} <= row.lines.keys():
            tell(row.spot("meters"), "stands in the place of `plan`, which is there as well", "keep one of them")
    for plan in (*file.plans.values(), *(row.meters for row in rows if row.meters is not None)):
        check_plan(plan, None, tell)


def _tenants(file: TenantsRow) -> Tenants:
    return Tenants(
        plans={name: document_of(row.plan(name, {})) for name, row in file.plans.items()},
        organizations={name: row.body() for name, row in file.organizations.items()},
        teams={
            (name, team): row.body()
            for name, organization in file.organizations.items()
            for team, row in organization.teams.items()
        },
    )
