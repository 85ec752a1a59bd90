import time

import pytest

from policies import sse
from policies.sse import EventTooLargeError, Splitter, data_of, event_of, has_data, named_error


def test_an_event_without_bounds_breaks_the_stream(monkeypatch):
    """Memory a stream is bounded."""
    monkeypatch.setattr(sse, "MAX_EVENT", 100)
    with pytest.raises(EventTooLargeError):
        Splitter().feed(b"data: " + b"x" * 200)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_events_are_cut_at_blank_lines_wherever_the_network_cuts(end):
    """With any line ends, each event keeps its own."""
    events = [b"event: a" + end + b"data: 1" + end * 2, b": ping" + end * 2, b"data: 2" + end + b"data: 3" + end * 2]
    stream = b"".join(events) + b"data: x" + end  # what follows tells whether a CR has its LF
    for cut in range(1, len(stream)):
        splitter = Splitter()
        assert splitter.feed(stream[:cut]) + splitter.feed(stream[cut:]) == events


def test_an_event_that_is_written_is_one_event():
    """With a name or without; its data is read as it was."""
    for event in (event_of(b"{}"), event_of(b"{}", "error")):
        assert Splitter().feed(event) == [event]
        assert data_of(event) == b"{}"
    assert event_of(b"{}", "error") == b"event: error\ndata: {}\n\n"


@pytest.mark.parametrize(
    ("event", "data", "named"),
    [
        (b": ping\n\n", b"", False),
        (b"event: error\ndata: no\n\n", b"no", True),
        (b"event:error\r\ndata:no\r\n\r\n", b"no", True),
        (b"\xef\xbb\xbfevent: error\n\n", b"", True),
        (b"event: errors\ndata: a\ndata: b\n\n", b"a\nb", False),
        (b"data: event: error\n\n", b"event: error", False),
    ],
)
def test_data_and_names_are_read_as_whatwg_has_it(event, data, named):
    """Lines of data are joined; a name counts only where a line begins with it."""
    assert (data_of(event), has_data(event), named_error(event)) == (data, bool(data), named)


@pytest.mark.parametrize("size", [1, 100])
def test_a_large_event_in_small_pieces_costs_as_much_a_piece_as_a_small_one(size):
    """A megabyte of pieces costs what the same pieces cost in many events, give or take a factor."""

    def seconds(pieces, events):
        splitter = Splitter()
        started = time.thread_time()
        for _ in range(events):
            for _ in range(pieces // events):
                splitter.feed(b"x" * size)
            assert len(splitter.feed(b"\n\n")) == 1
        return time.thread_time() - started

    pieces = 2**20 // size
    assert seconds(pieces, 1) < 8 * seconds(pieces, pieces // 100)
