"""One worker, as its supervisor sees it: a process, what it tells, and how it ended.

Law: it is a new program, never a copy of this one, whose loop and threads no copy would survive. It has a session of
its own, so that a terminal's Ctrl-C reaches the supervisor alone, which tells it in order.
"""

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence

import structlog

from gateway import clock
from gateway.http import Undelivered, pass_on
from gateway.workers.channel import Channel, Failed, Handed, Listening, Stop, Task

log = structlog.get_logger("sluiceway.workers")

COMMAND = (sys.executable, "-P", "-c", "from gateway.workers.worker import main; main()")
"""What a worker runs, with the descriptor of its channel behind it. `-P`: our modules are those that are installed, not
what lies about where we were started."""

ANSWERS_WITHIN = 5.0
"""Seconds that a worker gets to say that it lives, as the chart's liveness probe gives one alone."""


class Child:
    """A worker that was started. `number`: which one; `begun`: when (monotonic); `task`: what it was told to do.

    `told`: what it said last, None as long as it is starting; `spoke`: it said something, or has ended before it could;
    `ended`: waits for its end and returns how that came. `code`: its exit code, negative for a signal. `missed`: looks
    in a row at which it did not answer.
    """

    def __init__(self, process: subprocess.Popen[bytes], channel: Channel, task: Task) -> None:
        self.number = task.number
        self.task = task
        self.begun = clock.monotonic()
        self.told: Listening | Failed | None = None
        self.spoke = asyncio.Event()
        self.missed = 0
        self._process = process
        self._channel = channel
        channel.send(task)
        log.info("a worker is started", worker=task.number, process=process.pid)
        self.ended = clock.spawn(self._hear(), f"worker {task.number}")

    @property
    def port(self) -> int | None:
        """Where its operations are, on 127.0.0.1; None while it does not listen."""
        return self.told.port if isinstance(self.told, Listening) and not self.ended.done() else None

    @property
    def code(self) -> int | None:
        """How it ended; None: it runs."""
        return self._process.returncode

    def hand(self, file: Handed) -> None:
        """Tell it what the file says now."""
        self._channel.send(file)

    def stop(self, *, at_once: bool = False) -> None:
        """Ask it to stop; `at_once`: and to cut the calls that are open."""
        self._channel.send(Stop(at_once))

    async def answers(self) -> bool:
        """Say whether it answers: that it lives, for its loop turns."""
        if self.port is None:
            return False
        try:
            await pass_on("GET", f"http://127.0.0.1:{self.port}/livez", within=ANSWERS_WITHIN, longest=1024)
        except Undelivered:
            return False
        return True

    def kill(self) -> None:
        """End it without asking."""
        self._process.kill()

    async def _hear(self) -> str:
        """Take what it tells until it ends, and say how it ended."""
        while (message := await self._channel.receive()) is not None:
            if isinstance(message, Listening | Failed):
                self.told = message
                self.spoke.set()
        code = await asyncio.to_thread(self._process.wait)  # its channel is closed: this takes a moment
        self._channel.close()
        self.spoke.set()
        return f"was ended by {_name(-code)}" if code < 0 else f"ended with code {code}"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


async def begin(task: Task, inherited: Sequence[int]) -> Child:
    """Start a worker and tell it what to do. `inherited`: descriptors that it keeps open. Raises OSError."""
    process, end = _spawned(task, inherited)
    try:
        return Child(process, await Channel.over(end), task)
    except BaseException:  # whoever starts it was told to stop: nobody else would end it
        process.kill()
        end.close()
        process.wait()
        raise


def _spawned(task: Task, inherited: Sequence[int]) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start the process, and return it with our end of its channel."""
    ours, theirs = socket.socketpair()
    try:
        process = subprocess.Popen(  # noqa: S603 - every word of it is ours
            [*COMMAND, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno(), task.callers, task.turns, *inherited],
            start_new_session=True,
        )
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()
    return process, ours
