from gateway.metrics import Metrics


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
