from typing import get_args

import pytest

from gateway.config.settings import HOSTED, KINDS
from policies.apis import APIS
from policies.dialects import DIALECTS, tokenizer_of
from policies.dialects.mistral_common import DROPS, EFFORTS
from policies.domain import API

EVERY = set(get_args(API))
OPENAI = {"chat", "completions", "embeddings"}


def test_every_kind_of_the_file_has_a_dialect_and_every_dialect_is_a_kind():
    """One engine a file, found under its own kind."""
    assert set(DIALECTS) == set(KINDS)
    assert all(dialect.kind == kind for kind, dialect in DIALECTS.items())


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.kind)
def test_priors_are_plausible(dialect):
    """Seconds, tokens a second, seconds a token: a wrong unit would route everything away."""
    assert 0.05 <= dialect.priors.ttft_fixed <= 5
    assert 500 <= dialect.priors.prefill_rate <= 50_000
    assert 0.001 <= dialect.priors.token_time <= 0.2
    assert 10 <= dialect.stall <= 120


@pytest.mark.parametrize(
    ("kind", "apis"),
    [
        ("openai", OPENAI | {"responses"}),
        ("anthropic", {"messages", "count_tokens"}),
        ("nvidia", OPENAI),
        ("nim", EVERY),
        ("vllm", EVERY),
        ("sglang", EVERY),
        ("llamacpp", EVERY),
        ("lmstudio", OPENAI | {"responses", "messages"}),
        ("transformers", {"chat", "completions", "responses"}),
    ],
)
def test_each_kind_has_its_apis(kind, apis):
    """A call goes only where its API is; the sources stand in each file."""
    assert DIALECTS[kind].apis == apis


def test_streams_are_asked_for_usage_but_where_it_is_told_unasked():
    """Transformers refuses the question; Messages has none to ask."""
    assert {kind for kind, dialect in DIALECTS.items() if dialect.usage == "always"} == {"transformers", "anthropic"}
    assert all("stream_options" not in kept for kept in DIALECTS["transformers"].keeps.values())
    assert not DIALECTS["anthropic"].apis & {"chat", "completions"}


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.kind)
def test_a_dialect_speaks_only_of_apis_that_it_has_and_keeps_what_they_need(dialect):
    """Else a rule would never hold, or a call would lose its prompt."""
    for rules in (dialect.keeps, dialect.renames, dialect.adds, dialect.slights):
        assert rules.keys() <= dialect.apis
    for api, kept in dialect.keeps.items():
        assert {"model", *APIS[api].needs} <= kept
        assert not kept & dialect.slights.get(api, frozenset()) - {"parallel_tool_calls"}
    for renames in dialect.renames.values():
        assert not renames.keys() & set(renames.values())
    assert not dialect.drops & {"model", "stream", "stream_options", *(n for s in APIS.values() for n in s.needs)}


def test_nobody_may_order_an_own_engines_queue():
    """Or the caller who says the smallest number is always first."""
    assert {kind for kind, dialect in DIALECTS.items() if "priority" in dialect.drops} == {
        "nvidia",
        "nim",
        "vllm",
        "sglang",
    }


def test_the_hosted_endpoint_has_its_bounds():
    """It else answers only after 300 seconds; 25 MiB; windows of a minute that refused calls count in."""
    hosted = DIALECTS["nvidia"]
    assert hosted.waits == ("nvcf-poll-seconds", 300)
    assert hosted.max_body == 26_214_400
    assert DIALECTS["vllm"].freeze < hosted.freeze < 60
    assert hosted.polls.startswith("/")
    assert hosted.polls.endswith("/")


def test_anthropic_is_called_with_its_own_key_header_and_a_version():
    """And it is somebody's who is paid."""
    assert DIALECTS["anthropic"].auth == ("x-api-key", "")
    assert DIALECTS["anthropic"].headers == (("anthropic-version", "2023-06-01"),)
    assert {dialect.auth for kind, dialect in DIALECTS.items() if kind != "anthropic"} == {("authorization", "Bearer ")}
    assert set(HOSTED) == {"openai", "anthropic", "nvidia"}


@pytest.mark.parametrize(
    ("kind", "health"),
    [
        ("vllm", "/health"),
        ("nim", "/v1/health/ready"),
        ("llamacpp", "/health"),
        ("transformers", "/health"),
        ("sglang", None),  # its own generates a token
        ("lmstudio", None),
        ("openai", None),
        ("anthropic", None),
        ("nvidia", None),
    ],
)
def test_only_free_questions_are_asked_about_health(kind, health):
    """None: the list of models."""
    assert DIALECTS[kind].health == health


@pytest.mark.parametrize(
    ("kind", "path", "running", "waiting", "kv_use"),
    [
        ("vllm", "/metrics", "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:gpu_cache_usage_perc"),
        ("nim", "/v1/metrics", "num_requests_running", "num_requests_waiting", "gpu_cache_usage_perc"),
        ("sglang", "/metrics", "sglang_num_running_reqs", "sglang_num_queue_reqs", "sglang_token_usage"),
        ("llamacpp", "/metrics", "llamacpp:requests_processing", "llamacpp:requests_deferred", "kv_cache_usage_ratio"),
    ],
)
def test_load_is_found_under_its_old_name_too(kind, path, running, waiting, kv_use):
    """The last of each figure's names; the newest stands first."""
    scrape = DIALECTS[kind].scrape
    assert scrape.path == path
    assert scrape.running[-1] == running
    assert scrape.waiting[-1] == waiting
    assert scrape.kv_use[-1].endswith(kv_use)


def test_every_name_of_a_load_has_one_meaning():
    """A figure that is two things would be read twice."""
    for dialect in DIALECTS.values():
        if dialect.scrape is not None:
            names = [*dialect.scrape.running, *dialect.scrape.waiting, *dialect.scrape.kv_use]
            assert len(set(names)) == len(names)


def test_engines_that_can_go_on_from_given_text_are_told_how():
    """The others are asked in words."""
    assert {kind: dialect.prefill for kind, dialect in DIALECTS.items() if dialect.prefill} == {
        "vllm": "flags",
        "nim": "flags",
        "sglang": "flags",
        "llamacpp": "implicit",
    }


def test_mistral_common_knows_two_efforts_and_no_template():
    """`none` and `high`; in Messages `none` is said by saying nothing."""
    assert {"chat_template", "chat_template_kwargs"} == DROPS
    for api, effort in EFFORTS.items():
        silence = None if APIS[api].family == "anthropic" else "none"
        assert set(effort.words.values()) == {silence, "high"}
        assert not {"none", "high"} & effort.words.keys()


@pytest.mark.parametrize(
    ("kind", "model", "tokenizer"),
    [
        ("vllm", "mistralai/Mistral-Medium-3.5-128B", "mistral"),
        ("nvidia", "mistralai/mistral-medium-3.5-128b", "mistral"),
        ("nim", "mistralai/devstral-small", "mistral"),
        ("vllm", "mistralai/Mixtral-8x7B-Instruct-v0.1", "mistral"),
        ("vllm", "Qwen/Qwen3-32B", "other"),
        ("vllm", "ours/central-13b", "other"),
        ("llamacpp", "mistral-medium-3.5-q4", "other"),
    ],
)
def test_an_engine_templates_mistrals_models_by_their_own_tokenizer(kind, model, tokenizer):
    """llama.cpp has the template in the GGUF, whatever the model."""
    assert tokenizer_of(kind, model) == tokenizer
