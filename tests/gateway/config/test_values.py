import pytest

from policies.meters import SORTS, largest

MODEL = "models:\n  m:\n    deployments:\n      - {{backend: gpu, model: m, {}}}\n"
TERMS = "models:\n  m:\n    deployments: [{{backend: gpu, model: m}}]\n    {}\n"
SECRET = "hunter2"


@pytest.mark.parametrize(
    ("snippet", "line", "where", "fragment"),
    [
        ("listen: {port: 0}\n", 2, "listen.port", "'0' is out of range; write a port from 1 to 65,535"),
        ("listen: {port: 65536}\n", 2, "listen.port", "out of range"),
        ("operations: {port: -1}\n", 2, "operations.port", "out of range"),
        ("operations: {port: http}\n", 2, "operations.port", "not a whole number"),
        ("listen: {host: 'a b'}\n", 2, "listen.host", "is no address"),
        ("listen: {host: http://h}\n", 2, "listen.host", "is no address"),
        ("telemetry: {sample: 1.1}\n", 2, "telemetry.sample", "out of range; write a share from 0 to 1"),
        ("telemetry: {sample: -0.1}\n", 2, "telemetry.sample", "out of range"),
        ("telemetry: {sample: all}\n", 2, "telemetry.sample", "not a plain decimal"),
        ("telemetry: {otlp_endpoint: 127.0.0.1:4318}\n", 2, "telemetry.otlp_endpoint", "http:// or https://"),
        ("telemetry: {otlp_endpoint: 'http://h:4318/?x=1'}\n", 2, "telemetry.otlp_endpoint", "a query"),
        ("limits: {body: 32mb}\n", 2, "limits.body", "is not a size"),
        ("limits: {body: 0}\n", 2, "limits.body", "out of range"),
        ("limits: {open_calls: 0}\n", 2, "limits.open_calls", "out of range"),
        ("limits: {open_calls: 1.5}\n", 2, "limits.open_calls", "not a whole number"),
        ("limits: {body_deadline: 0}\n", 2, "limits.body_deadline", "write seconds from 0.1 to 86,400"),
        ("store: {url: mysql://h}\n", 2, "store.url", "is no store"),
        ("store: {url: /run/redis.sock}\n", 2, "store.url", "is no store"),
        (
            "store: {url: 'localhost:6379'}\n",
            2,
            "store.url",
            "redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DB or redis+c",
        ),
        ("store: {url: 'redis://'}\n", 2, "store.url", "no valid host"),
        ("store: {url: redis://h/main}\n", 2, "store.url", "no database number"),
        ("store: {url: redis://h:99999}\n", 2, "store.url", "not a valid URL"),
        ("store: {url: 'unix://'}\n", 2, "store.url", "names no socket"),
        ("store: {when_down: panic}\n", 2, "store.when_down", "'panic' is not known here; write one of deny, local"),
        ("store: {allow_eviction: yes}\n", 2, "store.allow_eviction", "'yes' is neither true nor false; write true"),
        ("store: {url: 'redis+sentinel://h:26379'}\n", 2, "store.url", "does not end with a master's name"),
        ("store: {url: 'redis+sentinel://h:1/m/0/1'}\n", 2, "store.url", "write redis+sentinel://HOST:PORT,HOST:PORT"),
        ("store: {url: 'redis+sentinel://h:1,/m'}\n", 2, "store.url", "has a node that is no HOST:PORT"),
        ("store: {url: 'redis+sentinel://h:1/m#hunter2'}\n", 2, "store.url", "has a fragment"),
        ("store: {url: 'redis+cluster://'}\n", 2, "store.url", "has a node that is no HOST:PORT"),
        ("store: {url: 'redis+cluster://h:65536'}\n", 2, "store.url", "has a node that is no HOST:PORT"),
        ("store: {url: 'redis+cluster://[h]:1'}\n", 2, "store.url", "has a node that is no HOST:PORT"),
        ("store: {url: 'redis+cluster://h:1/1'}\n", 2, "store.url", "has a path, but a cluster has no databases"),
        ("store: {url: 'redis+cluster://h:1?db=1'}\n", 2, "store.url", "has a db, but a cluster has no databases"),
        ("store: {url: 'redis+proxy://h:1'}\n", 2, "store.url", "is no store"),
        ("organizations: {a: {time_zone: Berlin}}\n", 2, "organizations.a.time_zone", "did you mean `Europe/Berlin`?"),
        ("organizations: {a: {time_zone: 5}}\n", 2, "organizations.a.time_zone", "write an IANA name such as"),
        ("store: {data_dir: ~/data}\n", 2, "store.data_dir", "${HOME}"),
        ("store: {data_dir: ''}\n", 2, "store.data_dir", "is empty"),
        (MODEL.format("context_window: 0"), 5, "models.m.deployments[0].context_window", "out of range"),
        (MODEL.format("context_window: 8k"), 5, "models.m.deployments[0].context_window", "not a whole number"),
        (MODEL.format("price: 1.5"), 5, "models.m.deployments[0].price", "must be a mapping"),
        (MODEL.format("price: {input: 1.5}"), 5, "models.m.deployments[0].price.output", "is missing"),
        (MODEL.format("price: {input: -1, output: 1}"), 5, "models.m.deployments[0].price.input", "out of range"),
        (MODEL.format("price: {input: 1, output: 10001}"), 5, "models.m.deployments[0].price.output", "out of range"),
        (MODEL.format("price: {input: 1, output: free}"), 5, "models.m.deployments[0].price.output", "plain decimal"),
        (MODEL.format("price: {input: 1e-9, output: 1}"), 5, "models.m.deployments[0].price.input", "plain decimal"),
        (MODEL.format("price: {input: 1, output: 1, reasoning: x}"), 5, "models.m.deployments[0].price.reasoning", ""),
        (MODEL.format("price: {input: 0.0000001, output: 1}"), 5, "models.m.deployments[0].price.input", "is finer"),
        (TERMS.format("routing: {ttft_target: 0}"), 5, "models.m.routing.ttft_target", "out of range"),
        (TERMS.format("routing: {value_of_time: -0.1}"), 5, "models.m.routing.value_of_time", "out of range"),
        (TERMS.format("routing: {max_attempts: 0}"), 5, "models.m.routing.max_attempts", "attempts from 1 to 10"),
        (TERMS.format("routing: {max_attempts: 11}"), 5, "models.m.routing.max_attempts", "out of range"),
        (TERMS.format("routing: {tpot_target: 61}"), 5, "models.m.routing.tpot_target", "seconds an output token from"),
        (TERMS.format("routing: {max_price: 10001}"), 5, "models.m.routing.max_price", "USD a call from 0 to 10,000"),
        (TERMS.format("routing: {max_wait: -1}"), 5, "models.m.routing.max_wait", "seconds from 0 to 86,400"),
        (TERMS.format("routing: {policy: cheap}"), 5, "models.m.routing.policy", "write one of balanced, cheapest"),
        (TERMS.format("routing: {priority: top}"), 5, "models.m.routing.priority", "write one of high, normal, low"),
        (MODEL.format("weight: 1001"), 5, "models.m.deployments[0].weight", "write a weight from 1 to 1,000"),
        ("limits: {waiting_calls: 1_000_001}\n", 2, "limits.waiting_calls", "write calls from 0 to 1,000,000"),
        ("plans: {p: {routing: {max_wait: 5}}}\n", 2, "plans.p.routing.max_wait", "is not a setting of routing"),
        ("plans: {p: {routing: {policy: 1}}}\n", 2, "plans.p.routing.policy", "'1' is not known here"),
        (TERMS.format("deadlines: {total: 0.5}"), 5, "models.m.deadlines.total", "seconds from 1 to 86,400"),
        (TERMS.format("deadlines: {total: 86401}"), 5, "models.m.deadlines.total", "out of range"),
        (TERMS.format("deadlines: {keep_alive: 0}"), 5, "models.m.deadlines.keep_alive", "seconds from 1 to 86,400"),
        ("plans: {p: {requests_per_minute: 0}}\n", 2, "plans.p.requests_per_minute", "out of range"),
        ("plans: {p: {requests_per_minute: -5}}\n", 2, "plans.p.requests_per_minute", "out of range"),
        ("plans: {p: {tokens_per_minute: 1.5}}\n", 2, "plans.p.tokens_per_minute", "not a whole number"),
        ("plans: {p: {tokens_per_minute: 150119988}}\n", 2, "plans.p.tokens_per_minute", "counts exactly"),
        ("plans: {p: {tokens_per_minute: {burst: 5}}}\n", 2, "plans.p.tokens_per_minute.limit", "is missing"),
        ("plans: {p: {tokens_per_minute: {limit: 5, burst: 0}}}\n", 2, "plans.p.tokens_per_minute.burst", "of range"),
        ("plans: {p: {tokens_per_minute: [5]}}\n", 2, "plans.p.tokens_per_minute", "single value"),
        ("plans: {p: {concurrent_requests: 0}}\n", 2, "plans.p.concurrent_requests", "write slots, as far as"),
        ("plans: {p: {concurrent_requests: [5]}}\n", 2, "plans.p.concurrent_requests", "single value"),
        ("plans: {p: {tokens_per_day: {limit: 5, burst: 3}}}\n", 2, "plans.p.tokens_per_day.burst", "known are: limit"),
        ("plans: {p: {tokens_per_day: {limit: 5, enforce: no}}}\n", 2, "plans.p.tokens_per_day.enforce", "nor false"),
        ("plans: {p: {requests_per_second: 9007199255}}\n", 2, "plans.p.requests_per_second", "to 9,007,199,254"),
        ("plans: {p: {tokens_per_hour: 2501999793}}\n", 2, "plans.p.tokens_per_hour", "from 1 to 2,501,999,792"),
        ("plans: {p: {tokens_in_all: 9007199254740992}}\n", 2, "plans.p.tokens_in_all", "is out of range"),
        ("plans: {p: {budget_per_day: 0}}\n", 2, "plans.p.budget_per_day", "write USD, more than 0"),
        ("plans: {p: {budget_per_day: 9007200}}\n", 2, "plans.p.budget_per_day", "up to 9,007,199.254740991"),
        ("plans: {p: {budget_per_day: 0.0000000001}}\n", 2, "plans.p.budget_per_day", "finer than a billionth"),
        ("plans: {p: {tokens_in_all: 5, overrun: stop}}\n", 2, "plans.p.overrun", "write one of finish, cut"),
        ("plans: {p: {tokens_in_all: 5, when_down: cut}}\n", 2, "plans.p.when_down", "write one of deny, local"),
        ("organizations: {acme: {plan: ''}}\n", 2, "organizations.acme.plan", "is empty"),
        ("admin_key: ''\n", 2, "admin_key", 'is empty; write "${VAR}" or {file: PATH}'),
        ("admin_key: fifteen-letters\n", 2, "admin_key", "fewer than 16 characters, which can be guessed"),
        ("admin_key: a b\n", 2, "admin_key", "what no credential may"),
        ("admin_key: clé\n", 2, "admin_key", "what no credential may"),
        ("admin_key: [k]\n", 2, "admin_key", "must be a single value"),
        ("admin_key: {path: k}\n", 2, "admin_key", "without the one key `file`"),
        ("admin_key: {file: absent}\n", 2, "admin_key", "cannot be read: No such file"),
        ("admin_key: {file: .}\n", 2, "admin_key", "cannot be read: Is a directory"),
    ],
)
def test_a_value_out_of_its_rule_is_one_mistake_with_a_remedy(only_mistake_of, snippet, line, where, fragment):
    mistake = only_mistake_of(snippet)
    assert (mistake.line, mistake.where) == (line, where)
    assert fragment in f"{mistake.message}; {mistake.remedy}"


