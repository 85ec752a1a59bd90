import pytest
from msgspec.structs import replace

from gateway.config.settings import Backend
from gateway.upstream.catalog import Catalog, as_found, listed
from gateway.upstream.listing import Listed
from policies.domain import Price, Reach
from policies.rejections import Reason
from tests.policies.builders import deployment, model


def test_a_model_is_found_by_every_name():
    """And only by those."""
    import msgspec

    named = msgspec.structs.replace(model(deployment()), aliases=("latest",))
    catalog = Catalog([named])

    assert catalog.find("m") is catalog.find("latest") is named
    assert catalog.find("other") is None


def test_the_chain_is_the_model_and_its_fallbacks_once_each():
    """Even where they name one another."""
    one, two = model(name="one", fallbacks=["two"]), model(name="two", fallbacks=["one"])
    catalog = Catalog([one, two])

    assert catalog.chain(one) == [one, two]


def test_the_same_id_on_two_backends_is_one_model_with_two_deployments():
    """Local ones are free, hosted ones of unknown price."""
    backends = [
        Backend("gpu", "vllm", "http://x/v1", max_in_flight=8),
        Backend("hosted", "nvidia", "https://y/v1"),
    ]
    listings = {"gpu": [Listed("org/m", 4096)], "hosted": [Listed("org/m", None), Listed("other", None)]}

    catalog = listed(listings, backends)

    assert [m.name for m in catalog.models] == ["org/m", "other"]
    first, second = catalog.find("org/m").deployments
    assert (first.max_in_flight, second.max_in_flight) == (8, None)
    assert (first.context_window, first.price) == (4096, Price(0, 0))
    assert (second.context_window, second.price) == (None, None)


def test_a_model_that_nobody_serves_is_missing_for_good_only_once_everybody_was_heard():
    """A backend that is still starting may have it; and no name is echoed without bound."""
    gone, yet = Catalog(()).missing("x" * 1000), Catalog((), ["gpu-a"]).missing("m")

    assert gone.reason is Reason.MODEL_NOT_FOUND
    assert len(gone.message) < 250
    assert yet.reason is Reason.NO_DEPLOYMENT
    assert "gpu-a" in yet.message
    assert yet.retry_after_us


def test_each_replica_takes_as_many_calls_as_its_family_says():
    """They are machines of one kind; and each has the family's weight."""
    served = model(replace(deployment("gpu"), max_in_flight=8, weight=3))
    (found,) = as_found([served], {"gpu": ("gpu@a:1", "gpu@b:1")}, lambda _: None)

    assert [(one.max_in_flight, one.weight) for one in found.deployments] == [(8, 3), (8, 3)]


def test_a_deployment_on_a_family_is_one_on_each_replica():
    """In place, with its own price and modalities; a family without a replica yet stays, so that its model is known."""
    served = model(deployment("hosted"), deployment("gpu", window=5), deployment("none"))
    (found,) = as_found([served], {"gpu": ("gpu@a:1", "gpu@b:1"), "none": ()}, lambda _: None)

    assert [one.id for one in found.deployments] == ["hosted/m", "gpu@a:1/m", "gpu@b:1/m", "none/m"]
    assert [one.context_window for one in found.deployments] == [None, 5, 5, None]
    assert found.name == served.name


def test_a_window_that_was_written_down_is_kept_and_one_that_was_told_fills_the_gap():
    """An operator may know better."""
    served = model(deployment("told"), deployment("silent"), deployment("written", window=5))
    told = {"told": 4096, "written": 4096}
    (found,) = as_found([served], {}, lambda one: told.get(one.backend))

    assert [one.context_window for one in found.deployments] == [4096, None, 5]


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        ((("m1*",),), "m17, m18 and 1 more."),
        ((("m*",), ("m2",)), "It may use m2."),
        ((("x",),), "It may use none that are served here."),
        ((("m*",),), "m7, m8 and 10 more."),
    ],
)
def test_a_model_that_a_caller_may_not_use_is_refused_with_some_that_it_may(lists, words):
    """At most ten are named."""
    catalog = Catalog(
        [model(deployment(), name=f"m{number}") for number in (1, 2, *range(10, 12), *range(3, 10), *range(12, 21))]
    )

    refused = catalog.barred("other", Reach(models=lists))

    assert refused.reason is Reason.NOT_ALLOWED
    assert refused.param == "model"
    assert words in refused.message


def test_what_a_hosted_backend_lists_is_hosted():
    """A caller whose prompts stay local is not sent there, whoever wrote the model down."""
    backends = [Backend("a", "openai", "u"), Backend("b", "vllm", "u"), Backend("c", "vllm", "u", told_hosted=True)]

    catalog = listed({backend.name: [Listed("m", None)] for backend in backends}, backends)

    assert [one.hosted for one in catalog.find("m").deployments] == [True, False, True]
