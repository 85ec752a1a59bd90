"""Ports of 127.0.0.1 for servers that are about to be started.

Law: a port is below those that the kernel gives to outgoing connections, one of which would else take it between its
being found and its being listened on; and it is given to one of the processes that run tests at once, for a long while.
"""

import itertools
import os
import socket

FIRST, EACH, BLOCKS = 10_000, 2_000, 5
"""The first of all, those of one process, and how many such blocks there are. A cluster's bus is 10,000 above."""


def _block():
    worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    begin = FIRST + (int(worker) if worker.isdigit() else os.getpid()) % BLOCKS * EACH
    turn = os.getpid() * 37 % EACH  # the run before has just used those of its own
    return [begin + (turn + number) % EACH for number in range(EACH)]


_ports = itertools.cycle(_block())


def free_port() -> int:
    """Return a TCP port that was free a moment ago. Raise RuntimeError where none is."""
    for port in itertools.islice(_ports, EACH):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("every port for tests is taken")


def free_ports(count: int) -> list[int]:
    """Return so many such ports."""
    return [free_port() for _ in range(count)]
