"""What the tests of the admin API share."""

from gateway.config.settings import STANDARD
from policies.domain import Plan

ADMIN_KEY = "admin-key-of-the-tests"
PLANS = {"standard": STANDARD, "small": Plan("small", ())}
ZONES = {"acme": "UTC", "globex": "Asia/Kolkata"}
NEW = {"organization": "acme", "team": "research", "name": "ci"}
ROUTES = [
    ("POST", "/keys"),
    ("GET", "/keys"),
    ("DELETE", "/keys/000000000000"),
    ("GET", "/usage"),
    ("GET", "/usage?organization=acme"),
    ("GET", "/ledger/check"),
    ("GET", "/ledger/check?organization=acme"),
]


def error(response, status):
    """Return the error of an answer, having checked its shape and status."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert set(answer) == {"error"}
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert answer["error"]["type"] == ("invalid_request_error" if status < 500 else "server_error")
    return answer["error"]
