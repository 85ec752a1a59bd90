"""What a key record means under the file's plans: a principal, or the reason why the key may not call.

Law: the record says who, the file says how much. A plan that the record names and the file lacks refuses the key; it is
never read as "no limits".
"""

from collections.abc import Mapping

from gateway.config.settings import Organization
from gateway.identity.directory import KeyRecord
from policies.domain import Level, LevelKind, Plan, Principal, WhenDown
from policies.rejections import Reason, Rejection

REVOKED = Rejection(Reason.BAD_KEY, "This API key was revoked. Ask your operator for another.")


def principal(
    record: KeyRecord,
    plans: Mapping[str, Plan],
    organizations: Mapping[str, Organization],
    when_down: WhenDown = "deny",
) -> Principal | Rejection:
    """Compile `record`: three levels, each with the meters of its plan and none where no plan binds it.

    `when_down`: the stance of levels whose plan has none, and of those without a plan.
    """
    if record.revoked:
        return REVOKED
    if record.plan is not None and record.plan not in plans:
        return Rejection(
            Reason.NOT_ALLOWED,
            f"The key {record.id} is bound to the plan {record.plan!r}, which the gateway's file no longer has. "
            f"Its operator must put the plan back under `plans:`, or revoke the key and create one under another plan.",
        )
    organization = organizations.get(record.organization)
    team_plan = organization.teams.get(record.team) if organization else None
    return Principal(
        organization=record.organization,
        team=record.team,
        key=record.id,
        name=record.name,
        levels=(
            _level("organization", "org", organization.plan if organization else None, when_down),
            _level("team", f"team:{record.team}", team_plan, when_down),
            _level("key", f"key:{record.id}", plans[record.plan] if record.plan else None, when_down),
        ),
        time_zone=organization.time_zone if organization else "UTC",
    )


def _level(kind: LevelKind, name: str, plan: Plan | None, when_down: WhenDown) -> Level:
    if plan is None:
        return Level(kind, name, (), when_down=when_down)
    return Level(kind, name, plan.meters, plan.overrun, plan.when_down or when_down)
