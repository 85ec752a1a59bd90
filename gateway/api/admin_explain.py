"""The admin API's route for dry runs: where a call would go right now, and why.

Law: a call is planned and ranked as one that comes in would be, by the very same code, and nothing else is done with
it: nothing is paid, no load is taken, nobody upstream hears of it. So it needs no more than reading does. Whether there
is still money or room for it in its caller's limits is not asked, since only paying tells.
"""

from functools import partial
from typing import Annotated

from litestar import post
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody
from msgspec import Meta, Raw, Struct
from msgspec.structs import replace

from gateway import clock
from gateway.api.admin_answers import Refused, noes, too_large, wrong
from gateway.api.admin_fields import KEY_ID, RULES
from gateway.api.admin_parts import DryRun, Parts
from gateway.config.stored import kept_plan
from gateway.exchange import NO_INFERENCE
from gateway.identity.locks import EXPIRED, REVOKED
from gateway.identity.principals import Compiler, Tenants, of_key, plans_named
from gateway.identity.records import KeyRecord, OrganizationRecord, PlanRecord, TeamRecord
from gateway.identity.registry import R, Stored
from gateway.planning import plan, ranked
from gateway.services import Services
from gateway.store.door import StoreDown
from policies.domain import API, Candidate, Principal
from policies.explaining import because
from policies.limits import NANO
from policies.rejections import Reason, Rejection
from policies.terms import Origin, Policy, Priority, RoutingTerms, Speaker, attributed

MOST_BODY = 1024 * 1024
"""Bytes of a body, about 250,000 tokens of text: reading more would hold up calls for longer than 10 ms."""

ANYBODY = Principal("", "", "", "", ())
"""Who calls where no key is told: nothing is forbidden, nothing wished, nothing known of what such calls use."""

_STORE_DOWN = Rejection(
    Reason.STORE_DOWN,
    "The store is down, so that nobody can tell what this key's calls may do. Ask without `key`, or try again shortly.",
    retry_after_us=1_000_000,
)


class Question(Struct, frozen=True, forbid_unknown_fields=True):
    """A call that is not made. `request`: the very body that a caller would send. `key`: whose call it would be."""

    request: Annotated[
        Raw, Meta(description="The body of the call, its model included.", extra_json_schema={"type": "object"})
    ]
    api: Annotated[API, Meta(description="The API that would be called.")] = "chat"
    key: (
        Annotated[str, Meta(pattern=KEY_ID, description="The id of the key whose call it would be; null: anybody's.")]
        | None
    ) = None


class OriginTold(Struct, frozen=True):
    """Who has said a term. `default`: nobody, it is the gateway's own; `model`: the file, of the model."""

    level: Annotated[Speaker, Meta(description="The default, the model, or the level of the caller that was heard.")]
    plan: Annotated[str | None, Meta(description="The level's plan that says it; null: it is said without one.")]


class TermsTold(Struct, frozen=True, kw_only=True):
    """How the call is routed: the model's terms, with its caller's wishes."""

    policy: Policy
    priority: Priority
    value_of_time: Annotated[float, Meta(description="USD that a second of waiting is worth under the policy.")]
    ttft_target: Annotated[float | None, Meta(description="Seconds to the first token that are in time; null: any.")]
    tpot_target: Annotated[float | None, Meta(description="Seconds an output token that are in time; null: any.")]
    max_price: Annotated[float | None, Meta(description="USD that it may be expected to cost; null: any.")]
    max_attempts: Annotated[int, Meta(description="Deployments tried, at most.")]
    max_wait: Annotated[float, Meta(description="Seconds that it may wait for a place where all are full.")]
    origins: Annotated[dict[str, OriginTold], Meta(description="Who has said each of these, by its name.")]


