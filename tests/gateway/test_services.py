async def test_a_model_has_one_retry_budget(gateway):
    """Shared by its calls, not by other models."""
    services = gateway.services

    assert services.budget("m", 0.0) is services.budget("m", 9.0)
    assert services.budget("m", 0.0) is not services.budget("n", 0.0)
