import pytest

BACKENDS = """\
backends:
  gpu: {kind: vllm, base_url: http://h/v1, requests_per_minute: 40, max_in_flight: 8}
  paid: {kind: openai, base_url: http://h/v1}
"""
NO_PRICES = "would refuse every call: nobody knows what any of these deployments costs"
FREE = "never refuses: nothing that these calls can use has a price"


def model(*deployments, routing="", fallbacks="[]"):
    lines = "".join(f"      - {{{one}}}\n" for one in deployments)
    return (
        f"{BACKENDS}models:\n  m:\n    routing: {{{routing}}}\n    fallbacks: {fallbacks}\n    deployments:\n{lines}"
        "  free: {deployments: [{backend: gpu, model: free}]}\n"
        "  priced: {deployments: [{backend: paid, model: p, price: {input: 1, output: 1}}]}\n"
    )


OWN, UNPRICED, PRICED = (
    "backend: gpu, model: a",
    "backend: paid, model: b",
    "backend: paid, model: c, price: {input: 1, output: 0}",
)


@pytest.mark.parametrize("policy", ["cheapest", "fastest"])
def test_a_value_of_time_that_its_policy_does_not_ask_for_is_told(mistakes_of, policy):
    """In a model's routing and in a plan's."""
    text = model(OWN, routing=f"policy: {policy}, value_of_time: 1")
    plan = f"plans:\n  fast:\n    routing:\n      policy: {policy}\n      value_of_time: 1\n"
    mistakes = mistakes_of(text + plan)

    assert [(one.line, one.where) for one in mistakes] == [
        (6, "models.m.routing.value_of_time"),
        (16, "plans.fast.routing.value_of_time"),
    ]
    for one in mistakes:
        assert str(one).endswith(f"does nothing: `policy: {policy}` has a value of its own; keep one of them")


@pytest.mark.parametrize(
    ("policy", "does"),
    [("pinned", "goes by the order of the deployments alone"), ("weighted", "goes by the weights alone")],
)
def test_what_no_score_is_made_for_is_told(mistakes_of, policy, does):
    """A value of time and both targets change nothing of the order under it: in a model's routing and in a plan's."""
    wishes = {"value_of_time": 1, "ttft_target": 2, "tpot_target": 0.05}
    text = model(OWN, routing=", ".join(f"{name}: {value}" for name, value in {"policy": policy, **wishes}.items()))
    plan = f"plans:\n  fast:\n    routing:\n      policy: {policy}\n"
    mistakes = mistakes_of(text + plan + "".join(f"      {name}: {value}\n" for name, value in wishes.items()))

    assert [(one.line, one.where) for one in mistakes] == [
        *((6, f"models.m.routing.{name}") for name in sorted(wishes)),
        *((16 + index, f"plans.fast.routing.{name}") for index, name in enumerate(wishes)),
    ]
    for one in mistakes:
        assert str(one).endswith(f"does nothing: `policy: {policy}` {does}; keep one of them")


@pytest.mark.parametrize(
    "wishes",
    [
        "value_of_time: 1, ttft_target: 2, tpot_target: 0.05",
        "policy: balanced, value_of_time: 1, ttft_target: 2, tpot_target: 0.05",
        "policy: cheapest, ttft_target: 2, tpot_target: 0.05",
        "policy: fastest, ttft_target: 2, max_price: 1",
        "policy: pinned, max_price: 1, priority: low, max_wait: 5, max_attempts: 1",
        "policy: weighted, max_price: 1, priority: low, max_wait: 5, max_attempts: 1",
    ],
)
def test_what_a_policy_asks_for_is_taken(settings_of, wishes):
    """The most that a call may cost, and how it waits, count under each."""
    plan = f"plans: {{p: {{routing: {{{wishes.partition(', max_wait')[0]}}}}}}}\n"
    settings_of(model(OWN, PRICED, routing=wishes) + plan)


def test_a_wait_that_outlasts_the_call_is_told(mistakes_of, settings_of):
    """Where the file says both; up to the end of the call it is a wait."""
    rest = f"deployments: [{{{OWN}}}]"
    both = f"{BACKENDS}models:\n  m:\n    {rest}\n    deadlines: {{total: 60}}\n    routing: {{max_wait: "
    (mistake,) = mistakes_of(f"{both}60.5}}\n")

    assert (mistake.line, mistake.where) == (8, "models.m.routing.max_wait")
    assert mistake.message == "is never reached: the call ends after 60 s (deadlines.total)"
    assert mistake.remedy == "write at most that, or raise deadlines.total"
    settings_of(f"{both}60}}\n")
    settings_of(model(OWN, routing="max_wait: 3600"))
    settings_of(both.replace("60", "5").replace("routing: {max_wait: ", "routing: {") + "}\n")


