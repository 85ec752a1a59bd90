import pytest

from gateway.config.reading import Row, keys_of


def rows(row=Row):
    return [one for below in row.__subclasses__() for one in (below, *rows(below))]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.__name__)
def test_every_field_of_a_row_is_a_key_of_the_file(row):
    own = {field for field in row.__struct_fields__ if field not in Row.__struct_fields__}
    assert own == set(keys_of(row))


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.__name__)
def test_every_row_can_stand_without_having_been_read(row):
    assert row().lines == {}
    assert row.NOUN


def test_twelve_different_mistakes_are_twelve_right_lines(mistakes_of):
    mistakes = mistakes_of(
        """\
listen: {host: 127.0.0.1, port: 99999}
store:
  url: redis+cluster://h:7000/1
  when_down: locally
lmits: {body: 32MiB}
backends:
  gpu-a:
    kind: vlm
    base_url: http://me:secret@127.0.0.1:8000/v1
  hosted:
    kind: nvidia
    base_url: https://integrate.api.nvidia.com/v1
    api_key: ${NVIDIA_API_KEY}
    max_in_flight: 0
models:
  m:
    aliases: [n]
    deployments:
      - {backend: gpu-a, model: m, context_window: 0}
      - {backend: gpu-b, model: m, price: {input: -1.5, output: 7.5}}
    fallbacks: [m]
  n:
    deployments: []
plans:
  gold:
    requests_per_minute: {limit: 10, burst: 20}
    budget_per_month: 0
organizations:
  acme: {plan: silver, time_zone: Europe/Berln}
  acme: {plan: gold}
telemetry: {sample: 2}
"""
    )
    assert [(mistake.line, mistake.where) for mistake in mistakes] == [
        (1, "listen.port"),
        (3, "store.url"),
        (4, "store.when_down"),
        (5, "lmits"),
        (8, "backends.gpu-a.kind"),
        (9, "backends.gpu-a.base_url"),
        (13, "backends.hosted.api_key"),
        (14, "backends.hosted.max_in_flight"),
        (17, "models.m.aliases[0]"),
        (19, "models.m.deployments[0].context_window"),
        (20, "models.m.deployments[1].backend"),
        (20, "models.m.deployments[1].price.input"),
        (21, "models.m.fallbacks[0]"),
        (23, "models.n.deployments"),
        (26, "plans.gold.requests_per_minute.burst"),
        (27, "plans.gold.budget_per_month"),
        (29, "organizations.acme.plan"),
        (29, "organizations.acme.time_zone"),
        (30, "organizations.acme"),
        (31, "telemetry.sample"),
    ]
    assert all(mistake.message and mistake.remedy for mistake in mistakes)
    assert "secret" not in "".join(map(str, mistakes))
