"""The one door to OpenTelemetry: one server span a call, one client span an attempt.

Law: names and attributes are those of the GenAI and HTTP semantic conventions where they have one, `sluiceway.*`
otherwise; attributes are set once, in bulk, and only on a span that is recorded; no prompt, answer or credential is
among them. Without an endpoint nothing is recorded, and a caller's trace context still reaches the backend.
"""

import asyncio
import logging
from collections.abc import Sequence
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from opentelemetry.semconv.attributes import (
    client_attributes,
    error_attributes,
    http_attributes,
    server_attributes,
    url_attributes,
)
from opentelemetry.trace import (
    INVALID_SPAN,
    NonRecordingSpan,
    NoOpTracer,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from gateway import clock
from policies.domain import API, Candidate, Usage

__all__ = ["Attributes", "Span", "Telemetry", "finish", "propagate", "usage_attributes"]

Attributes = dict[str, AttributeValue]

OPERATIONS: dict[API, str] = {
    "chat": gen_ai.GenAiOperationNameValues.CHAT.value,
    "completions": gen_ai.GenAiOperationNameValues.TEXT_COMPLETION.value,
    "embeddings": gen_ai.GenAiOperationNameValues.EMBEDDINGS.value,
    "responses": gen_ai.GenAiOperationNameValues.CHAT.value,
    "messages": gen_ai.GenAiOperationNameValues.CHAT.value,
    "count_tokens": "count_tokens",
    "tokenize": "tokenize",
}

EXPORT_WITHIN = 3.0
"""Seconds an export may take with all of its retries: a receiver that is down must not hold up a stop."""

logging.getLogger("opentelemetry.trace.span").setLevel(logging.ERROR)  # else it tells every caller's bad tracestate

_propagator = TraceContextTextMapPropagator()


class Telemetry:
    """The tracer of one gateway."""

    def __init__(self, endpoint: str | None, sample: float, *, version: str, instance: str) -> None:
        self._provider: TracerProvider | None = None
        self._tracer: trace.Tracer = NoOpTracer()
        self._sample = sample
        if endpoint is not None:
            resource = Resource.create(
                {"service.name": "sluiceway", "service.version": version, "service.instance.id": instance}
            )
            # Whether a trace that begins here is recorded is decided before: the SDK takes 5 us to say no.
            self._provider = TracerProvider(resource=resource, sampler=ParentBased(ALWAYS_ON))
            exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_WITHIN)
            self._provider.add_span_processor(BatchSpanProcessor(exporter))
            self._tracer = self._provider.get_tracer("sluiceway", version)

    def server_span(self, path: str, headers: Sequence[tuple[bytes, bytes]], address: str) -> Span:
        """Start the span of a call from `address`, a child of the caller's where its headers (as ASGI's) say so."""
        parent = _context(headers)
        if not trace.get_current_span(parent).get_span_context().is_valid:
            if self._provider is None:
                return INVALID_SPAN
            if clock.dice.random() >= self._sample:
                return _unrecorded()
        span = self._tracer.start_span(f"POST {path}", context=parent, kind=SpanKind.SERVER)
        if span.is_recording():
            span.set_attributes(
                {
                    http_attributes.HTTP_REQUEST_METHOD: "POST",
                    client_attributes.CLIENT_ADDRESS: address,
                    http_attributes.HTTP_ROUTE: path,
                    url_attributes.URL_PATH: path,
                }
            )
        return span

    def attempt_span(self, call: Span, api: API, candidate: Candidate, number: int, base_url: str) -> Span:
        """Start the span of attempt `number` (from 1) of `call` at `candidate`; it is `call`, if that is unrecorded."""
        if not call.is_recording():
            return call
        operation = OPERATIONS[api]
        deployment = candidate.deployment
        span = self._tracer.start_span(
            f"{operation} {deployment.model}", context=trace.set_span_in_context(call, Context()), kind=SpanKind.CLIENT
        )
        address = urlsplit(base_url)
        span.set_attributes(
            {
                gen_ai.GEN_AI_OPERATION_NAME: operation,
                gen_ai.GEN_AI_PROVIDER_NAME: deployment.kind,
                gen_ai.GEN_AI_REQUEST_MODEL: deployment.model,
                server_attributes.SERVER_ADDRESS: address.hostname or "",
                server_attributes.SERVER_PORT: address.port or (443 if address.scheme == "https" else 80),
                "sluiceway.backend": deployment.backend,
                "sluiceway.attempt": number,
                "sluiceway.predicted_ttft": candidate.ttft,
                "sluiceway.rank": candidate.reason,
            }
        )
        return span

    async def close(self) -> None:
        """Send what is queued and stop, within `EXPORT_WITHIN`."""
        if self._provider is not None:
            await asyncio.to_thread(self._provider.shutdown)


def _context(headers: Sequence[tuple[bytes, bytes]]) -> Context:
    """Return the trace context that a caller's headers tell, an empty one where they tell none or two."""
    parents = [value for name, value in headers if name == b"traceparent"]
    if len(parents) != 1:
        return Context()
    state = b",".join(value for name, value in headers if name == b"tracestate")
    told = {"traceparent": parents[0].decode("latin-1"), "tracestate": state.decode("latin-1")}
    return _propagator.extract(told, Context())


def propagate(span: Span) -> list[tuple[bytes, bytes]]:
    """Return the W3C headers that make what they reach a child of `span` (Trace Context, level 1, 3.2.2)."""
    context = span.get_span_context()
    if not context.is_valid:
        return []
    parent = b"00-%032x-%016x-%02x" % (context.trace_id, context.span_id, context.trace_flags & TraceFlags.SAMPLED)
    state = context.trace_state.to_header() if context.trace_state else ""
    return [(b"traceparent", parent), *([(b"tracestate", state.encode("latin-1"))] if state else [])]


def _unrecorded() -> Span:
    """Return the span of a trace that begins here and is not recorded; whoever sees its id records nothing either."""
    ids = clock.dice.getrandbits(128) or 1, clock.dice.getrandbits(64) or 1
    return NonRecordingSpan(SpanContext(*ids, is_remote=False))


def usage_attributes(usage: Usage) -> Attributes:
    """Return the attributes that tell `usage`."""
    return {
        gen_ai.GEN_AI_USAGE_INPUT_TOKENS: usage.prompt_tokens,
        gen_ai.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS: usage.cached_tokens,
        gen_ai.GEN_AI_USAGE_OUTPUT_TOKENS: usage.completion_tokens,
        gen_ai.GEN_AI_USAGE_REASONING_OUTPUT_TOKENS: usage.reasoning_tokens,
        "sluiceway.usage_estimated": usage.estimated,
    }


def finish(span: Span, attributes: Attributes, *, status: int | None = None, error: str | None = None) -> None:
    """Set what is known at the end of a recorded `span` and end it; `error` marks it failed."""
    if status is not None:
        attributes[http_attributes.HTTP_RESPONSE_STATUS_CODE] = status
    if error is not None:
        attributes[error_attributes.ERROR_TYPE] = error
        span.set_status(Status(StatusCode.ERROR, error))
    span.set_attributes(attributes)
    span.end()
