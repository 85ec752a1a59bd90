import pytest

BACKENDS = """\
backends:
  gpu: {kind: vllm, base_url: http://h/v1}
  paid: {kind: openai, base_url: http://h/v1}
"""
MODELS = """\
models:
  own: {deployments: [{backend: gpu, model: own}]}
  bare: {deployments: [{backend: paid, model: bare}]}
  paid:
    deployments: [{backend: paid, model: paid, price: {input: 0, output: 1.5}}]
  free: {fallbacks: [own], deployments: [{backend: paid, model: free, price: {input: 0, output: 0}}]}
  long: {fallbacks: [free, paid], aliases: [longest], deployments: [{backend: gpu, model: long}]}
  last: {fallbacks: [bare], deployments: [{backend: gpu, model: last, price: {input: 1, output: 1}}]}
"""
PRICED = MODELS.replace("model: bare}", "model: bare, price: {input: 1, output: 1}}")
FREE = "never refuses: nothing that these calls can use has a price"


def told(mistakes):
    return [(mistake.line, mistake.where) for mistake in mistakes]


def test_a_hosted_deployment_without_a_price_is_told_once_however_many_budgets_there_are(mistakes_of):
    plans = "plans:\n  a: {budget_per_day: 1, budget_per_month: 5}\n  b: {models: {bare: {budget_in_all: 5}}}\n"
    (mistake,) = mistakes_of(BACKENDS + MODELS + plans)
    assert (mistake.line, mistake.where) == (6, "models.bare.deployments[0].price")
    assert "is missing: a plan has a budget, and nobody knows what this deployment costs" in mistake.message
    assert "add `{input: USD, output: USD}`" in mistake.remedy


@pytest.mark.parametrize("model", ["bare", "last"])
def test_a_models_budget_wants_the_prices_of_all_that_may_serve_its_calls(mistakes_of, model):
    plans = f"plans: {{a: {{models: {{{model}: {{budget_per_day: 1}}}}}}}}\n"
    assert told(mistakes_of(BACKENDS + MODELS + plans)) == [(6, "models.bare.deployments[0].price")]


@pytest.mark.parametrize("model", ["paid", "long", "longest"])
def test_prices_that_no_call_of_a_budget_can_use_may_be_unknown(settings_of, model):
    settings_of(BACKENDS + MODELS + f"plans: {{a: {{models: {{{model}: {{budget_per_day: 1}}}}}}}}\n")


@pytest.mark.parametrize("model", ["own", "free"])
@pytest.mark.parametrize("budget", ["5", "{limit: 5, enforce: false}"])
def test_a_budget_that_nothing_is_charged_to_is_told(mistakes_of, model, budget):
    plans = f"plans:\n  a:\n    models:\n      {model}: {{tokens_in_all: 5,\n        budget_in_all: {budget}}}\n"
    (mistake,) = mistakes_of(BACKENDS + PRICED + plans)
    assert (mistake.line, mistake.where) == (16, f"plans.a.models.{model}.budget_in_all")
    assert (mistake.message, mistake.remedy) == (FREE, "give a deployment a `price`, or remove the line")


def test_a_budget_over_deployments_that_are_all_free_is_told_at_each_line(mistakes_of):
    models = "models: {own: {deployments: [{backend: gpu, model: own}]}}\n"
    mistakes = mistakes_of(BACKENDS + models + "plans:\n  a:\n    budget_per_day: 1\n    budget_per_month: 5\n")
    assert told(mistakes) == [(7, "plans.a.budget_per_day"), (8, "plans.a.budget_per_month")]
    assert {mistake.message for mistake in mistakes} == {FREE}


def test_a_priced_deployment_is_enough(settings_of):
    settings_of(BACKENDS + PRICED + "plans: {a: {budget_per_day: 1, models: {long: {budget_per_day: 0.5}}}}\n")


def test_models_that_only_the_backends_list_have_no_price_where_somebody_is_paid(mistakes_of):
    (mistake,) = mistakes_of(BACKENDS + "plans:\n  a: {budget_per_day: 1}\n")
    assert (mistake.line, mistake.where) == (5, "plans.a.budget_per_day")
    assert "nobody knows what the models of the backend 'paid' cost" in mistake.message
    assert "list the models under `models:` with their prices" in mistake.remedy


def test_models_that_only_own_engines_list_cost_nothing(only_mistake_of):
    mistake = only_mistake_of("plans:\n  a:\n    models: {x: {budget_per_day: 1}}\n")
    assert (mistake.line, mistake.where, mistake.message) == (4, "plans.a.models.x.budget_per_day", FREE)


@pytest.mark.parametrize(
    ("backends", "models", "where"),
    [
        ("{gpu: {kind: vlm, base_url: http://h/v1}}", "", "backends.gpu.kind"),
        ("{paid: 5}", "", "backends.paid"),
        ("5", "", "backends"),
        ("{gpu: {kind: vllm, base_url: http://h/v1}}", "models: 5\n", "models"),
        (
            "{paid: {kind: openai, base_url: http://h/v1}}",
            "models: {m: {deployments: [{backend: paid, model: m, price: 5}]}}\n",
            "models.m.deployments[0].price",
        ),
        (
            "{gpu: {kind: vllm, base_url: http://h/v1}}",
            "models: {m: {deployments: [{backend: gpu, model: m, price: {input: x, output: 0}}]}}\n",
            "models.m.deployments[0].price.input",
        ),
        (
            "{gpu: {kind: vllm, base_url: http://h/v1}}",
            "models: {m: {deployments: [{backend: gpv, model: m}]}}\n",
            "models.m.deployments[0].backend",
        ),
        (
            "{gpu: {kind: vllm, base_url: http://h/v1}}",
            "models: {m: {deployments: 5}}\n",
            "models.m.deployments",
        ),
    ],
)
def test_what_could_not_be_read_is_not_called_free_or_unpriced(mistakes_of, backends, models, where):
    (mistake,) = mistakes_of(f"backends: {backends}\n{models}plans: {{a: {{budget_per_day: 1}}}}\n")
    assert mistake.where == where


def test_a_budget_for_a_model_that_is_none_is_told_once(mistakes_of):
    (mistake,) = mistakes_of(BACKENDS + PRICED + "plans: {a: {models: {pain: {budget_per_day: 1}}}}\n")
    assert (mistake.message, mistake.remedy) == ("'pain' is not a model", "did you mean `paid`?")