def test_the_largest_meters_that_stay_exact_are_accepted(settings_of):
    settings = settings_of(
        "backends: {gpu: {kind: vllm, base_url: http://h/v1}}\n"
        "plans:\n"
        "  p: {tokens_per_minute: 150119987, concurrent_requests: 9007199254740991, requests_per_hour: 2501999792}\n"
    )
    meters = settings.plans["p"].meters
    assert [meter.limit for meter in meters] == [largest(meter.kind) for meter in meters]
    assert all(meter.limit * max(1, SORTS[meter.kind].ticks) < 2**53 for meter in meters)


@pytest.mark.parametrize(
    ("backend", "key", "fragment"),
    [
        (
            "kind: vlm, base_url: http://h/v1",
            "kind",
            (
                "'vlm' is not known here; "
                "write one of openai, anthropic, nvidia, nim, vllm, sglang, llamacpp, lmstudio, transformers"
            ),
        ),
        ("kind: vllm", "base_url", "is missing"),
        ("base_url: http://h/v1", "kind", "is missing; say which engine it is: openai"),
        ("kind: vllm, base_url: ftp://h/v1", "base_url", "does not begin with http:// or https://"),
        ("kind: vllm, base_url: h/v1", "base_url", "does not begin with http:// or https://"),
        ("kind: vllm, base_url: 'http://'", "base_url", "no valid host"),
        ("kind: vllm, base_url: 'http:///v1'", "base_url", "no valid host"),
        ("kind: vllm, base_url: 'http://h,i/v1'", "base_url", "no valid host"),
        ("kind: vllm, base_url: http://10.0.0.256:80/v1", "base_url", "no valid host"),
        ("kind: vllm, base_url: http://h:0/v1", "base_url", "not a valid URL"),
        ("kind: vllm, base_url: http://h:port/v1", "base_url", "not a valid URL"),
        ("kind: vllm, base_url: 'http://[::1/v1'", "base_url", "not a valid URL"),
        ("kind: vllm, base_url: 'http://h/v 1'", "base_url", "not a valid URL"),
        ("kind: vllm, base_url: http://me:hunter2@h/v1", "base_url", "holds credentials"),
        ("kind: vllm, base_url: 'http://h/v1?a=hunter2'", "base_url", "has a query"),
        ("kind: vllm, base_url: 'http://h/v1#a'", "base_url", "has a query or a fragment"),
        ("kind: vllm, base_url: http://h/v1, api_key: {hunter2}", "api_key", "without the one key `file`"),
        ("kind: vllm, base_url: http://h/v1, api_key: !hunter2 a", "api_key", "has a YAML tag"),
        ("kind: vllm, base_url: http://h/v1, api_key: hunter2 hunter2", "api_key", "what no credential may"),
    ],
)
def test_a_bad_backend_is_told_without_showing_its_secrets(mistakes_of, backend, key, fragment):
    (mistake,) = mistakes_of(f"backends:\n  gpu: {{{backend}}}\n")
    assert (mistake.line, mistake.where) == (2, f"backends.gpu.{key}")
    assert fragment in f"{mistake.message}; {mistake.remedy}"
    assert SECRET not in str(mistake)


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("http://[::1]:8000/v1/", "http://[::1]:8000/v1"),
        ("https://gpu_a.internal/v1//", "https://gpu_a.internal/v1"),
    ],
)
def test_a_base_url_ends_without_a_slash(settings_of, url, kept):
    settings = settings_of(f"backends: {{gpu: {{kind: vllm, base_url: '{url}'}}}}\n")
    assert settings.backends[0].base_url == kept