def test_a_policy_that_cannot_be_read_is_told_and_nothing_else(mistakes_of):
    """What could not be read is not judged again."""
    (mistake,) = mistakes_of(model(OWN, routing="policy: fast, value_of_time: 1"))
    assert mistake.where == "models.m.routing.policy"


def test_a_weight_without_a_choice_is_told(mistakes_of):
    """Whoever asks for `weighted`, all calls go to the only one."""
    (mistake,) = mistakes_of(model(f"{OWN}, weight: 5"))
    assert (mistake.line, mistake.where) == (9, "models.m.deployments[0].weight")
    assert "does nothing: the model has no other deployment; remove the line" in str(mistake)


def test_a_weight_is_taken_where_a_key_may_ask_for_it(settings_of):
    """Keys and stored plans are not the file's to know."""
    (first, *_) = settings_of(model(f"{OWN}, weight: 5", PRICED)).models
    assert [one.weight for one in first.deployments] == [5, 1]


def test_the_most_that_a_call_may_cost_is_told_where_nobody_knows_any_price(mistakes_of):
    """No deployment of the model could ever serve; a fallback with a price does not mend that."""
    (mistake,) = mistakes_of(model(UNPRICED, routing="max_price: 1", fallbacks="[priced]"))
    assert (mistake.line, mistake.where) == (6, "models.m.routing.max_price")
    assert (mistake.message, mistake.remedy) == (NO_PRICES, "give one a `price`, or remove the line")


@pytest.mark.parametrize("fallbacks", ["[]", "[free]"])
def test_the_most_that_a_call_may_cost_is_told_where_all_is_free(mistakes_of, fallbacks):
    """It could never refuse."""
    (mistake,) = mistakes_of(model(OWN, routing="max_price: 1", fallbacks=fallbacks))
    assert (mistake.where, mistake.message) == ("models.m.routing.max_price", FREE)


@pytest.mark.parametrize(
    ("deployments", "fallbacks"),
    [((OWN, PRICED), "[]"), ((UNPRICED, PRICED), "[]"), ((OWN, UNPRICED), "[]"), ((OWN,), "[priced]")],
)
def test_the_most_that_a_call_may_cost_is_taken_where_it_decides(settings_of, deployments, fallbacks):
    """Some deployment can serve, and some may be too dear."""
    settings_of(model(*deployments, routing="max_price: 1", fallbacks=fallbacks))


def test_a_plan_is_judged_by_all_models(mistakes_of, settings_of):
    """Any of them may be called."""
    plan = "plans: {thrifty: {routing: {max_price: 0}}}\n"
    (unknown,) = mistakes_of(f"{BACKENDS}models: {{m: {{deployments: [{{{UNPRICED}}}]}}}}\n{plan}")
    (free,) = mistakes_of(f"{BACKENDS}models: {{m: {{deployments: [{{{OWN}}}]}}}}\n{plan}")

    assert [unknown.message, free.message] == [NO_PRICES, FREE]
    assert settings_of(model(OWN) + plan).plans["thrifty"].wishes.max_price == 0


def test_a_plan_over_models_that_backends_list_is_judged_by_their_kinds(mistakes_of, settings_of):
    """Hosted ones have no price that anybody knows, own ones cost nothing."""
    plan = "plans: {thrifty: {routing: {max_price: 0}}}\n"
    gpu, paid = "gpu: {kind: vllm, base_url: http://h/v1}", "paid: {kind: openai, base_url: http://h/v1}"

    assert [one.message for one in mistakes_of(f"backends: {{{gpu}}}\n{plan}")] == [FREE]
    assert [one.message for one in mistakes_of(f"backends: {{{paid}}}\n{plan}")] == [NO_PRICES]
    settings_of(f"backends: {{{gpu}, {paid}}}\n{plan}")


def test_a_mistake_in_a_price_is_told_alone(mistakes_of):
    """Nobody knows what was meant."""
    (mistake,) = mistakes_of(model("backend: paid, model: a, price: x", routing="max_price: 1"))
    assert mistake.where == "models.m.deployments[0].price"


def test_who_waits_and_how_long_is_told_where_nobody_may(mistakes_of, settings_of):
    """At each line that says it."""
    text = model(OWN, routing="max_wait: 5, priority: high") + "plans: {p: {routing: {priority: low}}}\n"
    mistakes = mistakes_of(text + "limits: {waiting_calls: 0}\n")

    assert [one.where for one in mistakes] == [
        "models.m.routing.max_wait",
        "models.m.routing.priority",
        "plans.p.routing.priority",
    ]
    assert {one.message for one in mistakes} == {"does nothing: no call may wait (limits.waiting_calls is 0)"}
    assert settings_of(text + "limits: {waiting_calls: 1}\n").limits.waiting_calls == 1
    assert settings_of(model(OWN) + "limits: {waiting_calls: 0}\n").limits.waiting_calls == 0
