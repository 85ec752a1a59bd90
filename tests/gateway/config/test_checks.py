import pytest

from tests.parts.certificates import self_signed

DEPLOYMENT = "deployments: [{backend: gpu, model: m}]"


def models(**terms):
    return "models:\n" + "".join(f"  {name}: {{{DEPLOYMENT}, {more}}}\n" for name, more in terms.items())


@pytest.mark.parametrize(
    ("snippet", "line", "where", "fragment"),
    [
        ("listen: {port: 8601}\n", 2, "listen.port", "8601 is both the callers' and the operations' port"),
        ("operations: {port: 8600}\n", 2, "operations.port", "8600 is both"),
        ("listen: {port: 90}\noperations: {port: 90}\n", 3, "operations.port", "choose another port"),
        ("limits: {body: 1GiB}\n", 2, "limits.body", "larger than all bodies together"),
        ("limits: {buffered_total: 1MiB}\n", 2, "limits.buffered_total", "make buffered_total the larger"),
        (
            "models:\n  m:\n    deployments:\n      - backend: gpv\n        model: m\n",
            5,
            "models.m.deployments[0].backend",
            "'gpv' is not a backend; did you mean `gpu`?",
        ),
        (
            "models:\n  m:\n    deployments:\n      - {backend: gpu, model: m}\n      - {model: m, backend: gpu}\n",
            6,
            "models.m.deployments[1]",
            "the same deployment as the one on line 5",
        ),
        (models(a="aliases: [x]", b="aliases: [y, x]"), 4, "models.b.aliases[1]", "'x' is already an alias of 'a'"),
        (models(a="aliases: [x, x]"), 3, "models.a.aliases[1]", "'x' is already an alias of 'a'"),
        (models(a="aliases: [b]", b="aliases: []"), 3, "models.a.aliases[0]", "'b' is the name of a model"),
        (models(a="aliases: [a]"), 3, "models.a.aliases[0]", "'a' is the name of a model"),
        (models(a="fallbacks: [a]"), 3, "models.a.fallbacks[0]", "to itself"),
        (models(a="aliases: [x], fallbacks: [x]"), 3, "models.a.fallbacks[0]", "to itself"),
        (models(a="fallbacks: [bb]", bbb=""), 3, "models.a.fallbacks[0]", "'bb' is not a model; did you mean `bbb`?"),
        (models(a="fallbacks: [b, b]", b=""), 3, "models.a.fallbacks[1]", "is given twice"),
        (models(a="fallbacks: [b, x]", b="aliases: [x]"), 3, "models.a.fallbacks[1]", "is given twice"),
        (
            models(a="fallbacks: [b]", b="fallbacks: [c]", c="fallbacks: [a]"),
            5,
            "models.c.fallbacks[0]",
            "fallbacks go round: a -> b -> c -> a; remove one",
        ),
        (
            models(a="fallbacks: [b]", b="fallbacks: [x]", c="aliases: [x], fallbacks: [b]"),
            5,
            "models.c.fallbacks[0]",
            "fallbacks go round: b -> c -> b",
        ),
        ("store: {allow_eviction: true}\n", 2, "store.allow_eviction", "the embedded store never evicts"),
        (
            "models: {m: {deployments: [{backend: gpu, model: m, price: {input: 1, output: 2,\n cached_input: 3}}]}}\n",
            3,
            "models.m.deployments[0].price.cached_input",
            "more than the price of other input; write at most that",
        ),
        ("organizations: {acme: {plan: standart}}\n", 2, "organizations.acme.plan", "did you mean `standard`?"),
        (
            "organizations:\n  acme:\n    teams:\n      research: {plan: gold}\n",
            5,
            "organizations.acme.teams.research.plan",
            "'gold' is not a plan; known are: standard",
        ),
    ],
)
def test_settings_that_do_not_fit_together_are_told(only_mistake_of, snippet, line, where, fragment):
    mistake = only_mistake_of(snippet)
    assert (mistake.line, mistake.where) == (line, where)
    assert fragment in f"{mistake.message}; {mistake.remedy}"


def test_every_ring_of_fallbacks_is_told_once(mistakes_of):
    text = models(a="fallbacks: [b]", b="fallbacks: [a]", c="fallbacks: [d]", d="fallbacks: [c]", e="fallbacks: [a, c]")
    mistakes = mistakes_of("backends: {gpu: {kind: vllm, base_url: http://h/v1}}\n" + text)
    assert [(mistake.line, mistake.where) for mistake in mistakes] == [
        (4, "models.b.fallbacks[0]"),
        (6, "models.d.fallbacks[0]"),
    ]


def test_fallbacks_that_meet_again_are_no_ring(settings_of):
    text = models(a="fallbacks: [b, c]", b="fallbacks: [d]", c="fallbacks: [d]", d="")
    settings = settings_of("backends: {gpu: {kind: vllm, base_url: http://h/v1}}\n" + text)
    assert [model.fallbacks for model in settings.models] == [("b", "c"), ("d",), ("d",), ()]


