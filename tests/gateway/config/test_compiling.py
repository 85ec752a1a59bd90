from ipaddress import ip_network
from pathlib import Path

import pytest

from gateway.config.settings import (
    STANDARD,
    Backend,
    Issuer,
    Limits,
    Listen,
    Organization,
    Shutdown,
    StoreSettings,
    Telemetry,
    Tls,
)
from policies.domain import Deadlines, Deployment, Meter, MeterKind, Model, Plan, Price
from policies.subjects import Mapping
from policies.terms import RoutingTerms, RoutingWishes
from tests.parts.certificates import self_signed

FULL = """\
listen: {host: 0.0.0.0, port: 9000}
operations: {host: "::1", port: 9001}
admin_key: ${SLUICEWAY_ADMIN_KEY}
admin: {on: operations}
store: {url: "redis://h:6379/1", data_dir: ./at, when_down: local, allow_eviction: true, identity_grace: 6, deadline: 1}
limits: {body: 10MB, buffered_total: 100MB, open_calls: 5_000, body_deadline: 12.5, waiting_calls: 50}
shutdown: {pause: 5, grace: 600}
backends:
  hosted: {kind: nvidia, base_url: https://integrate.api.nvidia.com/v1, api_key: "${NVIDIA_API_KEY}"}
  gpu-a:  {kind: vllm, base_url: http://127.0.0.1:8000/v1/, max_in_flight: 64, requests_per_minute: 600}
  gpu-b:  {kind: llamacpp, base_url: "http://127.0.0.1:${PORT:-8010}/v1", hosted: true}
models:
  mistral-medium-3.5:
    aliases: [mistral-medium-latest]
    deployments:
      - {backend: gpu-a, model: mistralai/Mistral-Medium-3.5-128B, context_window: 131072, modalities: [text, image]}
      - backend: gpu-b
        model: mistral-medium-3.5-q4
        context_window: 32768
        price: {input: 0.01, output: 0}
        weight: 9
      - backend: hosted
        model: mistralai/mistral-medium-3.5-128b
        price: {input: 1.5, output: 7.5, cached_input: 0.15, reasoning: 8}
        tokenizer: other
    fallbacks: [any]
    routing:
      {ttft_target: 2.0, max_attempts: 1, tpot_target: 0.05, max_price: 0.5, policy: fastest,
       max_wait: 0, priority: high}
    deadlines: {total: 60, first_content: 20, stall: 12, keep_alive: 15}
    on_stream_failure: continue
  small:
    aliases: [any]
    deployments: [{backend: hosted, model: small, price: {input: 1, output: 2}}]
plans:
  gold:
    requests_per_minute: {limit: 600, burst: 50}
    tokens_per_minute: 400000
    budget_per_month: 500
    concurrent_requests: {limit: 32, enforce: false}
    overrun: cut
    when_down: deny
    routing: {value_of_time: 0.01, max_price: 0.000000001, priority: low}
    models:
      any:
        budget_per_month: 0.5
        requests_per_minute: {limit: 60, burst: 6, enforce: false}
      mistral-medium-3.5: {output_tokens_per_hour: 5000}
organizations:
  acme: {plan: gold, time_zone: Europe/Berlin, teams: {research: {plan: standard}, sales: {}}}
  guests: {}
issuers:
  sso:
    {issuer: https://sso.example/, audience: sluiceway, organization: acme, team_claim: [groups, team], plan: gold}
telemetry: {otlp_endpoint: http://127.0.0.1:4318/, sample: 0.1}
"""
GOLD = Plan(
    "gold",
    (
        Meter(MeterKind.REQUESTS_PER_MINUTE, 600, 50),
        Meter(MeterKind.TOKENS_PER_MINUTE, 400_000, 400_000),
        Meter(MeterKind.CONCURRENT_REQUESTS, 32, 32, enforce=False),
        Meter(MeterKind.BUDGET_PER_MONTH, 500 * 10**9, 500 * 10**9),
        Meter(MeterKind.REQUESTS_PER_MINUTE, 60, 6, enforce=False, model="small"),
        Meter(MeterKind.BUDGET_PER_MONTH, 5 * 10**8, 5 * 10**8, model="small"),
        Meter(MeterKind.OUTPUT_TOKENS_PER_HOUR, 5000, 5000, model="mistral-medium-3.5"),
    ),
    overrun="cut",
    when_down="deny",
    wishes=RoutingWishes(value_of_time=10_000_000, max_price=1, priority="low"),
)


