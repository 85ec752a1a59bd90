"""Plans with meters that are impossible or useless are refused with their lines, and good ones are not."""

import pytest

BACKENDS = """\
backends:
  gpu: {kind: vllm, base_url: http://h/v1}
  paid: {kind: openai, base_url: http://h/v1}
models:
  small: {aliases: [tiny], deployments: [{backend: gpu, model: small}]}
  large: {deployments: [{backend: paid, model: large, price: {input: 1.5, output: 7.5}}]}
plans:
  gold:
"""
FIRST = BACKENDS.count("\n") + 1
"""The line that a plan's first key is on."""


def plan(*lines):
    return BACKENDS + "".join(f"    {line}\n" for line in lines)


@pytest.mark.parametrize(
    ("lines", "line", "where", "fragment"),
    [
        (
            ["tokens_in_all: 5", "requests_per_minute: {limit: 5,", "  burst: 6}"],
            2,
            "requests_per_minute.burst",
            "6 is more than the limit of 5; write at most the limit, or remove burst",
        ),
        (
            ["requests_per_second: 10", "requests_per_minute: 600"],
            1,
            "requests_per_minute",
            "neither at once nor in the long run; lower its limit below 600 or its burst below 10, or remove it",
        ),
        (
            ["requests_per_second: {limit: 5, burst: 5}", "requests_per_hour: {limit: 3600, burst: 5}"],
            0,
            "requests_per_second",
            "never refuses: requests_per_hour lets through no more",
        ),
        (
            ["tokens_per_minute: 1000", "tokens_per_hour: 60000"],
            1,
            "tokens_per_hour",
            "lower its limit below 60,000 or its burst below 1,000, or remove it",
        ),
        (
            ["tokens_per_minute: 1000", "input_tokens_per_minute: 1000"],
            1,
            "input_tokens_per_minute",
            "never refuses: tokens_per_minute lets through no more",
        ),
        (
            ["output_tokens_per_hour: 2000", "tokens_per_hour: 2000"],
            0,
            "output_tokens_per_hour",
            "never refuses: tokens_per_hour lets through no more",
        ),
        (
            ["tokens_per_minute: 150", "input_tokens_per_minute: 100", "output_tokens_per_minute: 50"],
            0,
            "tokens_per_minute",
            "never refuses: input_tokens_per_minute and output_tokens_per_minute let through no more",
        ),
        (
            ["tokens_per_minute: 1000", "tokens_per_day: 2_000_000"],
            1,
            "tokens_per_day",
            "tokens_per_minute lets through at most 1,561,000 tokens in a day; write less than that, or remove it",
        ),
        (
            ["tokens_per_minute: 400_000", "tokens_per_day: 200_000"],
            0,
            "tokens_per_minute",
            "never refuses: tokens_per_day lets through no more, neither at once nor in the long run; lower its limit",
        ),
        (
            ["tokens_per_day: 1000", "tokens_per_week: 1000"],
            0,
            "tokens_per_day",
            "tokens_per_week lets through at most 1,000 tokens in a day",
        ),
        (
            ["tokens_per_day: 1000", "tokens_per_month: 31000"],
            1,
            "tokens_per_month",
            "tokens_per_day lets through at most 31,000 tokens in a month",
        ),
        (
            ["tokens_per_week: 1000", "tokens_in_all: 900"],
            0,
            "tokens_per_week",
            "tokens_in_all lets through at most 900 tokens in a week",
        ),
        (
            ["budget_per_week: 25", "budget_per_day: 25.5"],
            1,
            "budget_per_day",
            "budget_per_week lets through at most 25 USD in a day",
        ),
        (
            ["budget_per_month: 100", "budget_per_week: 200"],
            1,
            "budget_per_week",
            "budget_per_month lets through at most 200 USD in a week",
        ),
        (
            ["concurrent_requests: 5", "models:", "  small: {concurrent_requests: 5}"],
            2,
            "models.small.concurrent_requests",
            "the plan's own concurrent_requests lets through at most 5 slots at once",
        ),
        (
            ["requests_per_minute: 60", "models:", "  large:", "    requests_per_minute: 100"],
            3,
            "models.large.requests_per_minute",
            "the plan's own requests_per_minute lets through no more",
        ),
        (
            ["budget_in_all: 10", "models: {large: {tokens_per_day: 5,", "  budget_per_day: 10}}"],
            2,
            "models.large.budget_per_day",
            "the plan's own budget_in_all lets through at most 10 USD in a day",
        ),
        (
            ["models: {large: {tokens_per_day: 100,", "  tokens_per_week: 700}}"],
            1,
            "models.large.tokens_per_week",
            "never refuses: tokens_per_day lets through at most 700",
        ),
        (["tokens_per_day: 0"], 0, "tokens_per_day", "'0' is out of range; write tokens"),
        (["models:", "  lrge: {tokens_per_day: 5}"], 1, "models.lrge", "'lrge' is not a model; did you mean `large`?"),
        (
            ["models:", "  small: {tokens_per_day: 5}", "  tiny: {tokens_per_day: 6}"],
            2,
            "models.tiny",
            "is the same model as 'small'; keep one of them",
        ),
        (["models: {}"], 0, "models", "is empty; add `NAME: {METER: LIMIT}`, or remove the line"),
        (
            ["models:", "  small: {}"],
            1,
            "models.small",
            "has no meters, so it limits nothing; add one of requests_per_",
        ),
        (["overrun: cut", "when_down: local"], -1, "", "has no meters and no wishes, so it does nothing"),
        (
            ["routing: {}"],
            -1,
            "",
            "no wishes, so it does nothing; write `routing: {WISH: VALUE}`, or add one of requests_per_",
        ),
        (
            ["requests_per_minute: 5", "input_tokens_per_hour: 5", "overrun: cut"],
            2,
            "overrun",
            "enforces no meter of output, tokens or money, which a stream could outgrow; add such a meter, or remove",
        ),
        (["tokens_per_day: {limit: 5, enforce: false}", "overrun: finish"], 1, "overrun", "does nothing"),
        (["concurrent_requests: 5", "overrun: finish"], 1, "overrun", "does nothing"),
    ],
)
def test_a_plan_that_asks_for_what_cannot_be_is_refused_with_its_line_and_a_remedy(
    mistakes_of, lines, line, where, fragment
):
    (mistake,) = mistakes_of(plan(*lines))
    assert (mistake.line, mistake.where) == (FIRST + line, f"plans.gold.{where}".removesuffix("."))
    assert fragment in f"{mistake.message}; {mistake.remedy}"


