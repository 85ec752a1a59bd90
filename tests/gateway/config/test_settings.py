from pathlib import Path

import pytest
from rich.pretty import pretty_repr

from gateway.config.settings import HOSTED, KINDS, STANDARD, Backend, Limits, StoreSettings, default_price
from policies.domain import MeterKind, Price


@pytest.mark.parametrize("kind", KINDS)
def test_only_hosted_kinds_have_an_unknown_price_by_default(kind):
    assert default_price(kind) == (None if kind in HOSTED else Price(0, 0))


@pytest.mark.parametrize("kind", KINDS)
def test_a_backend_is_hosted_by_its_kind_unless_it_is_told(kind):
    assert Backend("b", kind, "http://h/v1").hosted == (kind in HOSTED)
    assert [Backend("b", kind, "http://h/v1", told_hosted=told).hosted for told in (True, False)] == [True, False]


def test_models_are_known_by_all_their_names_or_nobody_knows_which_there_are(settings_of):
    text = "backends: {gpu: {kind: vllm, base_url: http://h/v1}}\n"
    assert settings_of(text).model_names is None
    models = "models: {m: {aliases: [n], deployments: [{backend: gpu, model: x}]}}\n"
    assert settings_of(text + models).model_names == {"m": "m", "n": "m"}


def test_a_credential_is_not_printed():
    backend = Backend("hosted", "nvidia", "https://h/v1", "hunter2")
    store = StoreSettings("redis://:hunter2@h:6379/0", Path("data"))
    for value in (backend, store):
        assert "hunter2" not in repr(value)
        assert "hunter2" not in str(value)
        assert "hunter2" not in pretty_repr(value)
    assert repr(backend).startswith(
        "Backend(name='hosted', kind='nvidia', base_url='https://h/v1', api_key='***', transport='pooled', "
    )


def test_a_missing_credential_is_printed_as_missing():
    assert "api_key=None" in repr(Backend("gpu", "vllm", "http://h/v1"))


def test_the_standard_plan_bounds_requests_tokens_and_slots():
    assert {meter.kind: meter.limit for meter in STANDARD.meters} == {
        MeterKind.REQUESTS_PER_MINUTE: 600,
        MeterKind.TOKENS_PER_MINUTE: 400_000,
        MeterKind.CONCURRENT_REQUESTS: 32,
    }


def test_the_default_limits_are_those_of_the_reference():
    assert Limits() == Limits(body=33_554_432, buffered_total=536_870_912, open_calls=20_000, body_deadline=30.0)