def test_the_whole_file_is_compiled(settings_of, tmp_path):
    settings = settings_of(FULL, {"SLUICEWAY_ADMIN_KEY": "admin-key-of-the-file", "NVIDIA_API_KEY": "nvapi-1"})
    text = frozenset({"text"})
    assert settings.listen == Listen("0.0.0.0", 9000)
    assert settings.operations == Listen("::1", 9001)
    assert settings.admin_key == "admin-key-of-the-file"
    assert settings.admin_on == "operations"
    at = tmp_path / "at"
    assert settings.store == StoreSettings(
        "redis://h:6379/1", at, "local", allow_eviction=True, identity_grace=6, deadline=1
    )
    assert settings.shutdown == Shutdown(5, 600)
    assert settings.limits == Limits(10_000_000, 100_000_000, 5000, 12.5, waiting_calls=50)
    assert settings.backends == (
        Backend("hosted", "nvidia", "https://integrate.api.nvidia.com/v1", "nvapi-1"),
        Backend("gpu-a", "vllm", "http://127.0.0.1:8000/v1", None, max_in_flight=64, requests_per_minute=600),
        Backend("gpu-b", "llamacpp", "http://127.0.0.1:8010/v1", None, told_hosted=True),
    )
    assert settings.models == (
        Model(
            name="mistral-medium-3.5",
            aliases=("mistral-medium-latest",),
            deployments=(
                Deployment(
                    "gpu-a",
                    "vllm",
                    "mistralai/Mistral-Medium-3.5-128B",
                    131_072,
                    text | {"image"},
                    Price(0, 0),
                    "mistral",
                    max_in_flight=64,
                ),
                Deployment(
                    "gpu-b",
                    "llamacpp",
                    "mistral-medium-3.5-q4",
                    32_768,
                    text,
                    Price(10_000, 0),
                    hosted=True,
                    weight=9,
                ),
                Deployment(
                    "hosted",
                    "nvidia",
                    "mistralai/mistral-medium-3.5-128b",
                    None,
                    text,
                    Price(1_500_000, 7_500_000, cached_input=150_000, reasoning=8_000_000),
                    "other",
                    hosted=True,
                ),
            ),
            fallbacks=("small",),
            routing=RoutingTerms(
                ttft_target=2.0,
                max_attempts=1,
                tpot_target=0.05,
                max_price=500_000_000,
                policy="fastest",
                max_wait=0.0,
                priority="high",
            ),
            deadlines=Deadlines(60.0, 20.0, 12.0, 15.0),
            on_stream_failure="continue",
            told=frozenset(
                {"ttft_target", "max_attempts", "tpot_target", "max_price", "policy", "max_wait", "priority"}
            ),
        ),
        Model(
            name="small",
            aliases=("any",),
            deployments=(
                Deployment("hosted", "nvidia", "small", None, text, Price(1_000_000, 2_000_000), hosted=True),
            ),
            fallbacks=(),
            routing=RoutingTerms(ttft_target=None, value_of_time=2_000_000, max_attempts=3),
            deadlines=Deadlines(900.0),
        ),
    )
    assert settings.plans == {"standard": STANDARD, "gold": GOLD}
    assert settings.organizations == {
        "acme": Organization(GOLD, {"research": STANDARD, "sales": None}, "Europe/Berlin"),
        "guests": Organization(None, {}, "UTC"),
    }
    assert settings.issuers == (
        Issuer(
            name="sso",
            issuer="https://sso.example/",
            audience=("sluiceway",),
            mapping=Mapping(organization="acme", team_claim=("groups", "team")),
            plan="gold",
        ),
    )
    assert settings.telemetry == Telemetry("http://127.0.0.1:4318", 0.1)


def test_a_file_of_one_backend_has_every_default(settings_of, tmp_path):
    settings = settings_of("backends: {gpu: {kind: vllm, base_url: http://h/v1}}\n")
    assert settings.listen == Listen("127.0.0.1", 8600)
    assert settings.operations == Listen("127.0.0.1", 8601)
    assert settings.admin_key is None
    assert settings.admin_on == "callers"
    assert settings.issuers == ()
    assert settings.store == StoreSettings("embedded", tmp_path / "data", "deny")
    assert settings.limits == Limits()
    assert settings.models is None
    assert settings.plans == {"standard": STANDARD}
    assert settings.organizations == {}
    assert settings.telemetry == Telemetry(None, 1.0)


