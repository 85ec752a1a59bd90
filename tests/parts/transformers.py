"""A real `transformers serve`, on the processor, from the venv that `tests.parts.engines` makes.

Law: it tells no figures of its own, so what it does is read from its process: generating takes a whole processor.
"""

import asyncio
import os
import time
from pathlib import Path

from tests.parts.engines import Engine

_WORKING = 0.3
"""The share of a processor above which it generates; idle, it takes less than a twentieth."""


class TransformersServer(Engine):
    """One replica, some 15 s away; it runs one call at a time. `alias`: the only model name that it takes, a path."""

    def __init__(self, model: Path) -> None:
        self.alias = str(model)
        super().__init__("transformers", "serve", str(model), "--device", "cpu")

    def processor_time(self) -> float:
        """Return the seconds of processor time that the engine has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        user, system = fields[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    async def working(self, watch: float = 0.25) -> bool:
        """Watch the engine for so many seconds and say whether it generated."""
        used, start = self.processor_time(), time.monotonic()
        await asyncio.sleep(watch)
        return (self.processor_time() - used) / (time.monotonic() - start) > _WORKING

    async def wait_idle(self, within: float = 30.0) -> float:
        """Wait until the engine generates nothing; return how many seconds that took, or raise TimeoutError."""
        start = time.monotonic()
        async with asyncio.timeout(within):
            while await self.working():
                pass
        return time.monotonic() - start
