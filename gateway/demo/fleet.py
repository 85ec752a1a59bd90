"""Simulated backends as child processes: started at once, asked for their ports later, ended by us or with us.

Law: only processes started here are ever signalled, through their own handles. Each child lives in a process group of
its own, so that Ctrl-C reaches the gateway alone, and holds a pipe from us, whose end is its end.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from gateway.demo.backend import Simulated

ROOT = Path(__file__).parents[2]
"""Where `gateway` is imported from, so that a child finds this package and no other of that name."""


class FleetFailed(Exception):  # noqa: N818 - a state of the world, not a programming error
    """A simulated backend did not start."""


class _Listening(msgspec.Struct):
    port: int


class Replica:
    """One running child."""

    def __init__(self, how: Simulated) -> None:
        self.how = how
        self._port = 0
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            how.arguments(),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,
        )

    @property
    def name(self) -> str:
        """The backend's name."""
        return self.how.name

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the child runs."""
        return self._process.poll() is None

    @property
    def url(self) -> str:
        """The root of its HTTP endpoints, without `/v1`; waits until it listens. Raises `FleetFailed`."""
        if not self._port and self._process.stdout is not None:
            line = self._process.stdout.readline()
            if not line:
                raise FleetFailed(
                    f"the simulated backend {self.name} ended before it listened; its own words are above"
                )
            self._port = msgspec.json.decode(line, type=_Listening).port
        return f"http://127.0.0.1:{self._port}"

    def kill(self) -> None:
        """End it the hard way (SIGKILL), with whatever it was doing."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End it, if it still runs."""
        if self.alive:
            self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class Fleet:
    """Several simulated backends; a context manager that ends them all."""

    def __init__(self, backends: Sequence[Simulated]) -> None:
        self.replicas = tuple(Replica(how) for how in backends)

    @property
    def alive(self) -> list[Replica]:
        """The children that still run."""
        return [replica for replica in self.replicas if replica.alive]

    def __getitem__(self, name: str) -> Replica:
        return next(replica for replica in self.replicas if replica.name == name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """End every child that still runs."""
        for replica in self.replicas:
            replica.stop()
