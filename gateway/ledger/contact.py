"""For how long the store has answered.

Law: only an answer is contact, and only a contact without a break says anything about other gateways' silence.
"""


class Contact:
    """For how long the store has answered without a break; a silence longer than `gap` seconds is one."""

    def __init__(self, gap: float) -> None:
        self._gap = gap
        self._began: float | None = None
        self._last = 0.0

    def since(self, now: float) -> float | None:
        """Return when the contact that is unbroken at `now` began (monotonic seconds), None if there is none."""
        return self._began if now - self._last <= self._gap else None

    def made(self, now: float) -> None:
        """Note an answer."""
        if self.since(now) is None:
            self._began = now
        self._last = now

    def lost(self) -> None:
        """Note that an answer did not come."""
        self._began = None
