import pytest
from redis.asyncio.connection import DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, MaxConnectionsError, RedisClusterException

from gateway.store.failures import TROUBLE, why_down


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", "is out of memory"),
        ("READONLY You can't write against a read only replica.", "is a replica and takes no writes"),
        ("LOADING Valkey is loading the dataset in memory", "is loading its data"),
        ("CLUSTERDOWN The cluster is down", "is a cluster that is down"),
        ("MASTERDOWN Link with MASTER is down", "is a replica that has lost its master"),
        ("MISCONF Valkey is configured to save snapshots", "cannot write its snapshots"),
        ("NOREPLICAS Not enough good replicas to write.", "has too few replicas"),
        ("BUSY Valkey is busy running a script.", "is busy with a script"),
        ("WRONGPASS invalid username-password pair or user is disabled.", "refuses the user or password of store.url"),
        ("NOAUTH Authentication required.", "refuses the user or password of store.url"),
    ],
)
def test_a_server_that_cannot_serve_anybody_is_a_store_that_is_down(reply, words):
    error = DefaultParser.parse_error(reply)

    assert isinstance(error, TROUBLE)
    assert why_down(error).startswith(f"the store {words}")


@pytest.mark.parametrize(
    "error",
    [
        DefaultParser.parse_error("WRONGTYPE Operation against a key holding the wrong kind of value"),
        DefaultParser.parse_error("NOPERM this user has no permissions to run the 'keys' command"),
        DefaultParser.parse_error("ERR user_script:1: no such thing script: on @user_script:1."),
        DefaultParser.parse_error("BUSYKEY Target key name already exists."),
        DefaultParser.parse_error("CROSSSLOT Keys in request don't hash to the same slot"),
        DataError("Invalid input of type: 'NoneType'"),
        MaxConnectionsError("Too many connections"),
        RedisClusterException("MGET - all keys must map to the same key slot"),
    ],
)
def test_a_command_that_is_refused_says_nothing_of_the_store(error):
    assert isinstance(error, TROUBLE)
    assert why_down(error) is None


@pytest.mark.parametrize("error", [RedisConnectionError("no"), OSError("no"), RuntimeError("no")])
def test_what_breaks_a_connection_is_a_store_that_cannot_be_reached(error):
    assert isinstance(error, TROUBLE)
    assert why_down(error) == "the store cannot be reached: no"
