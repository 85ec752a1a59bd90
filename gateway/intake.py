"""Take in a call's body, within bounds.

Law: nobody can make the gateway hold more than `limits.buffered_total` bytes of bodies or `limits.open_calls` calls,
and a body that comes too slowly or grows too large is refused while it comes. What was taken is given back by `leave`.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from gateway import clock
from gateway.config.settings import Limits
from gateway.patience import Patience
from policies.rejections import Reason, Rejection

Receive = Callable[[], Awaitable[Any]]
"""ASGI's, untyped: its messages are read member by member."""

PACE = 64 * 1024
"""Bytes of a body that buy it one more second: a slow but honest link is not cut, whoever trickles is."""

_RETRY_US = 1_000_000


class CallerLeft(Exception):  # noqa: N818 - an outcome, not a programming error
    """The caller closed its connection."""


class Intake:
    """The bodies that one gateway is holding."""

    def __init__(self, limits: Limits) -> None:
        self.open_calls = 0
        self.buffered = 0
        self._limits = limits

    def bound(self, limits: Limits) -> None:
        """Hold whoever comes from now on to other limits."""
        self._limits = limits

    def enter(self) -> Rejection | None:
        """Count a call in; a Rejection when there are too many (then it is not counted)."""
        if self.open_calls >= self._limits.open_calls:
            return _overloaded(f"{self.open_calls} calls are open")
        self.open_calls += 1
        return None

    def leave(self, held: int) -> None:
        """Count a call out and give back the `held` bytes of its body."""
        self.open_calls -= 1
        self.buffered -= held

    async def body(
        self, headers: Iterable[tuple[bytes, bytes]], receive: Receive, here: bytearray | None = None
    ) -> bytes | Rejection:
        """Return the whole body; its length counts as buffered until `leave`. Raises CallerLeft.

        `here`: the whole of it, where it need not be received.
        """
        limits = self._limits
        if here is not None:
            refused = self._refuse(limits, len(here))
            if refused is not None:
                return refused
            self.buffered += len(here)
            body = bytes(here)
            here.clear()  # held once, as it is counted
            return body
        told = next((value for name, value in headers if name == b"content-length"), b"0")
        refused = self._refuse(limits, int(told) if told.isdigit() else 0)
        if refused is not None:
            return refused
        try:
            with Patience() as patience:
                patience.wait(limits.body_deadline)
                return await self._collect(receive, patience, limits)
        except TimeoutError:
            pace = f"{limits.body_deadline:g} seconds, and one more for each {PACE} bytes"
            return Rejection(Reason.BODY_TIMEOUT, f"The body did not come within {pace}.")

    async def _collect(self, receive: Receive, patience: Patience, limits: Limits) -> bytes | Rejection:
        begun = clock.monotonic()
        parts: list[bytes] = []
        size = 0
        kept = False
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise CallerLeft
                part = message.get("body", b"")
                parts.append(part)
                size += len(part)
                self.buffered += len(part)
                refused = self._refuse(limits, 0, held=size)
                if refused is not None:
                    return refused
                if not message.get("more_body", False):
                    kept = True
                    return b"".join(parts)
                patience.wait(begun + limits.body_deadline + size / PACE - clock.monotonic())
        finally:
            if not kept:
                self.buffered -= size

    def _refuse(self, limits: Limits, coming: int, held: int = 0) -> Rejection | None:
        if max(coming, held) > limits.body:
            return Rejection(Reason.TOO_LARGE, f"The body is larger than {limits.body} bytes, the most allowed.")
        if self.buffered + coming > limits.buffered_total:
            return _overloaded(f"{self.buffered} bytes of bodies are being held")
        return None


def _overloaded(why: str) -> Rejection:
    return Rejection(Reason.OVERLOADED, f"The gateway is full: {why}; try again.", retry_after_us=_RETRY_US)
