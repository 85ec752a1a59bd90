import random

import pytest
from msgspec.structs import replace

from policies.candidates import ANYWHERE
from policies.domain import Estimate, Reach
from policies.reach import MOST_NAMED
from policies.rejections import Reason
from policies.routing import route
from tests.policies.builders import deployment, model, request, snapshot

CALL = Estimate(10, 10, 20, 100)
IMAGE = request(
    messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}]
)
BLIND = snapshot(deployment())
VISION = model(deployment("eyes", modalities=("text", "image")), name="vision")
SMALL = deployment("hosted", kind="nvidia", modalities=("text", "image"))
HUGE = replace(IMAGE, size=26_214_401)


def refused(*snapshots, asked=IMAGE, models=(), reach=ANYWHERE, **terms):
    of = model(*(one.deployment for one in snapshots))
    return route(asked, [of], {"m": snapshots}, CALL, random.Random(1), reach=reach, models=(of, *models), **terms)


def test_media_that_no_deployment_takes_are_the_callers_to_change():
    """A 503 would be sent again and again; the words say where each stands, and what holds them."""
    no = refused(BLIND, snapshot(deployment("gpu-b")))

    assert (no.reason, no.shape.status, no.param) == (Reason.BAD_MEMBER, 400, "messages")
    assert no.message == "No deployment of 'm' takes this call: gpu-a/m takes no image; gpu-b/m takes no image."


def test_the_member_at_fault_is_the_one_that_its_api_has_them_in():
    asked = request(
        "responses", input=[{"role": "user", "content": [{"type": "input_image", "image_url": "https://x"}]}]
    )

    assert refused(BLIND, asked=asked).param == "input"


@pytest.mark.parametrize(
    "change",
    [
        {"drained": True},
        {"down": "its probe was answered 503", "deployment": SMALL, "retired": True},
        {"absent": "no replicas", "deployment": SMALL},
    ],
)
def test_where_one_is_out_for_anything_else_it_is_no_matter_of_the_call(change):
    """It may come back, and might take it."""
    assert refused(BLIND, replace(BLIND, **change)).reason is Reason.NO_DEPLOYMENT


def test_what_a_caller_may_not_pay_or_reach_is_no_matter_of_the_call():
    away = snapshot(replace(SMALL, hosted=True))

    assert refused(BLIND, away, reach=Reach(local_only=True)).reason is Reason.NO_DEPLOYMENT
    assert refused(BLIND, snapshot(replace(SMALL, price=None)), broke=True).reason is Reason.NO_DEPLOYMENT


def test_a_call_that_is_too_large_for_all_that_take_its_media_is_too_large():
    no = refused(BLIND, snapshot(SMALL), asked=HUGE)

    assert (no.reason, no.shape.status) == (Reason.TOO_LARGE, 413)
    assert "hosted/m takes at most 26214400 bytes" in no.message


def test_an_api_that_the_one_lacks_and_media_that_the_other_does_not_take_are_the_calls():
    image = {"type": "image", "source": {"type": "url", "url": "https://x"}}
    asked = request("messages", messages=[{"role": "user", "content": [image]}], max_tokens=5)

    assert refused(BLIND, snapshot(deployment("dev", kind="transformers")), asked=asked).reason is Reason.BAD_MEMBER


def test_the_models_are_named_that_would_take_it_and_that_the_caller_may_use():
    """Whatever becomes of their fleet; none whose backends are out of reach, or that is too small."""
    away = model(replace(SMALL, hosted=True), name="hosted")
    tight = model(deployment("tight", window=15, modalities=("text", "image")), name="tight")
    others = (VISION, away, tight, model(deployment("blind"), name="blind"))

    assert refused(BLIND, models=others).message.endswith(" Models that would take it: vision, hosted.")
    local = refused(BLIND, models=others, reach=Reach(local_only=True))
    assert local.message.endswith(" Models that would take it: vision.")
    narrow = refused(BLIND, models=others, reach=Reach(models=(("m", "hosted"),)))
    assert narrow.message.endswith(" Models that would take it: hosted.")
    assert refused(BLIND, models=(VISION, away), asked=HUGE).message.endswith(
        "takes no image. Models that would take it: vision."
    )


def test_not_all_of_very_many_models_are_named():
    many = [replace(VISION, name=f"v{number}") for number in range(MOST_NAMED + 2)]

    assert refused(BLIND, models=many).message.endswith(f", v{MOST_NAMED - 1} and 2 more.")