@pytest.mark.parametrize(
    "url",
    [
        "embedded",
        "redis://h",
        "redis://:hunter2@h:6379/3",
        "rediss://h:6380/0?ssl_cert_reqs=none",
        "redis://[::1]:6379",
        "unix:///run/redis.sock?db=1",
        "redis+sentinel://a:26379,b:26379/main",
        "rediss+sentinel://me:hunter2@a:26379,[::1]:26379/main.1/3?ssl_cert_reqs=none",
        "redis+cluster://a:7000,10.0.0.7:7001,c",
        "rediss+cluster://:hunter2@a:7000/",
    ],
)
def test_the_stores_of_this_version_are_accepted(settings_of, url):
    settings = settings_of(f"backends: {{gpu: {{kind: vllm, base_url: http://h/v1}}}}\nstore: {{url: '{url}'}}\n")
    assert settings.store.url == url
    assert SECRET not in repr(settings)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "::1", "localhost", "gateway-0.internal"])
def test_addresses_and_names_can_be_listened_on(settings_of, host):
    settings = settings_of(f"backends: {{gpu: {{kind: vllm, base_url: http://h/v1}}}}\nlisten: {{host: '{host}'}}\n")
    assert settings.listen.host == host


def test_a_secret_comes_from_the_environment_or_from_a_file_beside_the_configuration(settings_of, tmp_path):
    (tmp_path / "key").write_text("  from-a-file\n")
    settings = settings_of(
        "admin_key: ${ADMIN}\n"
        "backends:\n"
        "  a: {kind: openai, base_url: http://h/v1, api_key: {file: key}}\n"
        "  b: {kind: openai, base_url: http://h/v1, api_key: {file: '${DIR}/key'}}\n"
        "  c: {kind: openai, base_url: http://h/v1, api_key: '${NONE:-fallback}'}\n",
        {"ADMIN": "from-the-environment", "DIR": str(tmp_path)},
    )
    assert settings.admin_key == "from-the-environment"
    assert [backend.api_key for backend in settings.backends] == ["from-a-file", "from-a-file", "fallback"]