@pytest.mark.parametrize(
    "lines",
    [
        ["requests_per_second: 20", "requests_per_minute: 600", "requests_per_hour: 20000", "concurrent_requests: 32"],
        ["requests_per_second: 10", "requests_per_minute: {limit: 300, burst: 60}"],
        ["input_tokens_per_minute: 300000", "output_tokens_per_minute: 30000", "tokens_per_minute: 320000"],
        ["tokens_per_minute: 400000", "tokens_per_day: 20_000_000", "tokens_per_week: 100_000_000"],
        ["tokens_per_week: 1999", "tokens_per_month: 1000", "tokens_in_all: 5000"],
        ["budget_per_day: 25", "budget_per_week: 100", "budget_per_month: 500", "budget_in_all: 1000", "overrun: cut"],
        ["requests_per_minute: 60", "models: {small: {requests_per_minute: {limit: 60, burst: 5}}}"],
        ["tokens_per_day: 500", "models: {tiny: {tokens_per_day: 400}, large: {budget_per_day: 5}}", "overrun: cut"],
        ["models: {large: {output_tokens_per_minute: 5}}", "overrun: cut", "when_down: local"],
        ["requests_per_minute: {limit: 5, enforce: false}", "when_down: local"],
    ],
)
def test_a_plan_each_of_whose_meters_can_refuse_is_accepted(settings_of, lines):
    assert settings_of(plan(*lines)).plans["gold"].meters


@pytest.mark.parametrize(
    "lines",
    [
        ["requests_per_second: {limit: 10, enforce: false}", "requests_per_minute: 600"],
        ["requests_per_second: 10", "requests_per_minute: {limit: 600, enforce: false}"],
        ["tokens_per_day: 10", "models: {small: {tokens_per_day: {limit: 10, enforce: false}}}"],
        ["tokens_per_day: {limit: 10, enforce: false}", "models: {small: {tokens_per_day: 10}}"],
    ],
)
def test_a_shadow_makes_no_meter_useless_and_is_itself_none(settings_of, lines):
    assert len(settings_of(plan(*lines)).plans["gold"].meters) == 2


def test_models_that_only_the_backends_list_may_have_any_name(settings_of):
    settings = settings_of(
        "backends: {gpu: {kind: vllm, base_url: http://h/v1}}\n"
        "plans: {gold: {models: {org/new-model: {tokens_per_day: 5}}}}\n"
    )
    assert [meter.model for meter in settings.plans["gold"].meters] == ["org/new-model"]


@pytest.mark.parametrize(
    ("lines", "where"),
    [
        (["requests_per_minuet: 5"], "requests_per_minuet"),
        (["requests_per_minuet: 5", "overrun: cut"], "requests_per_minuet"),
        (["requests_per_minute: 5", "tokens_per_day: x", "overrun: cut"], "tokens_per_day"),
        (
            ["requests_per_minute: 5", "tokens_per_day: {limit: 5, enforce: x}", "overrun: cut"],
            "tokens_per_day.enforce",
        ),
        (
            ["requests_per_minute: 5", "models: {large: {tokens_per_day: 0}}", "overrun: cut"],
            "models.large.tokens_per_day",
        ),
        (["requests_per_minute: 5", "overrun: x"], "overrun"),
        (["requests_per_second: {limit: 5, burst: 9}", "requests_per_minute: 300"], "requests_per_second.burst"),
        (["requests_per_second: {limit: x, burst: 9}", "requests_per_minute: 300"], "requests_per_second.limit"),
        (["models: {a b: {tokens_per_day: 5}}"], "models.a b"),
        (["models: {large: 5}"], "models.large"),
    ],
)
def test_what_could_not_be_read_is_not_judged_again(mistakes_of, lines, where):
    (mistake,) = mistakes_of(plan(*lines))
    assert mistake.where == f"plans.gold.{where}"


def test_models_are_not_blamed_when_the_files_could_not_be_read(mistakes_of):
    (mistake,) = mistakes_of(
        "backends: {gpu: {kind: vllm, base_url: http://h/v1}}\n"
        "models: 5\n"
        "plans: {gold: {models: {small: {tokens_per_day: 5}}}}\n"
    )
    assert mistake.where == "models"
