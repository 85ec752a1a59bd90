import pytest

from gateway.demo.backend import Simulated
from gateway.demo.fleet import Fleet

QUICK = Simulated("quick", "m", ttft=0.01, token_time=0.0005, api_key="k")
SLOW = Simulated("slow", "m", ttft=0.05, token_time=0.02, slots=2)


@pytest.fixture(scope="module")
def fleet():
    with Fleet([QUICK, SLOW]) as fleet:
        yield fleet
