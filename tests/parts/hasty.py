"""`python -m tests.parts.hasty TIMES serve ...`: a gateway to which the minute of an upstream's limit is shorter.

Law: every span by which it keeps to such a limit is divided by `TIMES`: those of the policy and of its twin, the script
in the store, what a call that waits is told to expect, and how long a 429 keeps calls away. Nothing else of it is
another: its other times, its processes, sockets and store are those of any gateway.
"""

import hashlib
import re
import sys
from pathlib import Path

from msgspec.structs import force_setattr

from gateway import places
from gateway.upstream import allowances
from policies import allowance
from policies.dialects import nvidia
from tests.parts.gateway import GatewayProcess

SPANS = ("MINUTE", "HOLD", "KEPT", "FIRST_PAUSE", "LONGEST_PAUSE")
"""Those of the policy, in microseconds."""

SPANS_OF_SCRIPT = re.compile(rb"\b(?:60|5)000000\b")
"""A minute and the first pause, from which the script has all others."""


class HastyProcess(GatewayProcess):
    """A gateway whose upstreams' limits are so many `times` as fast; but for that, one that anybody could start."""

    def __init__(self, config: Path, times: int) -> None:
        super().__init__(config)
        self._command = [sys.executable, "-m", "tests.parts.hasty", str(times), "serve", "--config", str(config)]


def hasten(times: int) -> None:
    """Divide every such span in this process. Raise RuntimeError where the script has others than are known here."""
    for span in SPANS:
        setattr(allowance, span, getattr(allowance, span) // times)
    allowance.HALF /= times
    places.MINUTE /= times
    force_setattr(nvidia.DIALECT, "freeze", nvidia.DIALECT.freeze / times)
    script, found = SPANS_OF_SCRIPT.subn(lambda span: b"%d" % (int(span[0]) // times), allowances.SCRIPT)
    if found != 2:
        raise RuntimeError(f"allowance.lua has {found} spans of its own, not a minute and a first pause")
    allowances.SCRIPT, allowances.SHA = script, hashlib.sha1(script, usedforsecurity=False).hexdigest()


if __name__ == "__main__":
    from gateway.cli import main

    hasten(int(sys.argv.pop(1)))
    main()
