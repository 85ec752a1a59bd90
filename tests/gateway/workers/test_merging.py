from prometheus_client.parser import text_string_to_metric_families

from gateway.metrics import Metrics, Vitals
from gateway.workers.merging import merged, readiness


def metrics(calls):
    made = Metrics()
    made.engines(lambda: {"a": Vitals(1, 2, None, None)})
    made.requests("chat", 'a "model"\nof {two} lines', 200).inc(calls)
    made.overhead.observe(0.003)
    made.gauge("sluiceway_open_calls", "Calls under way.", lambda: calls)
    return made.render().decode()


def test_every_sample_says_whose_it_is_and_none_is_missing():
    """Whatever is in its labels; sums are for who asks."""
    texts = {1: metrics(3), 2: metrics(4)}
    text = merged(texts, 2, {1: 0, 2: 5})
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    for number, alone in texts.items():
        mine = {
            (sample.name, *sorted((sample.labels | {"worker": str(number)}).items()), sample.value)
            for family in text_string_to_metric_families(alone)
            for sample in family.samples
        }
        assert mine <= {(sample.name, *sorted(sample.labels.items()), sample.value) for sample in found}
    assert len(found) == len(set(map(str, found)))
    assert sum(sample.value for sample in found if sample.name == "sluiceway_requests_total") == 7


def test_a_family_is_told_once_and_whole():
    """As Prometheus' format asks for: its help, its type, then all of its samples."""
    lines = merged({1: metrics(1), 2: metrics(1) + "# HELP late x\n# TYPE late gauge\nlate 1\n"}, 1, {}).splitlines()
    heads = [line for line in lines if line.startswith("#")]
    names = [line.split("{")[0].split(" ")[0] for line in lines if not line.startswith("#")]
    families = [name for i, name in enumerate(names) if not i or names[i - 1] != name]

    assert len(heads) == len(set(heads))
    assert len([head for head in heads if head.startswith("# HELP")]) == len(heads) / 2
    assert families.count("sluiceway_open_calls") == families.count("sluiceway_requests_total") == 1
    assert lines[-1] == 'late{worker="2"} 1'


def test_the_supervisors_own_are_there_even_if_no_worker_answers():
    """Somebody waits for the number of those that are ready."""
    families = {one.name: one for one in text_string_to_metric_families(merged({}, 0, {1: 0, 2: 5}))}

    assert families["sluiceway_workers"].samples[0].value == 0
    restarts = families["sluiceway_worker_restarts"]
    assert restarts.type == "counter"
    assert [(sample.labels, sample.value) for sample in restarts.samples] == [
        ({"worker": "1"}, 0),
        ({"worker": "2"}, 5),
    ]


def test_readiness_counts_and_says_what_is_not_as_it_should_be():
    """The same thing of several workers once."""
    assert readiness({1: "ok", 2: "ok"}, {}) == "ok: 2 of 2 workers are ready"
    assert readiness({1: "ok"}, {2: "starting"}) == "ok, but: 1 of 2 workers are ready\nworker 2: starting"
    assert readiness({}, {1: "no store", 2: "no store"}) == (
        "not ready: 0 of 2 workers are ready\nworker 1, worker 2: no store"
    )
    assert readiness({1: "ok, but x", 2: "ok, but x"}, {}) == (
        "ok: 2 of 2 workers are ready\nworker 1, worker 2: ok, but x"
    )
