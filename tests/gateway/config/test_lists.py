import pytest

LONG = "x" * 129


@pytest.mark.parametrize(
    ("snippet", "line", "where", "fragment"),
    [
        ("organizations: {a/b: {}}\n", 2, "organizations.a/b", "no valid name; use 1 to 64"),
        ("organizations: {'a:b': {}}\n", 2, "organizations.a:b", "no valid name"),
        ("organizations: {'a{b}': {}}\n", 2, "organizations.a{b}", "no valid name"),
        ("organizations:\n  acme: {teams: {a/b: {}}}\n", 3, "organizations.acme.teams.a/b", "no valid name"),
        (f"organizations: {{? {LONG} : {{}}}}\n", 2, None, "no valid name"),
        ("plans: {'': {concurrent_requests: 1}}\n", 2, "plans.''", "no valid name"),
        ("models: {}\n", 2, "models", "is empty"),
        ("models:\n  a b: {deployments: [{backend: gpu, model: m}]}\n", 3, "models.a b", "no valid name"),
        ("models:\n  m: {deployments: []}\n", 3, "models.m.deployments", "is empty"),
        ("models:\n  m: {aliases: []}\n", 3, "models.m.deployments", "is missing"),
        ("models:\n  m: {deployments: {backend: gpu}}\n", 3, "models.m.deployments", "must be a list"),
        ("models:\n  m:\n    deployments:\n      - gpu\n", 5, "models.m.deployments[0]", "must be a mapping"),
        (
            "models:\n  m:\n    deployments: [{backend: gpu, model: m}]\n    aliases:\n      - n\n      - o p\n",
            7,
            "models.m.aliases[1]",
            "no valid name",
        ),
        (
            "models:\n  m:\n    deployments: [{backend: gpu, model: m}]\n    fallbacks: [~]\n",
            5,
            "models.m.fallbacks[0]",
            "has no value",
        ),
        (
            "models:\n  m:\n    deployments:\n      - {backend: gpu, model: m, modalities: []}\n",
            5,
            "models.m.deployments[0].modalities",
            "is empty",
        ),
        (
            "models:\n  m:\n    deployments:\n      - {backend: gpu, model: m, modalities: [text, vidio]}\n",
            5,
            "models.m.deployments[0].modalities[1]",
            "'vidio' is not known here; write one of text, image, audio, file",
        ),
    ],
)
def test_a_bad_item_is_told_where_it_stands(only_mistake_of, snippet, line, where, fragment):
    mistake = only_mistake_of(snippet)
    assert mistake.line == line
    assert where is None or mistake.where == where
    assert fragment in f"{mistake.message}; {mistake.remedy}"


def test_a_file_without_backends_serves_nothing(mistakes_of):
    for text in ("listen: {port: 1}\n", "backends: {}\n"):
        (mistake,) = mistakes_of(text)
        assert (mistake.line, mistake.where) == (1, "backends")
        assert "add at least one" in mistake.remedy


def test_models_may_have_slashes_and_colons_in_their_names_and_backends_colons(settings_of):
    settings = settings_of(
        "backends: {'rack:1:gpu': {kind: vllm, base_url: http://h/v1}}\n"
        "models: {org/model-1.5:free: {deployments: [{backend: 'rack:1:gpu', model: m}]}}\n"
    )
    assert settings.backends[0].name == "rack:1:gpu"
    assert settings.models[0].name == "org/model-1.5:free"


def test_an_unreadable_row_keeps_its_name_so_that_references_to_it_are_not_mistakes(mistakes_of):
    mistakes = mistakes_of(
        "backends: {gpu: vllm}\n"
        "models: {m: {deployments: [{backend: gpu, model: m}]}}\n"
        "plans: {gold: 600}\n"
        "organizations: {acme: {plan: gold}}\n"
    )
    assert [mistake.where for mistake in mistakes] == ["backends.gpu", "plans.gold"]
