"""An OTLP/HTTP trace receiver in this process, for asserting what was really exported.

Law: spans are kept as the wire gave them; while it refuses or hangs, none are kept.
"""

import asyncio
import gzip
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1 import trace_pb2


@dataclass(frozen=True)
class Span:
    """One span: ids in hex (`parent_id` empty for none), kind and status by their short names, times in unix ns."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: str
    status: str
    status_message: str
    start: int
    end: int
    attributes: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]
    resource: dict[str, Any]
    scope: str


@dataclass
class Node:
    """A span and those whose parent it is, in the order of their starts."""

    span: Span
    children: list["Node"] = field(default_factory=list)

    def names(self) -> tuple[str, list[Any]]:
        """Return the tree's names: `("POST /v1/chat/completions", [("chat tiny", [])])`."""
        return self.span.name, [child.names() for child in self.children]


class OtlpReceiver:
    """Listens on a free port between entering and leaving. Set `status` for another answer; `hang` for none."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.exports = 0
        """Export requests that arrived, refused ones too."""
        self.status = 200
        self.hang = False
        self._released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def endpoint(self) -> str:
        """The base address that `telemetry.otlp_endpoint` takes; exporters add /v1/traces."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def recover(self) -> None:
        """Accept again: the requests that hang are let go, unanswered."""
        self.hang, self.status = False, 200
        self._released.set()
        self._released = threading.Event()

    async def wait_for(self, predicate: Callable[[list[Span]], Any], within: float = 10.0) -> list[Span]:
        """Return the spans once `predicate` likes them; else raise AssertionError, which names those that came."""
        try:
            async with asyncio.timeout(within):
                while not predicate(list(self.spans)):  # noqa: ASYNC110 - they come from another thread
                    await asyncio.sleep(0.02)
        except TimeoutError:
            names = [span.name for span in self.spans]
            raise AssertionError(f"not in {within} s: {len(names)} spans came: {names}") from None
        return list(self.spans)

    def tree(self, trace_id: str | None = None) -> list[Node]:
        """Return the roots (of one trace): the spans whose parent did not come here."""
        spans = sorted((span for span in self.spans if trace_id in (None, span.trace_id)), key=lambda span: span.start)
        nodes = {(span.trace_id, span.span_id): Node(span) for span in spans}
        roots = []
        for node in nodes.values():
            parent = nodes.get((node.span.trace_id, node.span.parent_id))
            (roots if parent is None else parent.children).append(node)
        return roots

    def take(self, path: str, body: bytes) -> int:
        """Keep one request's spans and return the answer's status."""
        self.exports += 1
        if self.hang:
            self._released.wait()
            return 0
        if path != "/v1/traces":
            return 404
        if self.status == 200:
            self.spans += [
                _span(span, resource.resource, scope.scope.name)
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans
                for scope in resource.scope_spans
                for span in scope.spans
            ]
        return self.status


def _handler(receiver: OtlpReceiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            status = receiver.take(self.path, body)
            if not status:
                return
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(status)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *words: object) -> None:
            """Say nothing."""

    return Handler


def _span(span: trace_pb2.Span, resource: Any, scope: str) -> Span:
    return Span(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        status=trace_pb2.Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_").lower(),
        status_message=span.status.message,
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        attributes=_values(span.attributes),
        events=[(event.name, _values(event.attributes)) for event in span.events],
        resource=_values(resource.attributes),
        scope=scope,
    )


def _values(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _values(value.kvlist_value.values)
    return getattr(value, kind) if kind else None
