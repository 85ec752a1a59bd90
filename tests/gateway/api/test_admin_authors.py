from types import SimpleNamespace

import pytest

from gateway.api.admin_authors import author_of, note, request_id_in
from gateway.identity.records import Author


def test_whoever_was_noted_is_the_author_and_nobody_else():
    connection = SimpleNamespace(scope={"state": {}})
    assert request_id_in(connection.scope) is None
    assert request_id_in({}) is None
    with pytest.raises(KeyError):
        author_of(connection)
    author = Author("admin key", "127.0.0.1", "req_1")
    note(connection, author)
    assert author_of(connection) is author
    assert request_id_in(connection.scope) == "req_1"
