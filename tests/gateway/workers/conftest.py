import pytest
from structlog.testing import capture_logs


@pytest.fixture
def told():
    """Give the entries of the log; printed ones would be found or not by what other tests made of the log before."""
    with capture_logs() as entries:
        yield entries