class CandidateTold(Struct, frozen=True, kw_only=True):
    """A deployment that would be tried, and every term of its score."""

    deployment: Annotated[str, Meta(description="BACKEND/MODEL, as the backend calls the model.")]
    score: Annotated[float, Meta(description="USD: money, shadow and weighted seconds together; the least is best.")]
    money: Annotated[float | None, Meta(description="USD that the call would cost; null: its price is unknown.")]
    shadow: Annotated[float, Meta(description="USD that a call more costs others who want the same limit's room.")]
    ttft: Annotated[float, Meta(description="Seconds to the first token.")]
    own: Annotated[float, Meta(description="Seconds to the last token.")]
    imposed: Annotated[float, Meta(description="Seconds that all calls there lose by it, as far as they feel it.")]
    risk: Annotated[float, Meta(description="Seconds that failing would cost, times how probable it is.")]
    prefill: Annotated[int, Meta(description="Tokens of the prompt that are probably not in its cache.")]
    cached: Annotated[float, Meta(description="Share of the prompt that probably is, 0 to 1.")]
    why: Annotated[str, Meta(description="In time, late, or what speaks against it and gives way.")]


class DroppedTold(Struct, frozen=True):
    """A deployment that would not be tried."""

    deployment: Annotated[str, Meta(description="BACKEND/MODEL, as the backend calls the model.")]
    why: Annotated[str, Meta(description="Why not.")]


class RefusalTold(Struct, frozen=True):
    """What the caller would be told in place of an answer."""

    status: Annotated[int, Meta(description="HTTP status.")]
    code: Annotated[str, Meta(description="The error's code.")]
    message: Annotated[str, Meta(description="The error's message.")]
    param: Annotated[str | None, Meta(description="The member of the body that is at fault.")]


class Explanation(Struct, frozen=True, kw_only=True):
    """Where a call would go, as things are now."""

    model: Annotated[str | None, Meta(description="The model by its own name; null: it was refused before.")] = None
    prompt_tokens: Annotated[int | None, Meta(description="Tokens of the prompt, judged by this key's calls.")] = None
    output_tokens: Annotated[int | None, Meta(description="Tokens of output to expect, likewise.")] = None
    terms: Annotated[TermsTold | None, Meta(description="How it is routed; null: it was refused before.")] = None
    candidates: Annotated[list[CandidateTold], Meta(description="Those to try, in order.")] = []
    dropped: Annotated[list[DroppedTold], Meta(description="Those not to try.")] = []
    waits: Annotated[bool, Meta(description="All that could serve it are full, so that it would wait first.")] = False
    because: Annotated[str | None, Meta(description="Why the first comes before the second.")] = None
    refusal: Annotated[RefusalTold | None, Meta(description="What the caller would be told instead.")] = None
    store: Annotated[
        str | None, Meta(description="What the store's being down makes of the call beside all this; null: it is up.")
    ] = None


def explain_routes(parts: Parts) -> list[HTTPRouteHandler]:
    """Build the route for dry runs."""

    @post(
        "/explain",
        summary="Explain a route",
        description="Plans and ranks a call as if it came in now, and does not make it: nothing is paid, taken or "
        "sent. A call that would be refused is a `refusal`. Whether its caller's limits have room is not asked. "
        "Without `key` nothing is taken to be cached, because caches are told apart by organization.",
        status_code=200,
        request_max_body_size=MOST_BODY,
        responses=noes("A field is wrong.", request_too_large=too_large(MOST_BODY)),
    )
    async def explain(data: JSONBody[Question]) -> Explanation:
        body = bytes(data.request)
        if not body.startswith(b"{"):
            raise wrong("request", RULES["request"])
        try:
            who = ANYBODY if data.key is None else await _caller(parts, data.key)
        except StoreDown as error:
            raise Refused(_STORE_DOWN) from error
        run = who if isinstance(who, Rejection) else parts.dry_run(who, data.api, body)
        told = Explanation(refusal=_refusal(run)) if isinstance(run, Rejection) else _told(run)
        served = told.refusal is None  # else it is refused before anybody asks the store
        return replace(told, store=_stance(parts) if served and parts.store.down is not None else None)

    return [explain]


