"""What processes use, by the kernel's own account.

Law: processor time is that of all threads, in nanoseconds; memory that several processes share is divided by their
number (PSS), so that a sum over workers counts each page once.
"""

import time
from pathlib import Path

from tests.bench.sites import descendants


def serving(pid):
    """Return those of a gateway's processes that run Python: itself and its workers, without its store."""
    return [each for each in descendants(pid) if "python" in Path(f"/proc/{each}/exe").readlink().name]


def cpu_us(pids):
    """Return the microseconds of processor time that these processes have used so far."""
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids) * 1e6  # clock_getcpuclockid(3) of each


def memory(pids):
    """Return the bytes that these processes hold."""
    return sum(_pss(Path(f"/proc/{pid}/smaps_rollup").read_text()) for pid in pids)


def _pss(rollup):
    line = next(line for line in rollup.splitlines() if line.startswith("Pss:"))
    return int(line.split()[1]) * 1024


def descriptors(pids):
    """Return how many file descriptors these processes have open."""
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)
