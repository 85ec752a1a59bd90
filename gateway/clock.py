"""The one door to time, chance and background tasks.

Law: nobody else imports `time`, `random` or `secrets`, or creates a task; so a test can say what the time is, and a
task can never vanish because the loop kept only a weak reference to it.
"""

import asyncio
import random
import secrets
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

monotonic = time.monotonic
wall = time.time
Dice = random.Random
dice = Dice()  # ranks ties and jitter, guards nothing
token_bytes = secrets.token_bytes
token_hex = secrets.token_hex

T = TypeVar("T")

_running: set[asyncio.Task[Any]] = set()


def spawn(work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
    """Start `work` as a task that is kept alive until it ends."""
    task = asyncio.get_running_loop().create_task(work, name=name)
    _running.add(task)
    task.add_done_callback(_running.discard)
    return task