def test_a_file_may_give_the_standard_plan_other_numbers(settings_of):
    settings = settings_of(
        "backends: {gpu: {kind: vllm, base_url: http://h/v1}}\n"
        "plans: {standard: {concurrent_requests: 2}}\n"
        "organizations: {acme: {plan: standard}}\n"
    )
    plan = Plan("standard", (Meter(MeterKind.CONCURRENT_REQUESTS, 2, 2),))
    assert settings.plans == {"standard": plan}
    assert settings.organizations["acme"].plan == plan


def test_a_plan_without_a_word_for_it_lets_streams_finish_and_takes_the_stores_stance(settings_of):
    settings = settings_of(
        "backends: {gpu: {kind: vllm, base_url: http://h/v1}}\nplans: {p: {models: {any: {tokens_in_all: 5}}}}\n"
    )
    assert settings.plans["p"] == Plan("p", (Meter(MeterKind.TOKENS_IN_ALL, 5, 5, model="any"),), "finish", None)


def test_an_unpriced_hosted_deployment_costs_nobody_knows_what(settings_of):
    settings = settings_of(
        "backends: {h: {kind: openai, base_url: http://h/v1}}\nmodels: {m: {deployments: [{backend: h, model: m}]}}\n"
    )
    assert settings.models[0].deployments[0].price is None


@pytest.mark.parametrize(
    ("backend", "hosted"),
    [
        ("kind: openai", True),
        ("kind: nvidia, api_key: k", True),
        ("kind: vllm", False),
        ("kind: vllm, hosted: true", True),
        ("kind: openai, hosted: false", False),
    ],
)
def test_what_is_sent_to_a_hosted_kind_leaves_the_house_unless_the_file_says_otherwise(settings_of, backend, hosted):
    """An own server may speak as `openai` does, and somebody else's may be a vLLM."""
    settings = settings_of(
        f"backends: {{h: {{{backend}, base_url: http://h/v1}}}}\n"
        "models: {m: {deployments: [{backend: h, model: m}]}}\n"
    )
    assert [settings.backends[0].hosted, settings.models[0].deployments[0].hosted] == [hosted, hosted]


def test_an_absolute_data_directory_stays_where_it_is(settings_of):
    settings = settings_of("backends: {gpu: {kind: vllm, base_url: http://h/v1}}\nstore: {data_dir: /var/lib/s}\n")
    assert settings.store.data_dir == Path("/var/lib/s")


@pytest.mark.parametrize(
    ("written", "origins"),
    [
        ("[https://app.example.org, 'http://[::1]:3000']", ("https://app.example.org", "http://[::1]:3000")),
        ("https://app.example.org:8443", ("https://app.example.org:8443",)),
        ("'*'", ("*",)),
        ("['*']", ("*",)),
    ],
)
def test_origins_are_one_or_a_list(settings_of, written, origins):
    settings = settings_of(f"backends: {{gpu: {{kind: vllm, base_url: http://h/v1}}}}\nlisten: {{cors: {written}}}\n")
    assert settings.listen.cors == origins
    assert settings.operations.cors == ()


def test_tls_and_trusted_proxies_belong_to_the_callers_address(settings_of, tmp_path):
    self_signed(tmp_path / "tls")
    settings = settings_of(
        "backends: {gpu: {kind: vllm, base_url: http://h/v1}}\n"
        "listen:\n"
        "  tls: {cert: tls/cert.pem, key: ./tls/key.pem}\n"
        "  trusted_proxies: [10.0.0.0/8, '::1']\n"
        "limits: {connections: 100, connections_per_address: 5}\n"
    )
    tls = Tls(tmp_path / "tls" / "cert.pem", tmp_path / "tls" / "key.pem")
    proxies = (ip_network("10.0.0.0/8"), ip_network("::1"))
    assert settings.listen == Listen("127.0.0.1", 8600, tls, proxies)
    assert settings.operations == Listen("127.0.0.1", 8601)
    assert settings.limits == Limits(connections=100, connections_per_address=5)
