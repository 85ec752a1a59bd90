from types import SimpleNamespace

import pytest
from litestar.exceptions import HTTPException, NotFoundException, ValidationException

from gateway.api.admin_answers import (
    BODY,
    CHANGING,
    LONGEST_PATH,
    Refused,
    answer_http,
    answer_refused,
    answer_store_down,
    answer_unexpected,
    conflict,
    no,
    noes,
    wrong,
)
from gateway.api.admin_fields import RULES
from gateway.store.door import StoreDown
from policies.rejections import Reason, Rejection

Asked = SimpleNamespace(method="GET", url=SimpleNamespace(path="/admin/v1/keys"))
"""A request, as far as an answer looks at it."""


def told(answer):
    """Return (status, error) of an answer."""
    assert answer.media_type == "application/json"
    return answer.status_code, answer.content.error


@pytest.mark.parametrize("param", RULES)
def test_a_parameter_at_fault_is_told_by_its_rule_and_not_by_the_validators_words(param):
    extra = [{"key": param, "message": "Expected `str` matching regex '^[a-z]$'"}]
    status, error = told(answer_http(Asked, ValidationException("nonsense", extra=extra)))
    assert (status, error.param, error.code) == (400, param, "invalid_value")
    assert error.message == f"{param}: {RULES[param]}"


def test_what_a_handler_found_wrong_is_told_in_its_words():
    status, error = told(answer_http(Asked, wrong("plan", "there is no such plan")))
    assert (status, error.param, error.message) == (400, "plan", "plan: there is no such plan")


def test_every_fault_is_told_and_the_first_is_the_param():
    extra = [{"key": "team", "message": "x"}, {"key": "name", "message": "y"}]
    _, error = told(answer_http(Asked, ValidationException(extra=extra)))
    assert error.param == "team"
    assert error.message == f"team: {RULES['team']}; name: {RULES['name']}"


@pytest.mark.parametrize(
    ("status", "type_"), [(404, "invalid_request_error"), (418, "invalid_request_error"), (500, "server_error")]
)
def test_a_refusal_keeps_its_status_and_headers(status, type_):
    answer = answer_http(Asked, HTTPException("because", status_code=status, headers={"x-why": "1"}))
    assert told(answer)[0] == status
    assert told(answer)[1].type == type_
    assert answer.headers["x-why"] == "1"


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_store_that_is_down_is_told_with_what_to_do(method):
    status, error = told(answer_store_down(SimpleNamespace(method=method), StoreDown("it sleeps.")))
    assert (status, error.code, error.type) == (503, "store_unavailable", "server_error")
    assert error.message.startswith("The store is down: it sleeps.")
    assert ("may have been made" in error.message) is (method == "PUT")


def test_a_fault_of_ours_is_told_without_its_details():
    status, error = told(answer_unexpected(Asked, RuntimeError("a secret detail")))
    assert (status, error.code) == (500, "internal_error")
    assert "secret" not in error.message


def test_whoever_is_refused_is_told_why_and_when_to_come_back():
    rejection = Rejection(Reason.STORE_DOWN, "it sleeps", retry_after_us=1_000_000)
    answer = answer_refused(Asked, Refused(rejection))
    status, error = told(answer)
    assert (status, error.code, error.type, error.message) == (503, "store_unavailable", "server_error", "it sleeps")
    assert answer.headers["retry-after"] == "1"
    assert "www-authenticate" not in answer.headers


def test_whoever_is_unknown_is_told_how_to_say_who_he_is():
    answer = answer_refused(Asked, Refused(Rejection(Reason.NO_KEY, "who are you?")))
    assert told(answer)[0] == 401
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("status", "code"),
    [(404, "not_found"), (409, "conflict"), (412, "precondition_failed"), (428, "precondition_required")],
)
def test_each_state_of_things_has_its_own_code(status, code):
    assert told(answer_http(Asked, HTTPException("because", status_code=status)))[1].code == code


def test_what_cannot_be_done_as_things_are_is_a_conflict():
    assert conflict("because").status_code == 409


def test_answers_that_are_a_no_are_described():
    assert set(noes("wrong")) == {400, 401, 403, 503}
    more = noes("wrong", not_found="gone", conflict="busy", **BODY, **CHANGING)
    assert set(more) == {400, 401, 403, 404, 409, 412, 413, 428, 503}
    assert (more[400].description, more[404].description) == ("wrong", "gone")
    assert no("gone").description == "gone"


def test_a_path_that_is_none_is_told_with_what_was_meant_and_not_repeated_at_any_length():
    app = SimpleNamespace(routes=[])
    long = SimpleNamespace(method="GET", url=SimpleNamespace(path="/" + "x" * 9999), app=app)
    wrong_base = SimpleNamespace(method="POST", url=SimpleNamespace(path="/chat/completions"), app=app)

    assert told(answer_http(wrong_base, NotFoundException()))[1].message.endswith("An OpenAI base_url ends with /v1.")
    assert told(answer_http(long, NotFoundException()))[1].message == (
        f"GET /{'x' * (LONGEST_PATH - 1)} is nothing this gateway does. GET /schema lists what there is."
    )
