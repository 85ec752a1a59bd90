from gateway.demo.cast import GPUS, HOSTED


def test_every_backend_of_the_show_says_that_it_is_simulated():
    """Nobody shall take it for a GPU."""
    assert all(backend.name.startswith("simulated") for backend in (*GPUS, HOSTED))


def test_the_hosted_one_is_the_slowest_to_begin():
    """As hosted endpoints are."""
    assert all(gpu.ttft < HOSTED.ttft for gpu in GPUS)
