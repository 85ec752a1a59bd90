import asyncio

import pytest
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode

from tests.parts.otlp import OtlpReceiver


@pytest.fixture
def receiver():
    with OtlpReceiver() as receiver:
        yield receiver


def tracer(receiver, compression=Compression.NoCompression, timeout=10.0):
    exporter = OTLPSpanExporter(f"{receiver.endpoint}/v1/traces", compression=compression, timeout=timeout)
    provider = TracerProvider(resource=Resource.create({"service.name": "parts"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider.get_tracer("a.scope")


def nested(tracer):
    with tracer.start_as_current_span("call", kind=SpanKind.SERVER) as call:
        call.set_attributes({"n": 3, "names": ["a", "b"], "yes": True, "part": 0.5})
        for name in ("first", "second"):
            with tracer.start_as_current_span(name) as attempt:
                attempt.add_event("broke", {"why": "reset"})
                attempt.set_status(Status(StatusCode.ERROR, "reset"))


@pytest.mark.parametrize("compression", [Compression.NoCompression, Compression.Gzip])
async def test_spans_arrive_whole_and_as_a_tree(receiver, compression):
    await asyncio.to_thread(nested, tracer(receiver, compression))
    spans = await receiver.wait_for(lambda spans: len(spans) == 3)
    (root,) = receiver.tree(spans[0].trace_id)
    assert root.names() == ("call", [("first", []), ("second", [])])
    assert (root.span.kind, root.span.parent_id, root.span.scope) == ("server", "", "a.scope")
    assert root.span.attributes == {"n": 3, "names": ["a", "b"], "yes": True, "part": 0.5}
    assert root.span.resource["service.name"] == "parts"
    first = root.children[0].span
    assert (first.status, first.status_message, first.events) == ("error", "reset", [("broke", {"why": "reset"})])
    assert root.span.start <= first.start <= first.end <= root.span.end


async def test_waiting_for_what_never_comes_names_what_came(receiver):
    await asyncio.to_thread(nested, tracer(receiver))
    with pytest.raises(AssertionError, match=r"3 spans came: .*second"):
        await receiver.wait_for(lambda spans: len(spans) == 4, within=0.1)


async def test_a_receiver_that_refuses_or_hangs_keeps_nothing_and_can_recover(receiver):
    impatient = tracer(receiver, timeout=0.3)
    receiver.status = 400
    await asyncio.to_thread(nested, impatient)
    receiver.hang = True
    await asyncio.to_thread(nested, impatient)
    assert receiver.exports >= 6
    assert receiver.spans == []
    receiver.recover()
    await asyncio.to_thread(nested, tracer(receiver))
    assert len(receiver.spans) == 3
