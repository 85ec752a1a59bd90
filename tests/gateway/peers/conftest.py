import pytest

from tests.gateway.identity.support import valkey


@pytest.fixture(scope="module")
def server():
    with valkey() as url:
        yield url
