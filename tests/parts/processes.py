"""Whether a process is there: one may end between any two looks at it."""

import os
from pathlib import Path

PROC = Path("/proc")


def lives(pid: int) -> bool:
    """Say whether a process is there that has not ended, be it that nobody has noticed its end yet."""
    try:
        os.kill(pid, 0)
        state = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # it has ended since, or this is no Linux
        return not PROC.exists()
    return state != "Z"
