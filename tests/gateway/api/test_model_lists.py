import anthropic
import msgspec
import openai
import pytest
from anthropic import AsyncAnthropic

from gateway.api.model_lists import LARGEST_PAGE, page_of_anthropic
from gateway.upstream.catalog import Catalog
from policies.rejections import Reason, Rejection
from tests.gateway.harness import running
from tests.policies.builders import deployment, model

NAMES = ["claude/haiku", "mistral-medium", "mistral-small", "org/m", "zephyr"]


def named(name, **terms):
    return msgspec.structs.replace(model(deployment(**terms)), name=name)


MODELS = [named(name) for name in reversed(NAMES)]


@pytest.fixture
async def gateway(tmp_path, first):
    async with running(tmp_path, {"a": first}) as harness:
        harness.services.catalog = Catalog(MODELS)
        yield harness


@pytest.fixture
async def client(gateway):
    key = gateway.client.headers["authorization"].removeprefix("Bearer ")
    async with AsyncAnthropic(base_url=gateway.running.url, api_key=key, max_retries=0) as client:
        yield client


async def test_anthropics_sdk_lists_the_models(client, gateway):
    """Each with what its applications read, and the ids that its pages go on by."""
    gateway.services.catalog = Catalog([named("m", window=99)])
    page = await client.models.list()
    (only,) = page.data

    assert (only.id, only.type, only.display_name, only.lifecycle) == ("m", "model", "m", "active")
    assert (only.created_at.year, only.max_input_tokens, only.max_tokens) == (1970, 99, None)
    assert (page.has_more, page.first_id, page.last_id) == (False, "m", "m")


async def test_anthropics_sdk_follows_the_pages_in_both_directions(client):
    """Every model once, whatever the size of a page."""
    for limit in (1, 2, 4, 5, 20):
        assert [one.id async for one in client.models.list(limit=limit)] == NAMES
        page, backwards = await client.models.list(limit=limit, before_id="zz"), []
        while True:
            assert (page.first_id, page.last_id) == (page.data[0].id, page.data[-1].id)
            backwards = [one.id for one in page.data] + backwards
            if not page.has_next_page():
                break
            page = await page.get_next_page()
        assert backwards == NAMES


async def test_a_page_goes_on_behind_a_model_that_has_gone(client, gateway):
    """Nothing is told twice and nothing left out."""
    page = await client.models.list(limit=2)
    gateway.services.catalog = Catalog([one for one in MODELS if one.name != page.last_id])

    assert [one.id for one in (await page.get_next_page()).data] == NAMES[2:4]


async def test_models_of_which_none_is_left_are_an_empty_page(client):
    """Behind the last one, and those that were retired: there are none."""
    for page in (await client.models.list(after_id="zz"), await client.models.list(lifecycle=["retired"])):
        assert (page.data, page.has_more, page.first_id, page.last_id) == ([], False, None, None)

    assert len((await client.models.list(lifecycle=["retired", "active"])).data) == 5


async def test_anthropics_sdk_describes_a_model(client, gateway):
    """By an id with a slash, and by an alias, which it resolves."""
    gateway.services.catalog = Catalog([*MODELS, msgspec.structs.replace(named("real"), aliases=("latest",))])

    assert (await client.models.retrieve("org/m")).id == "org/m"
    assert (await client.models.retrieve("latest")).id == "real"


async def test_noes_are_told_as_anthropics_sdk_reads_them(client, gateway):
    """A stranger, a model that is not there, one out of reach, a query that is none."""
    barred = client.with_options(api_key=await gateway.key(models=("org/*",)))
    with pytest.raises(anthropic.AuthenticationError) as stranger:
        await client.with_options(api_key="nobody").models.list()
    with pytest.raises(anthropic.NotFoundError, match="nope") as missing:
        await client.models.retrieve("nope")
    with pytest.raises(anthropic.PermissionDeniedError) as out_of_reach:
        await barred.models.retrieve("zephyr")
    with pytest.raises(anthropic.BadRequestError, match="limit must be a whole number from 1 to 1000") as wrong:
        await client.models.list(limit=0)

    assert [one.id async for one in barred.models.list()] == ["org/m"]
    kinds = [raised.value.body["error"]["type"] for raised in (stranger, missing, out_of_reach, wrong)]
    assert kinds == ["authentication_error", "not_found_error", "permission_error", "invalid_request_error"]
    assert missing.value.request_id == missing.value.response.headers["x-request-id"]


async def test_a_path_or_a_method_that_is_not_there_is_a_no_in_that_shape_too(client):
    """Batches, say, which are not served."""
    with pytest.raises(anthropic.NotFoundError) as missing:
        await client.messages.batches.list()
    with pytest.raises(anthropic.APIStatusError) as method:
        await client.get("/v1/messages", cast_to=object)

    assert missing.value.body["error"]["type"] == "not_found_error"
    assert (method.value.status_code, method.value.body["type"]) == (405, "error")


async def test_openais_sdk_is_told_the_same_models(gateway):
    """All at once, in the file's order, as before."""
    key = gateway.client.headers["authorization"].removeprefix("Bearer ")
    async with openai.AsyncOpenAI(base_url=f"{gateway.running.url}/v1", api_key=key) as client:
        assert [one.id async for one in client.models.list()] == NAMES[::-1]
        assert (await client.models.retrieve("org/m")).object == "model"


@pytest.mark.parametrize(
    "query",
    [
        {"limit": ["0"]},
        {"limit": [str(LARGEST_PAGE + 1)]},
        {"limit": ["-1"]},
        {"limit": ["ten"]},
        {"limit": ["²"]},
        {"limit": ["9" * 5000]},
        {"after_id": ["a"], "before_id": ["b"]},
    ],
)
def test_a_query_that_is_none_is_refused(query):
    no = page_of_anthropic(MODELS, query)

    assert isinstance(no, Rejection)
    assert (no.reason, no.param) == (Reason.BAD_MEMBER, "before_id" if "before_id" in query else "limit")


def test_the_largest_page_may_be_asked_for():
    many = [named(f"m{number:04}") for number in range(LARGEST_PAGE + 1)]
    page = page_of_anthropic(many, {"limit": [str(LARGEST_PAGE)]})

    assert (len(page["data"]), page["has_more"], page["last_id"]) == (LARGEST_PAGE, True, "m0999")
