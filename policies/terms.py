"""How calls want to be routed: a model's terms, and what plans and keys wish otherwise.

Law: the narrowest that says something is heard (key before team before organization before model), but for the most
that a call may cost, of which the least counts. The policies are settings of one score: `cheapest` gives a second next
to no value, `fastest` all there is; `pinned` and `weighted` only change who comes first of those that can serve. So a
value of time takes the place of a wider `cheapest` or `fastest`, which would leave it without effect. Who has said
each of a call's terms is told by the very steps that join them.
"""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Literal

from msgspec import Struct, structs

Policy = Literal["balanced", "cheapest", "fastest", "pinned", "weighted"]
Priority = Literal["high", "normal", "low"]
Speaker = Literal["default", "model", "organization", "team", "key"]

LEAST_VALUE, MOST_VALUE = 1, 1_000_000_000_000
"""Nano-dollars a second under `cheapest` and `fastest`: so little that it only tells equal prices apart, and so much
(1,000 USD) that a call that is a dollar dearer need only be a millisecond faster."""


OF_ITS_OWN: frozenset[Policy] = frozenset({"cheapest", "fastest"})
"""The policies that have a value of time of their own."""

BY_RULE: frozenset[Policy] = frozenset({"pinned", "weighted"})
"""The policies that do not go by the score."""


class RoutingTerms(Struct, frozen=True):
    """How one call is routed.

    `ttft_target`: seconds to the first token that count as in time, `tpot_target`: seconds an output token, both soft
    (None: any). `value_of_time`: nano-dollars that a second of a caller's waiting is worth. `max_price`: nano-dollars
    that one call may be expected to cost, hard (None: any). `max_attempts`: deployments tried for one call; 1 turns
    failover off. `max_wait`: seconds that a call may wait where every deployment is full. `priority`: who of those that
    wait goes first.
    """

    ttft_target: float | None = None
    value_of_time: int = 2_000_000
    max_attempts: int = 3
    tpot_target: float | None = None
    max_price: int | None = None
    policy: Policy = "balanced"
    max_wait: float = 30.0
    priority: Priority = "normal"

    @property
    def worth(self) -> int:
        """Nano-dollars a second under the policy."""
        if self.policy == "cheapest":
            return LEAST_VALUE
        if self.policy == "fastest":
            return MOST_VALUE
        return max(LEAST_VALUE, self.value_of_time)


class RoutingWishes(Struct, frozen=True):
    """What an organization, a team or a key wants otherwise than the wider ones; units as in `RoutingTerms`."""

    ttft_target: float | None = None
    value_of_time: int | None = None
    tpot_target: float | None = None
    max_price: int | None = None
    policy: Policy | None = None
    priority: Priority | None = None


NO_WISHES = RoutingWishes()


class Origin(Struct, frozen=True):
    """Who has said a term: the gateway's own default, the model in the file, or a level of the caller.

    `plan`: the level's plan that says it, None where the level says it without one.
    """

    level: Speaker
    plan: str | None = None


class Voice(Struct, frozen=True):
    """What one of a caller's levels wishes, by a plan or by itself."""

    origin: Origin
    wishes: RoutingWishes


DEFAULT, OF_MODEL = Origin("default"), Origin("model")


def narrower(wide: RoutingWishes, narrow: RoutingWishes) -> RoutingWishes:
    """Return the wishes of a narrower level over those of a wider one."""
    if narrow == NO_WISHES:
        return wide
    return structs.replace(wide, **_said(narrow, wide))


def joined(terms: RoutingTerms, wishes: RoutingWishes) -> RoutingTerms:
    """Return a model's terms as a caller with these wishes has them."""
    if wishes == NO_WISHES:
        return terms
    return structs.replace(terms, **_said(wishes, terms))


def heard(voices: Iterable[Voice]) -> RoutingWishes:
    """Return what several voices wish together; the widest speaks first."""
    wishes = NO_WISHES
    for voice in voices:
        wishes = narrower(wishes, voice.wishes)
    return wishes


def attributed(
    terms: RoutingTerms, told: AbstractSet[str], voices: Iterable[Voice]
) -> tuple[RoutingTerms, dict[str, Origin]]:
    """Return a model's terms as a caller with these voices has them, and who has said each, by its name.

    `told`: those that the file has of the model, all others being the default. The widest voice speaks first. Under a
    policy with a value of time of its own, that value is whoever's the policy is.
    """
    origins = {name: OF_MODEL if name in told else DEFAULT for name in RoutingTerms.__struct_fields__}
    for voice in voices:
        said = _said(voice.wishes, terms)
        terms = structs.replace(terms, **said)
        origins |= dict.fromkeys(said, voice.origin)
    if terms.policy in OF_ITS_OWN:
        origins["value_of_time"] = origins["policy"]
    return terms, origins


def _said(wishes: RoutingWishes, wide: RoutingTerms | RoutingWishes) -> dict[str, object]:
    """Return what the wishes say in place of what the wider ones have."""
    said = {name: value for name, value in structs.asdict(wishes).items() if value is not None}
    if wishes.max_price is not None and wide.max_price is not None and wide.max_price <= wishes.max_price:
        del said["max_price"]
    if wishes.value_of_time is not None and wishes.policy is None and wide.policy in OF_ITS_OWN:
        said["policy"] = "balanced"
    return said
