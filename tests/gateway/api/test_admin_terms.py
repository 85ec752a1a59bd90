import pytest
from litestar.exceptions import HTTPException, ValidationException
from msgspec.structs import replace

from gateway.api.admin_key_terms import KeyChange
from gateway.api.admin_terms import TermsBody, check_terms, compiled, demand_active, plan_in_force, terms_of
from gateway.identity.records import Author, OrganizationRecord, PlanRecord
from policies.domain import Meter, MeterKind
from tests.gateway.api.support import SMALL

pytestmark = pytest.mark.asyncio(loop_scope="module")

ANN = Author("admin key")
ACME = OrganizationRecord(name="acme")


async def test_only_terms_that_are_told_are_told():
    assert terms_of(KeyChange(models=("a",), local_only=True)) == {"models": ("a",), "local_only": True}
    assert terms_of(TermsBody()) == {name: getattr(ACME, name) for name in TermsBody.__struct_fields__}


@pytest.mark.parametrize(
    ("terms", "param", "told"),
    [
        ({"plan": "small", "meters": {"requests_per_minute": 1}}, "meters", "either"),
        ({"plan": "gold"}, "plan", "known: small, standard"),
        ({"meters": {}}, "meters", "no meters"),
        ({"meters": {"requests_per_minute": 0}}, "meters.requests_per_minute", "out of range"),
        ({"metadata": {"a": "\n"}}, "metadata", "printable"),
        ({"metadata": {"\n": "a"}}, "metadata", "printable"),
    ],
)
async def test_terms_that_cannot_be_kept_are_refused(parts, store, terms, param, told):
    with pytest.raises(ValidationException) as raised:
        await check_terms(parts, replace(ACME, **terms), None)
    assert raised.value.extra[0]["key"] == param
    assert told in raised.value.extra[0]["message"]


@pytest.mark.parametrize(
    "terms", [{}, {"plan": "small"}, {"meters": {"budget_in_all": "0.5"}}, {"metadata": {"a": "", "b": " "}}]
)
async def test_terms_that_can_be_kept_pass(parts, store, terms):
    assert await check_terms(parts, replace(ACME, **terms), None) == ()


async def test_a_plan_of_the_store_must_be_there_when_somebody_is_held_to_it(parts, store, registry):
    """It may be removed between the look and the writing."""
    await registry.put(PlanRecord(name="gold", plan={}), ANN, action="create", expected=0)
    assert await check_terms(parts, replace(ACME, plan="gold"), ACME) == ((PlanRecord, "gold"),)


@pytest.mark.parametrize("kept", [{"plan": "gone"}, {"meters": {"requests_per_fortnight": 5}}])
async def test_what_stays_as_it_is_is_not_judged_again(parts, store, kept):
    """Or nobody could suspend a tenant whose plan has left the file."""
    before = replace(ACME, **kept)
    assert await check_terms(parts, replace(before, state="suspended"), before) == ()
    with pytest.raises(ValidationException):
        await check_terms(parts, before, ACME)


async def test_a_tenant_that_is_suspended_is_told_with_the_command_that_ends_it():
    demand_active(ACME, "orgs set acme")
    with pytest.raises(HTTPException, match="`sluiceway orgs set acme --state active`"):
        demand_active(replace(ACME, state="suspended"), "orgs set acme")


async def test_a_plans_document_is_compiled(parts):
    plan = compiled(parts, "gold", {"requests_per_minute": 5})
    assert (plan.name, plan.meters) == ("gold", (Meter(MeterKind.REQUESTS_PER_MINUTE, 5, 5),))


async def test_the_plan_in_force_is_the_records_or_else_the_files():
    assert plan_in_force(None, None) is None
    assert plan_in_force(None, SMALL) == plan_in_force(ACME, SMALL) == "small"
    assert plan_in_force(replace(ACME, plan="gold"), SMALL) == "gold"
    assert plan_in_force(replace(ACME, meters={"requests_per_minute": 5}), SMALL) is None