def test_a_secret_file_that_holds_no_secret_is_a_mistake_that_does_not_show_it(mistakes_of, tmp_path):
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "two").write_text("hunter2\nhunter2\n")
    (tmp_path / "binary").write_bytes(b"hunter2\xff")
    mistakes = mistakes_of(
        "admin_key: {file: empty}\n"
        "backends:\n"
        "  a: {kind: openai, base_url: http://h/v1, api_key: {file: two}}\n"
        "  b: {kind: openai, base_url: http://h/v1, api_key: {file: binary}}\n"
    )
    assert [mistake.line for mistake in mistakes] == [1, 3, 4]
    for mistake, fragment in zip(mistakes, ("is empty", "what no credential may", "is not UTF-8"), strict=True):
        assert fragment in mistake.message
    assert SECRET not in "".join(map(str, mistakes))


def test_a_variable_in_the_wrong_place_is_not_shown(mistakes_of):
    mistakes = mistakes_of(
        "listen: {host: '${KEY} x', port: '${KEY}'}\n"
        "backends: {gpu: {kind: '${KEY}', base_url: '${KEY}'}}\n"
        "store: {url: '${KEY}'}\n"
        "telemetry: {sample: '${KEY}'}\n",
        {"KEY": SECRET},
    )
    assert len(mistakes) == 6
    assert SECRET not in "".join(map(str, mistakes))
