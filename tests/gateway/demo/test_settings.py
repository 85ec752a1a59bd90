from pathlib import Path

from gateway.config.settings import StoreSettings
from gateway.demo.cast import GPUS, HOSTED, MODEL, ORGANIZATION
from gateway.demo.fleet import Fleet
from gateway.demo.settings import demo_settings


def test_the_gateway_gets_one_model_on_two_free_replicas_and_one_priced_endpoint():
    with Fleet([*GPUS, HOSTED]) as fleet:
        settings = demo_settings(fleet, 8600, Path("data"), failover=True)
        urls = {replica.name: replica.url + "/v1" for replica in fleet.replicas}
    (model,) = settings.models
    assert model.name == MODEL
    assert {backend.name: backend.base_url for backend in settings.backends} == urls
    assert [deployment.price.output for deployment in model.deployments] == [0, 0, 7_500_000]
    assert [deployment.kind for deployment in model.deployments] == ["vllm", "vllm", "openai"]
    assert settings.organizations[ORGANIZATION].plan == settings.plans["demo"]
    assert settings.plans["tiny"].meters[0].burst == 3
    assert settings.store.deadline > StoreSettings("embedded", Path("data")).deadline, "a busy machine is no outage"


def test_without_failover_a_call_is_tried_once():
    with Fleet([*GPUS, HOSTED]) as fleet:
        (model,) = demo_settings(fleet, 8600, Path("data"), failover=False).models
    assert model.routing.max_attempts == 1
