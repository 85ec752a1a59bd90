"""A note beside a store's unix socket: why nobody listens there, by whoever runs that store.

Law: it is there only while nobody does. Whoever uses the store, in whichever process, finds a socket that refuses him,
and why is in the note.
"""

from contextlib import suppress
from pathlib import Path


class Note:
    """The note of one `socket`."""

    def __init__(self, socket: Path) -> None:
        self._file = socket.with_name(f"{socket.name}.why")

    def write(self, why: str) -> None:
        """Say why; where there is no room for it, nothing is said."""
        with suppress(OSError):
            self._file.write_text(why)

    def remove(self) -> None:
        """Say nothing any more."""
        with suppress(OSError):
            self._file.unlink()

    def read(self) -> str | None:
        """Return what it says, None where there is none."""
        with suppress(OSError):
            return self._file.read_text(errors="replace") or None
        return None


def note_at(url: str) -> Note | None:
    """Return the note of the store at `url`, which lies beside a plain path; None where there can be none."""
    scheme, _, path = url.partition("://")
    return Note(Path(path)) if scheme == "unix" and path.startswith("/") else None