@pytest.mark.parametrize(
    "snippet",
    [
        "listen: {port: x}\noperations: {port: 8600}\n",
        "limits: {body: x, buffered_total: 1}\n",
        "plans: {gold: {requests_per_minute: x}}\norganizations: {acme: {plan: gold}}\n",
        "plans: {gold: {requests_per_minute: {limit: x, burst: 5}}}\n",
        "plans: 5\norganizations: {acme: {plan: gold}}\n",
        "models:\n  m: {deployments: [{backend: gpu, model: ''}, {backend: gpu, model: m}]}\n",
        "models: {m: {deployments: 5, fallbacks: [n]}, n: {deployments: [{backend: gpu, model: m}]}}\n",
    ],
)
def test_what_could_not_be_read_is_not_judged_again(only_mistake_of, snippet):
    assert only_mistake_of(snippet).line == 2 + snippet.startswith("models:\n")


def test_deployments_are_not_blamed_when_the_backends_could_not_be_read(mistakes_of):
    (mistake,) = mistakes_of("backends: [gpu]\nmodels: {m: {deployments: [{backend: gpu, model: m}]}}\n")
    assert mistake.where == "backends"


@pytest.mark.parametrize(
    ("cert", "key", "told"),
    [
        ("gone.pem", "key.pem", (3, "listen.tls.cert", "gone.pem cannot be read: No such file")),
        ("cert.pem", "gone.pem", (4, "listen.tls.key", "gone.pem cannot be read: No such file")),
        ("cert.pem", "other/key.pem", (4, "listen.tls.key", "name the key the certificate was made for")),
        ("key.pem", "cert.pem", (3, "listen.tls.cert", "holds no certificate")),
    ],
)
def test_a_certificate_that_nobody_could_be_shown_is_told(mistakes_of, tmp_path, cert, key, told):
    self_signed(tmp_path)
    self_signed(tmp_path / "other")
    text = "backends: {gpu: {kind: vllm, base_url: http://h/v1}}\n"
    (mistake,) = mistakes_of(f"listen: {{tls: {{\n\n  cert: {cert},\n  key: {key}}}}}\n{text}")
    assert (mistake.line, mistake.where) == told[:2]
    assert told[2] in f"{mistake.message}; {mistake.remedy}"


def test_a_certificate_without_its_key_is_told_once(only_mistake_of):
    mistake = only_mistake_of("listen: {tls: {cert: gone.pem}}\n")
    assert (mistake.where, mistake.message) == ("listen.tls.key", "is missing")


@pytest.mark.parametrize(
    ("origin", "fragment"),
    [
        ("app.example.org", "does not begin with http:// or https://; write it as browsers tell it: https://HOST"),
        ("ftp://app.example.org", "does not begin with http:// or https://"),
        ("https://", "names no valid host"),
        ("https://app.example.org/", "goes on behind its host, as no origin does (a slash is enough)"),
        ("https://app.example.org/chat", "goes on behind its host"),
        ("https://app.example.org?x=1", "goes on behind its host"),
        ("https://app.example.org#x", "goes on behind its host"),
        ("https://me:hunter2@app.example.org", "holds credentials"),
        ("https://App.example.org", "has capital letters, which no browser tells"),
        ("HTTPS://app.example.org", "has capital letters"),
        ("https://app.example.org:443", "names the usual port, which no browser tells"),
        ("http://app.example.org:80", "names the usual port"),
        ("https://app.example.org:", "names the usual port"),
        ("https://app.example.org:0443", "names the usual port"),
        ("https://h:08443", "has zeros before its port, which no browser tells; write https://h:8443"),
        ("https://[::1]:08443", "write https://[::1]:8443"),
        ("https://app.example.org:0", "is not a valid URL"),
        ("https://*.example.org", "has a * in it, which stands for nothing; write each origin, or '*' alone"),
        ("**", "has a * in it"),
        ("null", "is what every page without an origin tells"),
        ("http://localhost:3000", "is given twice; keep one of them"),
    ],
)
def test_an_origin_that_no_browser_tells_is_told(only_mistake_of, origin, fragment):
    """It would let in nobody, and nobody would know why."""
    mistake = only_mistake_of(f"listen:\n  cors:\n    - http://localhost:3000\n    - '{origin}'\n")
    assert (mistake.line, mistake.where) == (5, "listen.cors[1]")
    assert fragment in f"{mistake.message}; {mistake.remedy}"
    assert "hunter2" not in str(mistake)


def test_an_origin_beside_the_leave_for_all_is_told(only_mistake_of):
    mistake = only_mistake_of("listen:\n  cors: ['*', https://app.example.org]\n")
    assert (mistake.line, mistake.where) == (3, "listen.cors[1]")
    assert "changes nothing beside '*', which lets in every page; remove it, or remove '*'" in str(mistake)


def test_a_list_without_an_origin_is_told(only_mistake_of):
    mistake = only_mistake_of("listen: {cors: []}\n")
    assert (mistake.where, mistake.message) == ("listen.cors", "is empty")


@pytest.mark.parametrize("network", ["10.0.0.1/8", "proxy.example.org", "10.0.0.0/33", "*"])
def test_a_proxy_that_is_no_address_is_told(only_mistake_of, network):
    mistake = only_mistake_of(f"listen:\n  trusted_proxies: [127.0.0.1, '{network}']\n")
    assert (mistake.line, mistake.where) == (3, "listen.trusted_proxies[1]")
    assert "is no range of addresses; write an address or a range such as 10.0.0.0/8" in str(mistake)
