import pytest
from msgspec.structs import replace

from gateway.api.admin_doubts import MOST_NAMED, doubts
from gateway.identity.key_making import blank, create_key
from gateway.identity.records import Author, TeamRecord
from gateway.upstream.catalog import Catalog

pytestmark = pytest.mark.asyncio(loop_scope="module")

AUTHOR = Author("a test")


def key(organization="acme", team="research", **terms):
    return replace(blank(organization, team, "ci"), **terms)


async def test_a_key_without_a_mistake_raises_no_doubt(parts, store):
    """Names, aliases, families, replicas and beginnings of them are known; so are tenants like no other."""
    models = ("mistral-small", "small", "mistral-*", "*")
    backends = ("rack", "pool", "pool@10.0.0.1:8000", "pool@*", "r*")

    assert await doubts(parts, key()) == ()
    assert await doubts(parts, key(models=models, backends=backends)) == ()


async def test_a_model_and_a_backend_that_are_not_here_are_told_with_the_nearest(parts, store):
    """Each by its field; they may come with a later file."""
    assert await doubts(parts, key(models=("mistral-smal", "small"), backends=("rak", "rack"))) == (
        "models: no model here is called mistral-smal, so that it allows nothing; did you mean `mistral-small`?",
        "backends: no backend here is called rak, so that it allows nothing; did you mean `rack`?",
    )


async def test_a_beginning_that_fits_nothing_is_told(parts, store):
    """With all there is, where nothing is near."""
    told = await doubts(parts, key(models=("gpt-*", "small")))

    assert told == (
        "models: no model here is called gpt-*, so that it allows nothing; known are: mistral-small, small",
    )


async def test_of_very_many_names_some_are_told(parts, store, monkeypatch):
    """And how many more there are."""
    (model,) = parts.catalog().models
    many = Catalog([replace(model, name=f"model-{number:02}", aliases=()) for number in range(MOST_NAMED + 2)])
    monkeypatch.setattr(parts, "catalog", lambda: many)

    (told,) = await doubts(parts, key(models=("zzz", "model-*")))

    assert told.endswith(
        "known are: " + ", ".join(f"model-{number:02}" for number in range(MOST_NAMED)) + " and 2 more"
    )


async def test_of_very_many_mistakes_the_first_are_told(parts, store):
    """Each is compared with what there is, which takes its time."""
    told = await doubts(parts, key(models=("small", *(f"zzz-{number}" for number in range(2 * MOST_NAMED)))))

    assert len(told) == MOST_NAMED
    assert "zzz-0" in told[0]


async def test_a_backend_that_has_not_told_its_models_may_have_it(parts, store, monkeypatch):
    """Who asks soon after a start is not misled."""
    monkeypatch.setattr(parts, "catalog", lambda: Catalog([], ["rack"]))

    (told,) = await doubts(parts, key(models=("small",)))

    assert told.endswith("called small (not heard of so far: rack), so that it allows nothing; it knows none at all")


async def test_a_key_that_opens_nothing_is_told(parts, store, registry):
    """By all levels together; one that calls no models is none."""
    team = TeamRecord(organization="acme", name="research", backends=("openai",))
    await registry.put(team, AUTHOR, action="create", expected=0)
    shut = "nothing that this gateway serves can be called with it: the models, backends and local_only of the key, "

    (told,) = await doubts(parts, key(local_only=True))
    assert told.startswith(shut)
    assert await doubts(parts, key()) == ()
    assert await doubts(parts, key(local_only=True, scopes=("admin:read",))) == ()
    assert await doubts(parts, key(team="other", local_only=True)) == ()


async def test_a_new_tenant_whose_name_is_nearly_anothers_is_told(parts, store, registry):
    """Of the store or the file; one that is there, and one like no other, is not."""
    await create_key(registry, AUTHOR, key())

    assert await doubts(parts, key("amce")) == (
        "organization: 'amce' was not there and is made with this key; did you mean `acme`?",
    )
    assert await doubts(parts, key("globexx")) == (
        "organization: 'globexx' was not there and is made with this key; did you mean `globex`?",
    )
    assert await doubts(parts, key("acme", "reserch")) == (
        "team: 'reserch' was not there and is made with this key; did you mean `research`?",
    )
    assert await doubts(parts, key("globex", "sale")) == (
        "team: 'sale' was not there and is made with this key; did you mean `sales`?",
    )
    for known in (key(), key("globex", "sales"), key("zzz", "research"), key("acme", "zzz")):
        assert await doubts(parts, known) == ()
