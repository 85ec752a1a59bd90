"""The soak of very many open streams, with few of them."""

import time
from collections import Counter

import pytest

from tests.bench.__main__ import upstream
from tests.bench.streams import Held, Reader, run, told


@pytest.mark.ci
@pytest.mark.timeout(120)
async def test_every_stream_through_two_workers_ends_whole(tmp_path):
    """With its events, its two descriptors, and no more than what the whole soak allows for twice."""
    with upstream() as url:
        held = await run(url, tmp_path, streams=200, workers=2, every=0.5, seconds=4, over=1.0)

    assert (held.finished, dict(held.statuses), held.events) == (200, {200: 200}, 200 * 8)
    assert held.descriptors == pytest.approx(2, abs=0.2)
    assert 0 < held.kb < 80
    assert told(held, 2)[0] == "200 streams over 2 worker(s): 200 ended with [DONE], {200: 200}"


HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
SAID = b"e\r\ndata: [DONE]\n\n\r\n"
END = b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("segments", "finished"),
    [
        ((HEAD, SAID + END), True),
        ((HEAD, SAID[:10], SAID[10:] + END), True),
        ((HEAD + SAID, END), True),
        ((HEAD, b"a\r\ndata: {}\n\n\r\n" + END), False),
    ],
)
async def test_only_a_stream_that_says_so_is_whole(segments, finished):
    """However it is cut into segments; chunks that end as they should are not enough."""
    ended = []
    reader = Reader(b"", [], lambda reader, status: ended.append((reader.finished, status)))
    for segment in segments:
        reader.data_received(segment)

    assert ended == [(finished, 200)]


async def test_an_event_is_late_by_what_it_says():
    """It says when it was written, on the clock of the same machine."""
    delays = []
    reader = Reader(b"", delays, lambda *_: None)
    reader.data_received(HEAD + b'data: {"content": "%019d"}' % (time.monotonic_ns() - 10**9))

    assert [round(delay) for delay in delays] == [1]


def test_what_is_told_of_no_stream_at_all_can_be_told():
    """A gateway that refused everybody is told of as well."""
    assert "0 ended with [DONE]" in told(Held(2, Counter({503: 2})), 1)[0]
