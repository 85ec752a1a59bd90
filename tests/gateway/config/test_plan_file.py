import pytest

from gateway.config.mistakes import ConfigError
from gateway.config.plan_file import read_plan

PLAN = {
    "tokens_per_minute": {"limit": 1000, "burst": 50},
    "budget_per_month": 25.5,
    "models": {"small": {"requests_per_minute": {"limit": 60, "enforce": False}}},
    "overrun": "cut",
    "when_down": "local",
    "routing": {"value_of_time": 0.01, "policy": "balanced"},
}


@pytest.mark.parametrize(
    "text",
    [
        """
        tokens_per_minute: {limit: 1000, burst: 50}
        budget_per_month: ${BUDGET}
        models: {small: {requests_per_minute: {limit: 60, enforce: false}}}
        overrun: cut
        when_down: local
        routing: {value_of_time: 0.010, policy: balanced}
        """,
        """{"tokens_per_minute": {"limit": 1000, "burst": 50}, "budget_per_month": 25.5, "overrun": "cut",
            "models": {"small": {"requests_per_minute": {"limit": 60, "enforce": false}}}, "when_down": "local",
            "routing": {"policy": "balanced", "value_of_time": 0.01}}""",
    ],
    ids=["yaml", "json"],
)
def test_a_plan_is_read_as_the_gateways_file_reads_it(text):
    """Whoever moves a plan out of that file into the store changes nothing of it."""
    assert read_plan(text.encode(), "gold.yaml", {"BUDGET": "25.50"}) == PLAN


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[1]", ["gold.yaml:1: file: must be a mapping"]),
        ("", ["gold.yaml:1: file: is empty; name a meter"]),
        ("tokens_per_minute: [", ["gold.yaml:1: file: is not valid YAML"]),
        (
            "\nrequests_per_minit: 5\ntokens_per_day: 0\noverrun: cut",
            ["gold.yaml:2: requests_per_minit: is not a setting of a plan", "gold.yaml:3: tokens_per_day: "],
        ),
        ("when_down: local", ["gold.yaml:1: file: "]),
        (
            "routing:\n  policy: fastest\n  value_of_time: 1",
            ["gold.yaml:3: routing.value_of_time: does nothing: `policy: fastest` has a value of its own"],
        ),
    ],
)
def test_every_mistake_is_told_with_its_line(text, told):
    """All at once, as `sluiceway check` does."""
    with pytest.raises(ConfigError) as caught:
        read_plan(text.encode(), "gold.yaml", {})

    lines = [str(mistake) for mistake in caught.value.mistakes]
    assert len(lines) == len(told)
    assert [line[: len(start)] for line, start in zip(lines, told, strict=True)] == told
