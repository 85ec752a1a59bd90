import pytest

from gateway.store.door import Store, StoreDown
from gateway.store.notes import Note, note_at


def test_a_note_is_read_by_its_stores_url_until_it_is_removed(tmp_path):
    """Whoever uses the store knows its URL alone; an empty note is one that is just being written."""
    ours, theirs = Note(tmp_path / "store"), note_at(f"unix://{tmp_path / 'store'}")
    assert theirs.read() is None
    for why, read in (("it has ended", "it has ended"), ("", None)):
        ours.write(why)
        assert theirs.read() == read
    ours.remove()
    ours.remove()

    assert theirs.read() is None
    assert list(tmp_path.iterdir()) == []


def test_where_there_is_no_room_for_a_note_nothing_is_said(tmp_path):
    """The directory may be gone: that is no reason to end."""
    note = Note(tmp_path / "gone" / "store")
    note.write("it has ended")

    assert note.read() is None


@pytest.mark.parametrize("url", ["redis://127.0.0.1/0", "redis+sentinel://a/m", "unix://user:word@/run/redis"])
def test_other_stores_have_none(url):
    """Somebody else runs them."""
    assert note_at(url) is None


async def test_whoever_is_refused_by_the_socket_is_told_what_the_note_says(tmp_path):
    """At once, and by the prober as long as it is there."""
    url = f"unix://{tmp_path / 'store'}"
    store = Store(url)
    Note(tmp_path / "store").write("it has ended twice")
    with pytest.raises(StoreDown, match=r"^the store cannot be reached: it has ended twice$"):
        await store.send(["PING"])
    await store.close()
