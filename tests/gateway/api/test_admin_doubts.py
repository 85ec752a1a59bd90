import threading

import pytest
from msgspec.structs import replace

from gateway.api import admin_doubts as module
from gateway.api.admin_doubts import MOST_COMPARED, MOST_MEASURED, MOST_NAMED, UNLIMITED, doubts
from gateway.config.reading import nearest
from gateway.config.settings import Organization
from gateway.identity.key_making import blank, create_key
from gateway.identity.records import Author, OrganizationRecord, TeamRecord
from gateway.upstream.catalog import Catalog

pytestmark = pytest.mark.asyncio(loop_scope="module")

AUTHOR = Author("a test")


def key(organization="acme", team="research", **terms):
    return replace(blank(organization, team, "ci"), **({"plan": "standard"} | terms))


async def test_a_key_without_a_mistake_raises_no_doubt(parts, store):
    """Names, aliases, families, replicas and beginnings of them are known; so are tenants like no other."""
    models = ("mistral-small", "small", "mistral-*", "*")
    backends = ("rack", "pool", "pool@10.0.0.1:8000", "pool@*", "r*")

    assert await doubts(parts, key()) == ()
    assert await doubts(parts, key(models=models, backends=backends)) == ()


async def test_a_key_that_nothing_limits_is_told(parts, store, monkeypatch):
    """Nothing above it either; one that calls no model needs no limit."""
    assert await doubts(parts, key(plan=None)) == (UNLIMITED,)
    assert await doubts(parts, key(plan=None, meters={"requests_per_minute": 3})) == ()
    assert await doubts(parts, key(plan=None, scopes=("admin:read",))) == ()
    for plans in (Organization("plan", {}), Organization(None, {"research": "plan"})):
        monkeypatch.setattr(parts, "organizations", {"acme": plans})
        assert await doubts(parts, key(plan=None)) == ()
    monkeypatch.setattr(parts, "organizations", {"acme": Organization(None, {"lab": "plan"})})
    assert await doubts(parts, key(plan=None)) == (UNLIMITED,)
    await parts.registry.put(
        TeamRecord(organization="acme", name="research", plan="standard"), AUTHOR, action="create", expected=0
    )
    assert await doubts(parts, key(plan=None)) == ()


async def test_a_key_of_a_suspended_level_is_told(parts, store):
    """Its calls are refused until somebody lifts that."""
    for level in (
        OrganizationRecord(name="acme", state="suspended"),
        TeamRecord(organization="acme", name="research", state="suspended"),
    ):
        await parts.registry.put(level, AUTHOR, action="create", expected=0)

    assert await doubts(parts, key()) == (
        "organization acme is suspended: nothing of it is served",
        "team acme/research is suspended: nothing of it is served",
    )


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


def called(parts, *names):
    """Return a catalog of models of these names."""
    (model,) = parts.catalog().models
    return Catalog([replace(model, name=name, aliases=()) for name in names])


async def test_of_very_many_names_the_few_that_are_most_like_one_are_measured(parts, store, monkeypatch):
    """Whatever they have in common: it takes a millisecond each, and calls would wait."""
    likely = [f"mistral-medium-3.5-instruct-{number:04}" for number in range(MOST_COMPARED - 2)]
    many, measured = called(parts, "llama-4-scout", *likely, "qwen-3-coder"), []

    def nearly(name, known, otherwise):
        measured.append(len(known))
        return nearest(name, known, otherwise)

    monkeypatch.setattr(parts, "catalog", lambda: many)
    monkeypatch.setattr(module, "nearest", nearly)
    models = ("qwen3-coder", "llama-4-scuot", "mistral-medium-3.5-instruct-x042")
    told = await doubts(parts, key("globex", "sales", models=models))

    assert measured == [MOST_MEASURED] * 3
    assert "did you mean `qwen-3-coder`?" in told[0]
    assert "did you mean `llama-4-scout`?" in told[1]
    assert "did you mean `mistral-medium-3.5-instruct-0" in told[2]


async def test_names_are_looked_for_beside_the_calls(parts, store, monkeypatch):
    """There may be thousands, and a key may name hundreds; what is seen of backends is asked where it is needed."""
    seen, asked = set(), []

    class Name(str):
        """A name that notes by which thread it is looked at."""

        __slots__ = ()

        def __eq__(self, other):
            seen.add(threading.current_thread())
            return str.__eq__(self, other)

        def __hash__(self):
            seen.add(threading.current_thread())
            return str.__hash__(self)

        def startswith(self, *begin):
            seen.add(threading.current_thread())
            return str.startswith(self, *begin)

    here, backends = called(parts, *(Name(f"model-{number}") for number in range(50))), parts.backends()
    monkeypatch.setattr(parts, "catalog", lambda: here)
    monkeypatch.setattr(parts, "backends", lambda: asked.append(1) or backends)
    seen.clear()
    assert await doubts(parts, key(models=("model-7", "model-4*"))) == ()
    assert seen
    assert (threading.main_thread() in seen, asked) == (False, [])

    assert await doubts(parts, key(backends=("rack",))) == ()
    assert asked == [1]


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


async def test_a_team_and_an_organization_are_looked_at_as_a_key_is(parts, store):
    """Without the levels below them; what a change leaves as it was is not told again."""
    team = TeamRecord(organization="globex", name="sales", models=("smal",))
    whole = OrganizationRecord(name="globex", backends=("rak",), local_only=True)
    shut = "nothing that this gateway serves can be called with its keys: the models, backends and local_only of the "

    assert await doubts(parts, team) == (
        "models: no model here is called smal, so that it allows nothing; did you mean `small`?",
        f"{shut}team and its organization leave none",
    )
    assert await doubts(parts, whole) == (
        "backends: no backend here is called rak, so that it allows nothing; did you mean `rack`?",
        f"{shut}organization leave none",
    )
    assert await doubts(parts, replace(team, plan="small"), team) == ()
    assert await doubts(parts, replace(team, models=("small",)), team) == ()
    assert len(await doubts(parts, replace(team, models=("smal", "tiny")), team)) == 3


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
