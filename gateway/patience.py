"""How long one may wait, with an end that costs next to nothing to move.

Law: what `asyncio.timeout` does, for where every chunk moves the end: the timer stays, and when it fires early it looks
and is set again. It cancels its task once, and only that cancellation becomes a TimeoutError.
"""

import asyncio
import math
from types import TracebackType
from typing import Any, Self

from gateway import clock


class Patience:
    """A context manager that raises TimeoutError once the wait is over. Enter it, then `wait`, then whatever comes.

    `deadline`: monotonic seconds, past which no wait goes.
    """

    __slots__ = ("_before", "_deadline", "_due", "_fired", "_task", "_timer", "_until")

    def __init__(self, deadline: float = math.inf) -> None:
        self._deadline = deadline
        self._until = deadline
        self._due = math.inf
        self._fired = False
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[Any] | None = None
        self._before = 0

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        if self._task is None:
            raise RuntimeError("only a task has patience")
        self._before = self._task.cancelling()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        task, self._task = self._task, None
        if self._fired and task is not None and task.uncancel() <= self._before and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def wait(self, seconds: float) -> None:
        """Allow so many seconds from now on, and none past the deadline."""
        self._until = min(self._deadline, clock.monotonic() + seconds)
        if self._until < self._due:
            self._set()

    def rest(self) -> None:
        """Allow all that is left until the deadline."""
        self._until = self._deadline

    @property
    def left(self) -> float:
        """Seconds until the wait is over."""
        return self._until - clock.monotonic()

    @property
    def spent(self) -> bool:
        """Whether the end is the deadline's own."""
        return self._until >= self._deadline

    def _set(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = self._until
        if self._due == math.inf:
            return
        self._timer = asyncio.get_running_loop().call_later(self._until - clock.monotonic(), self._look)

    def _look(self) -> None:
        if clock.monotonic() < self._until:
            self._set()
        elif self._task is not None:
            self._fired = True
            self._task.cancel()
