"""Which deployment has the beginning of a prompt in its cache, guessed from the calls that were sent there.

Law: a guess moves a call only as far as the seconds go that it saves (`scoring.py`): a replica whose queue costs more
than the cache spares is not chosen. A beginning is told by checksums of the prompt's own bytes, each over all that
comes before: the longest one that is known tells how far two prompts agree. What engines tell of their
caches corrects the guess. They begin with a salt, a tenant's own, so
that nobody's timing tells of another's prompts.
"""

import zlib
from collections import OrderedDict
from collections.abc import Mapping

from msgspec import Struct

from policies.apis import APIS
from policies.domain import InferenceRequest

BLOCK = 4096
"""Bytes of prompt to a checksum, about a thousand tokens: engines cache in blocks of 16 to 64, so what is missed is a
thousand tokens at most, and a prompt of 100 KB costs 30 microseconds."""

LEAST = 2 * BLOCK
"""Bytes of a prompt that is worth it: a smaller one is prefilled within the noise of a network."""

KEPT = 600.0
"""Seconds for which a prefilled beginning is believed to be cached."""

REMEMBERED = 10_000
"""Blocks remembered of one deployment, about 1 MB: ten million tokens, more than engines hold."""


class Beginning(Struct, frozen=True):
    """A prompt's checksums, one at the end of each whole block, and its size in bytes."""

    marks: tuple[int, ...] = ()
    size: int = 0


NONE = Beginning()
"""Of a prompt that is too small, or of an API that does not generate."""


def beginning(request: InferenceRequest, salt: str) -> Beginning:
    """Return the beginning of a request's prompt, for the tenant whose name is the salt."""
    shape = APIS[request.api]
    if not shape.generates or request.size < LEAST:
        return NONE
    turns = next(name for name in shape.needs if name in request.members)
    mark, size = zlib.crc32(salt.encode()), 0
    for name in shape.prompts:  # tools and instructions come before every turn, or change all that follows
        if name != turns and name in request.members:
            said = memoryview(request.members[name])
            mark, size = zlib.crc32(said, mark), size + len(said)
    said = memoryview(request.members[turns])
    marks = []
    for end in range(BLOCK, len(said) + 1, BLOCK):
        mark = zlib.crc32(said[end - BLOCK : end], mark)
        marks.append(mark)
    return Beginning(tuple(marks), size + len(said))


LEARNING = 0.1
"""Weight of one told share in the trust."""

LEAST_TOLD = 0.1
"""Share of a prompt below which neither a guess nor a telling says much: every chat template begins alike."""


class Prefilled:
    """The beginnings that one deployment has prefilled lately.

    `trust`: how much of what is guessed to be cached its engine has told it found, 0 to 1; 1 while it tells nothing.
    `tells`: it has told of its cache.
    """

    __slots__ = ("_seen", "tells", "trust")

    def __init__(self) -> None:
        self._seen: OrderedDict[int, float] = OrderedDict()
        self.tells = False
        self.trust = 1.0

    def told(self, guessed: float, found: float) -> None:
        """Take in the share of a prompt that was `guessed` to be cached, and the one that the engine says it `found`.

        Many engines tell nothing, which looks like nothing found: only one that has told of its cache is believed.
        """
        self.tells = self.tells or found > LEAST_TOLD
        untrusted = guessed / self.trust  # the guess has the trust in it; what was guessed without it is judged
        if self.tells and untrusted > LEAST_TOLD:
            share = min(1.0, found / untrusted)
            self.trust = max(LEAST_TOLD, self.trust + LEARNING * (share - self.trust))

    def known(self, begins: Beginning, now: float) -> float:
        """Return the share of a prompt, 0 to 1, whose prefill is probably spared here."""
        if not begins.marks or begins.marks[0] not in self._seen:  # nearly always, of many deployments
            return 0.0
        blocks = _longest(begins.marks, self._seen, now - KEPT)
        return self.trust * blocks * BLOCK / begins.size if blocks else 0.0

    def note(self, begins: Beginning, now: float) -> None:
        """Remember that a prompt is prefilled here by now or soon; the blocks used longest ago go first."""
        seen = self._seen
        for mark in reversed(begins.marks):  # the beginning is forgotten last: without it the rest is of no use
            seen[mark] = now
            seen.move_to_end(mark)
        while len(seen) > REMEMBERED or (seen and seen[next(iter(seen))] < now - KEPT):
            seen.popitem(last=False)

    def unnote(self, begins: Beginning, at: float) -> None:
        """Forget what was noted `at` that moment and by nobody since: it was not prefilled after all."""
        for mark in begins.marks:
            if self._seen.get(mark) == at:
                del self._seen[mark]

    def forget(self) -> None:
        """Believe nothing: whoever was away comes back with an empty cache."""
        self._seen.clear()
        self.trust = 1.0


def _longest(marks: tuple[int, ...], seen: Mapping[int, float], oldest: float) -> int:
    """Return how many blocks are known: whoever knows a block knows all before it, which were noted with it."""
    low, high = 0, len(marks)
    while low < high:
        middle = (low + high + 1) // 2
        if seen.get(marks[middle - 1], oldest) > oldest:
            low = middle
        else:
            high = middle - 1
    return low
