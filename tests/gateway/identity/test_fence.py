from gateway.identity.fence import HISTORY, VERSION, fence, read_fence


async def stood(store):
    (reply,) = await store.send(fence())
    return read_fence(reply)


async def test_a_store_without_records_has_a_name_for_its_history(store):
    """The same one every time it is asked."""
    first = await stood(store)

    assert first.version == 0
    assert len(first.history) > 16
    assert await stood(store) == first


async def test_the_version_is_the_last_that_was_given(store):
    """Of any record."""
    await store.send(("SET", VERSION, "41"))

    assert (await stood(store)).version == 41


async def test_a_store_that_was_emptied_begins_another_history(store):
    """Though the server is the same."""
    first = await stood(store)
    await store.send(("DEL", HISTORY))

    assert (await stood(store)).history != first.history
