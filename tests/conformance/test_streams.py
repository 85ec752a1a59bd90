"""Every engine's stream, cut at every byte: the same bytes out, the same facts, at the same moment."""

import itertools

import pytest

from policies.sse import Splitter
from policies.taps import tap_of
from policies.taps.chat import DONE
from tests.conformance.streams import GOLDEN, RETOLD, SEEN, STREAMS, TOO_LONG, UNSEEN, WHOLE

LONG = 3000
"""Bytes from which on a stream is not cut in two at each of them."""

every_stream = pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: stream.name)


def facts(tap):
    return tap.committed, tap.usage, tap.events, tap.finished, tap.done, tap.error, tap.error_shown, tap.malformed


def fed(stream, parts, *, withhold=True):
    """Feed the tap of a stream's API; return it and what it gave after each part."""
    tap = tap_of(stream.api, withhold_usage=withhold)
    return tap, [tap.feed(part) for part in parts]


def test_every_file_is_in_the_table():
    """A stream whose source is not told proves nothing."""
    assert {path.stem for path in GOLDEN.iterdir()} == {stream.name for stream in STREAMS}


@every_stream
def test_an_engines_stream_is_read_as_it_is_meant(stream):
    """Its usage to the token, its content events, its end."""
    tap, out = fed(stream, [stream.wire])

    assert b"".join(out) == stream.passed
    assert tap.usage == stream.usage
    assert (tap.events, tap.malformed) == (stream.events, 0)
    assert tap.committed == (stream.ends not in {UNSEEN, TOO_LONG})
    said = stream.ends in {SEEN, RETOLD, TOO_LONG} or stream.name.endswith(("_error_first", "_timeout"))
    assert (tap.error is not None) == said
    known = tap.error is not None and (b'"error":' in tap.error or b'"type":"error"' in tap.error)
    assert tap.error_shown == (stream.ends == SEEN or known)
    assert tap.finished == (stream.ends == WHOLE)


@every_stream
@pytest.mark.parametrize("withhold", [True, False], ids=["usage withheld", "usage passed"])
def test_where_the_network_cuts_it_changes_nothing(stream, withhold):
    """In two or at each byte: what is whole has gone out, what is not waits, and the end is the same."""
    wire = stream.wire
    events = Splitter().feed(wire)
    whole, steps = fed(stream, events, withhold=withhold)
    ends = list(itertools.accumulate(map(len, events)))
    out = b"".join(steps)
    for cut in range(1, len(wire), 1 + len(wire) // LONG):
        tap, (before, after) = fed(stream, [wire[:cut], wire[cut:]], withhold=withhold)
        assert before == b"".join(step for step, end in zip(steps, ends, strict=True) if end <= cut)
        assert before + after == out
        assert facts(tap) == facts(whole)
    tap, parts = fed(stream, [bytes([byte]) for byte in wire], withhold=withhold)
    assert (b"".join(parts), facts(tap)) == (out, facts(whole))


@every_stream
@pytest.mark.parametrize("end", [b"\r\n", b"\r"], ids=["CRLF", "CR"])
def test_other_line_ends_are_read_alike(stream, end):
    """As proxies rewrite them."""
    tap, out = fed(stream, [bytes([byte]) for byte in stream.wire.replace(b"\n", end)])
    whole, _ = fed(stream, [stream.wire])

    assert b"".join(out) == stream.passed.replace(b"\n", end)
    assert facts(tap) == facts(whole)


@every_stream
def test_usage_that_the_caller_asked_for_is_passed(stream):
    """The stream is then the upstream's to the byte, but for what follows an error."""
    _, out = fed(stream, [stream.wire], withhold=False)

    assert b"".join(out) == stream._replace(held=False).passed
    if stream.ends == WHOLE and DONE in stream.wire:
        assert b"".join(out) == stream.wire
