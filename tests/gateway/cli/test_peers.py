import json

import msgspec
import pytest

from gateway.cli.peers import _odd
from gateway.roll import Row
from tests.gateway.cli.cells import cells

LOAD = {"open_calls": 41, "waiting": 2, "refused": False}
ROW = Row("0123456789ab", "abcdef012345", "0.1.0", 1_790_000_000, "gate-0:8600", **LOAD)


async def alive(store, *rows, left_ms=14_000):
    """Let gateways have told so of themselves a second ago."""
    for row in rows:
        told = row if isinstance(row, dict) else msgspec.to_builtins(row)
        key = f"sw:{{~id}}:gateway:{told['instance']}"
        await store.send(("SET", key, msgspec.json.encode(told), "PX", left_ms))
        await store.send(("SADD", "sw:{~id}:gateways", told["instance"]))


def changed(**told):
    return msgspec.structs.replace(ROW, **told)


async def test_each_gateway_is_shown_with_what_it_runs_on_and_its_load(sluiceway, store):
    """One line each; for programs all of it."""
    await alive(store, ROW)
    (found,) = json.loads((await sluiceway("peers", "--json")).stdout)
    head, line = cells((await sluiceway("peers")).stdout)

    lag = found.pop("lag")
    assert found == msgspec.to_builtins(ROW)
    assert 1 <= lag < 15
    assert head == ["gateway", "address", "version", "configuration", "open calls", "waiting", "lag", "started"]
    assert line[:6] == ["0123456789ab", "gate-0:8600", "0.1.0", "abcdef012345", "41", "2"]
    assert line[6].endswith(" s")
    assert line[7] == "2026-09-21 14:13"


async def test_what_most_gateways_do_not_run_on_is_marked(sluiceway, store):
    """And a newer file that was refused, where nobody else would say so."""
    others = (
        changed(instance="b"),
        changed(instance="c", refused=True),
        changed(instance="d", config="ffffffffffff"),
        changed(instance="e", version="0.2.0", config="eeeeeeeeeeee", refused=True),
    )
    await alive(store, ROW, *others)
    told = [line[2:4] for line in cells((await sluiceway("peers")).stdout)[1:]]

    assert told == [
        ["0.1.0", "abcdef012345"],
        ["0.1.0", "abcdef012345"],
        ["0.1.0", "abcdef012345 NEWER FILE REFUSED"],
        ["0.1.0", "ffffffffffff DIFFERS"],
        ["0.2.0 DIFFERS", "eeeeeeeeeeee DIFFERS NEWER FILE REFUSED"],
    ]


async def test_a_gateway_of_an_earlier_version_is_shown_without_what_it_does_not_tell(sluiceway, store):
    """A rolling upgrade has both."""
    await alive(store, {"instance": "a", "config": "c", "version": "0.0.9", "started": 1_790_000_000, "address": "h:1"})
    (_, line) = cells((await sluiceway("peers")).stdout)

    assert line[:6] == ["a", "h:1", "0.0.9", "c", "-", "-"]


async def test_where_nobody_runs_there_is_a_head_and_no_line(sluiceway):
    """The first beat of the gateway that answers may be on its way."""
    assert len(cells((await sluiceway("peers")).stdout)) == 1


@pytest.mark.parametrize(
    ("values", "odd"),
    [("aaa", ""), ("aab", "b"), ("ab", "ab"), ("aabbc", "abc"), ("aabc", "bc"), ("", "")],
)
def test_what_is_odd_is_what_most_do_not_have(values, odd):
    """Where several lead nobody knows which is right."""
    assert _odd(values) == set(odd)
