import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.admin_paging import merged

NAMES = st.sets(st.text("abAB-_.09", min_size=1, max_size=3), max_size=12)


@given(stored=NAMES, of_file=NAMES, limit=st.integers(1, 5))
def test_following_the_cursor_tells_every_name_once_in_order(stored, of_file, limit):
    told, after = [], None
    while True:
        rest = sorted(name for name in stored if after is None or name > after)
        page, until = rest[:limit], rest[limit - 1] if len(rest) > limit else None
        names, after = merged(page, of_file, after=after, until=until, limit=limit)
        assert len(names) <= limit
        told += names
        if after is None:
            break
    assert told == sorted(stored | of_file)


@pytest.mark.parametrize(("of_file", "names"), [([], []), (["a", "b", "c"], ["b"])])
def test_a_page_whose_records_were_removed_meanwhile_goes_on_after_them(of_file, names):
    """The store's page ended at `b`, and none of it is there any more; the file's are told all the same."""
    assert merged([], of_file, after="a", until="b", limit=5) == (names, "b")