def dry_run(services: Services, who: Principal, api: API, body: bytes) -> DryRun | Rejection:
    """Plan and rank a call of `who` as things are now; a Rejection where nobody can say what it would use."""
    now = clock.monotonic()
    planned = plan(services, who, api, body, {}, now, dry=True)
    return planned if isinstance(planned, Rejection) else DryRun(planned, ranked(services, planned, now))


async def _caller(parts: Parts, key_id: str) -> Principal | Rejection:
    """Return whose calls those of a key are, as its records say now. Raises StoreDown, and ValidationException."""
    found = await parts.registry.get(KeyRecord, key_id)
    if found is None:
        raise wrong("key", f"there is no key {key_id}; `sluiceway keys ls` shows which there are")
    record = found.record
    if record.revoked or (record.expires is not None and clock.wall() >= record.expires):
        return REVOKED if record.revoked else EXPIRED
    bearer = of_key(record)
    team = (TeamRecord, f"{record.organization}/{record.team}")
    one, other = await parts.registry.several([(OrganizationRecord, record.organization), team])
    tenants = Tenants(_record(one), _record(other), parts.organizations.get(record.organization))
    names = plans_named(bearer, tenants)
    plans = await parts.registry.several([(PlanRecord, name) for name in names])
    stored = {name: _record(plan) for name, plan in zip(names, plans, strict=True)}
    compiler = Compiler(parts.plans, partial(kept_plan, models=None), "deny")  # meters do not say where a call goes
    who = compiler.principal(bearer, tenants, stored)
    return NO_INFERENCE if isinstance(who, Principal) and "inference" not in who.scopes else who


def _stance(parts: Parts) -> str:
    """Return what becomes of calls while the store is down; whose this one is nobody can ask then."""
    refused = f"would be refused with {_STORE_DOWN.shape.status} {_STORE_DOWN.reason.value}"
    if parts.serves_without_store():
        return f"The store is down: the call {refused} unless its caller's plans all say `when_down: local`."
    return f"The store is down: the call {refused}, because no plan here says `when_down: local`."


def _record(found: Stored[R] | None) -> R | None:
    return None if found is None else found.record


def _told(run: DryRun) -> Explanation:
    planned, route = run.planned, run.route
    model = planned.model if isinstance(route, Rejection) else route.model
    told = Explanation(
        model=model.name,
        terms=_terms(*attributed(model.routing, model.told, planned.who.voices)),
        prompt_tokens=planned.estimate.prompt_tokens,
        output_tokens=planned.estimate.output_tokens,
    )
    if isinstance(route, Rejection):
        return replace(told, refusal=_refusal(route))
    return replace(
        told,
        candidates=[_candidate(one) for one in route.order],
        dropped=[DroppedTold(one.deployment.id, one.dropped or one.reason) for one in route.dropped],
        waits=route.waits,
        because=because(route),
    )


def _terms(terms: RoutingTerms, origins: dict[str, Origin]) -> TermsTold:
    return TermsTold(
        policy=terms.policy,
        priority=terms.priority,
        value_of_time=terms.worth / NANO,
        ttft_target=terms.ttft_target,
        tpot_target=terms.tpot_target,
        max_price=None if terms.max_price is None else terms.max_price / NANO,
        max_attempts=terms.max_attempts,
        max_wait=terms.max_wait,
        origins={name: OriginTold(origin.level, origin.plan) for name, origin in origins.items()},
    )


def _candidate(one: Candidate) -> CandidateTold:
    return CandidateTold(
        deployment=one.deployment.id,
        score=one.score / NANO,
        money=None if one.money is None else one.money / NANO,
        shadow=one.shadow / NANO,
        ttft=one.ttft,
        own=one.seconds,
        imposed=one.imposed,
        risk=one.risk,
        prefill=one.prefill,
        cached=one.cached,
        why=one.reason,
    )


def _refusal(no: Rejection) -> RefusalTold:
    return RefusalTold(no.shape.status, no.reason.value, no.message, no.param)
