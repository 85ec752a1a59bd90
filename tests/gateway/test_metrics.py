from gateway.metrics import Metrics, Vitals


def test_what_was_counted_is_rendered():
    """In Prometheus' text format, under the documented names."""
    metrics = Metrics()
    metrics.requests("chat", "m", "200").inc()
    metrics.gauge("sluiceway_x", "Read when scraped.", lambda: 7)

    text = metrics.render().decode()

    assert 'sluiceway_requests_total{api="chat",model="m",status="200"} 1.0' in text
    assert "sluiceway_x 7.0" in text


def test_two_gateways_in_one_process_do_not_share_a_registry():
    """Tests and workers rely on it."""
    one, other = Metrics(), Metrics()
    one.malformed.inc()

    assert "sluiceway_malformed_events_total 0.0" in other.render().decode()


def test_limits_and_money_have_their_series():
    """Dollars, shadow refusals by level and meter, growths by outcome."""
    metrics = Metrics()
    metrics.cost("m").inc(0.25)
    metrics.shadow_refusals("key", "tokens_per_day").inc()
    metrics.growths("granted").inc()

    text = metrics.render().decode()

    assert 'sluiceway_cost_usd_total{model="m"} 0.25' in text
    assert 'sluiceway_shadow_refusals_total{level="key",meter="tokens_per_day"} 1.0' in text
    assert 'sluiceway_growths_total{outcome="granted"} 1.0' in text


def test_what_the_probes_know_of_each_backend_is_read_when_scraped():
    """What is unknown has no series, and who has gone has none either."""
    metrics = Metrics()
    told = {"gpu-a": Vitals(1.0, 3.0, 0.0, 0.25), "hosted": Vitals(0.0, None, None, None), "new": Vitals(*[None] * 4)}
    metrics.engines(lambda: told)

    text = metrics.render().decode()
    series = [line for line in text.splitlines() if line.startswith(("sluiceway_engine", "sluiceway_backend"))]
    assert series == [
        'sluiceway_backend_up{backend="gpu-a"} 1.0',
        'sluiceway_backend_up{backend="hosted"} 0.0',
        'sluiceway_engine_running{backend="gpu-a"} 3.0',
        'sluiceway_engine_waiting{backend="gpu-a"} 0.0',
        'sluiceway_engine_kv_use{backend="gpu-a"} 0.25',
    ]
    told.clear()
    assert "gpu-a" not in metrics.render().decode()


def test_the_series_of_a_backend_that_has_gone_go_with_it():
    """And begin anew when it returns."""
    metrics = Metrics()
    for backend in ("gpu-gone", "gpu-kept"):
        metrics.attempts(backend, "ok").inc()
        metrics.in_flight(backend).inc()
        metrics.ttft(backend).observe(1.0)
    metrics.forget("gpu-gone")
    metrics.forget("never-seen")

    text = metrics.render().decode()
    assert "gpu-gone" not in text
    assert text.count("gpu-kept") > 3
    metrics.attempts("gpu-gone", "ok").inc()
    assert 'sluiceway_attempts_total{backend="gpu-gone",outcome="ok"} 1.0' in metrics.render().decode()
