"""Failures that may have been the call's own doing, until another deployment shows whose they were.

Law: whoever fails a call that another one then serves has failed; where nobody serves it, nobody is blamed.
"""

from gateway import clock
from policies.failures import Failure
from policies.live import Ticket


class Suspects:
    """Those whose failure may have been the call's own doing. Nothing here refers to the call."""

    def __init__(self) -> None:
        self._failed: list[tuple[Ticket, Failure]] = []

    def add(self, ticket: Ticket, failure: Failure) -> None:
        """Take note of one."""
        self._failed.append((ticket, failure))

    def convict(self) -> None:
        """Hold their failures against them: another deployment begins to serve the call."""
        while self._failed:
            ticket, failure = self._failed.pop()
            ticket.live.convicted(failure, clock.monotonic(), probe=ticket.probe)

    def acquit(self) -> None:
        """Let those go that are left: nobody served."""
        while self._failed:
            ticket, _ = self._failed.pop()
            ticket.live.breaker.abandoned(probe=ticket.probe)
