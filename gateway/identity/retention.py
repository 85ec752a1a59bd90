"""Forgetting what identity keeps: lines of the audit by their age, and last uses of whoever is gone.

Law: by the store's clock alone, and a bounded number at a time, so that it never holds the store. Records of tenants
are never forgotten, and the audit's last line neither: the numbers of changes go on from it.
"""

from importlib.resources import files

from gateway.identity.last_used import USED
from gateway.identity.registry import ALL_KEYS, AUDIT
from gateway.store.door import Store

DAYS = 400
"""Days for which a line of the audit is kept, and the last use of a subject: as long as sums of usage."""

AT_ONCE = 500
"""Lines, and uses, that one step looks at: about a millisecond of the store."""

SCRIPT = (files(__package__) / "forget.lua").read_bytes()


class Retention:
    """Takes away, step by step, what is of no more use."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cursor: bytes | int = 0

    async def step(self, *, days: float = DAYS) -> tuple[int, int]:
        """Take one step, and return how many lines of the audit and how many last uses went. Raises `StoreDown`.

        To be called about once a minute: it goes round all last uses, in as many steps as their number asks for.
        """
        kept = round(days * 86_400)
        command = ("EVAL", SCRIPT, 3, AUDIT, USED, ALL_KEYS, kept, AT_ONCE, self._cursor)
        ((lines, uses, self._cursor),) = await self._store.send(command)
        return lines, uses
