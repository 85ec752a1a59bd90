"""A file at a mount that hangs: a pipe in its place, at which whoever opens it waits until somebody writes.

Law: it is real: the thread that reads waits in the kernel, where no interpreter can reach it. At the end whoever waits
still is let go, and whoever comes later waits for nothing.
"""

import os
from contextlib import contextmanager, suppress


class Hung:
    """Whoever reads `path` waits, until it answers."""

    def __init__(self, path):
        self.path = path
        self._pipe = path.with_name(f"{path.name}.pipe")
        os.mkfifo(self._pipe)
        turned = path.with_name(f"{path.name}.turned")
        turned.hardlink_to(self._pipe)
        turned.replace(path)

    def answer(self, content):
        """Have the file back with this content, which whoever waits reads too."""
        half = self.path.with_name(f"{self.path.name}.half")
        half.write_bytes(content)
        half.replace(self.path)
        self.let_go(content)

    def end(self):
        """Let go whoever waits, and whoever has not come to that yet: a thread that was begun may be slow to."""
        if self.path.is_fifo():
            self.answer(b"")
        else:
            self.let_go()

    def let_go(self, content=b""):
        """Let go whoever waits."""
        with suppress(OSError):  # nobody does
            writer = os.open(self._pipe, os.O_WRONLY | os.O_NONBLOCK)
            try:
                os.write(writer, content)
            finally:
                os.close(writer)


@contextmanager
def hanging(*paths):
    """Have these files hang, and yield them so."""
    hung = [Hung(path) for path in paths]
    try:
        yield hung if len(hung) > 1 else hung[0]
    finally:
        for one in hung:
            one.end()
