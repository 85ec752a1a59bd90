import pytest

from gateway.store.addresses import address


def test_one_server_is_what_redis_py_reads_and_its_name_holds_no_password():
    where = address("redis://me:secret@store:6380/2")

    assert (where.deployment, where.urls, where.name) == (
        "one",
        ("redis://me:secret@store:6380/2",),
        "redis://store:6380/2",
    )
    assert address("unix:///run/store").name == "unix:///run/store"


def test_sentinels_share_user_password_and_database_and_name_a_master():
    where = address("redis+sentinel://me:p%40ss@a:26380,b/the%20books/3")

    assert (where.deployment, where.master, where.name) == ("sentinel", "the books", "a:26380,b (the books)")
    shared = {"username": "me", "password": "p@ss", "db": 3}
    assert where.options() == [{"host": "a", "port": 26380, **shared}, {"host": "b", "port": 26379, **shared}]


def test_a_clusters_nodes_may_be_of_any_number_and_speak_tls():
    where = address("rediss+cluster://:secret@[::1]:7000,b?ssl_ca_certs=/ca.pem")

    first, second = where.options()
    assert (where.deployment, where.name) == ("cluster", "[::1]:7000,b")
    assert (first["host"], first["port"], second["host"], second["port"]) == ("::1", 7000, "b", 6379)
    assert {each["connection_class"].__name__ for each in (first, second)} == {"SSLConnection"}
    assert {each["ssl_ca_certs"] for each in (first, second)} == {"/ca.pem"}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("store:6379", "begins with redis://"),
        ("http://store", "begins with redis://"),
        ("redis+ring://store", "begins with redis://"),
        ("redis+sentinel://a,b", "lacks the name of the master"),
        ("redis+cluster://a,,b", "host:port,host:port"),
        ("redis+cluster://:secret@a/3", "no databases: redis\\+cluster://a$"),
        ("redis+cluster://:secret@a/?db=3", "no databases: redis\\+cluster://a$"),
    ],
)
def test_a_url_that_is_wrong_is_told_with_what_would_be_right(url, message):
    with pytest.raises(ValueError, match=message):
        address(url)
