"""What backends of another file list, as it is prepared and taken."""

import asyncio

import pytest
from msgspec.structs import replace

from gateway.config.settings import Backend
from gateway.upstream import scanning as module
from policies.rejections import Reason
from tests.gateway.harness import eventually
from tests.gateway.upstream.test_discovery_reloaded import Names
from tests.gateway.upstream.test_scanning import named
from tests.gateway.upstream.test_scanning_reloaded import short
from tests.parts.scripted import ScriptedServer


def place(name, upstream):
    return Backend(name, "openai", f"{upstream.url}/v1", probe_every=0)


async def test_without_models_a_file_that_changes_keeps_what_was_listed(keep, first):
    """And whoever comes has been asked before."""
    listing = place("a", first)
    kept = await keep([listing], None)
    assert kept.served == {"scripted": ["a"]}
    async with ScriptedServer("newer") as second:
        await kept.take([listing, place("b", second)], None)
        assert (kept.served, kept.published[-1].unheard) == ({"newer": ["b"], "scripted": ["a"]}, ())
        await kept.take([replace(listing, max_in_flight=2)], None)

    assert kept.served == {"scripted": ["a"]}
    assert kept.published[-1].models[0].deployments[0].max_in_flight == 2


async def test_models_may_be_named_or_no_longer_be(keep, first):
    """What is listed is asked for before it is needed, and no more when it is not."""
    listing = place("a", first)
    kept = await keep([listing], [short("a")])
    await kept.take([listing], None)
    assert kept.served == {"scripted": ["a"]}
    await kept.take([listing], [short("a")])

    assert kept.served == {"m": ["a"]}
    assert kept.scanning._rescanning is None


async def test_from_models_to_none_it_is_the_new_backends_that_are_asked(keep, first):
    """The old ones serve on for a moment at most, and may hang for what it matters."""
    async with ScriptedServer("newer") as second:
        old, new = place("a", first), place("b", second)
        kept = await keep([old], [short("a")])
        await kept.take([new], None)

    assert (kept.served, kept.published[-1].unheard) == ({"newer": ["b"]}, ())
    assert first.requests == []


async def test_a_backend_that_lists_nothing_in_time_holds_nothing_up_for_long(keep, first, monkeypatch):
    """It may still have any model; whoever lists is served."""
    monkeypatch.setattr(module, "LISTS_WITHIN", 0.5)
    held = asyncio.Event()
    async with ScriptedServer() as second:
        answer = second.handle
        second.handle = lambda request, connection: _after(held, answer, request, connection)
        backends = [place("a", first), place("b", second)]
        kept = await keep(backends, [short("a", "b")])
        await asyncio.wait_for(kept.take(backends, None), 5)
        assert (kept.served, kept.published[-1].unheard) == ({"scripted": ["a"]}, ("b",))
        held.set()
        await eventually(lambda: kept.served == {"scripted": ["a", "b"]})


async def _after(held, answer, request, connection):
    await held.wait()
    await answer(request, connection)


async def test_without_models_a_backend_that_moves_lists_what_is_there_now(keep, first):
    """If that cannot be asked, nothing is known of it: what its old place listed is not served by the new one."""
    listing = place("a", first)
    kept = await keep([listing], None)
    async with ScriptedServer("newer") as second:
        await kept.take([replace(listing, base_url=f"{second.url}/v1")], None)
        assert kept.served == {"newer": ["a"]}
    gone = replace(listing, base_url=f"{second.url}/v1/gone")
    await kept.take([gone], None)
    assert (kept.served, kept.published[-1].unheard) == ({}, ("a",))
    await kept.scanning.scan()

    assert (kept.served, kept.published[-1].missing("newer").reason) == ({}, Reason.NO_DEPLOYMENT)


@pytest.mark.parametrize("hangs", [False, True])
async def test_without_models_a_backend_or_family_that_is_renamed_serves_what_it_did(keep, first, monkeypatch, hangs):
    """Also where its engine is too busy to say so again, and the resolver away."""
    monkeypatch.setattr(module, "LISTS_WITHIN", 0.5)
    names = Names("127.0.0.1")
    plain, family = place("a", first), named(first, probe_every=0)
    kept = await keep([plain, family], None, resolve=names)
    held, answer = asyncio.Event(), first.handle
    if hangs:
        names.held.clear()
        first.handle = lambda request, connection: _after(held, answer, request, connection)
    await kept.take([replace(plain, name="b"), replace(family, name="two")], None)

    assert kept.served == {"scripted": ["b", f"two@127.0.0.1:{first.port}"]}
    assert kept.published[-1].unheard == ()
    held.set()
