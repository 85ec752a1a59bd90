"""Lifetime usage by key and model, as settlement has booked it.

Law: the totals are written by the settlement itself; here they are only read.
"""

from collections.abc import Mapping

from msgspec import Struct


class UsageTotal(Struct, frozen=True):
    """What one key has used of one model since the organization's first call.

    `estimated_tokens` of the prompt and completion tokens were counted by us, not told by the upstream.
    """

    key: str
    model: str
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated_tokens: int = 0


def read(fields: Mapping[bytes, bytes]) -> list[UsageTotal]:
    """Read the store's `<key>|<model>|<what>` fields, sorted by key and model."""
    totals: dict[tuple[str, str], dict[str, int]] = {}
    for field, amount in fields.items():
        # A model's name may contain the separator; a key's id and what is counted cannot.
        account, _, what = field.decode().rpartition("|")
        key, _, model = account.partition("|")
        totals.setdefault((key, model), {})[what] = int(amount)
    return [UsageTotal(key, model, **amounts) for (key, model), amounts in sorted(totals.items())]
