"""Books without a store: they grant everything but what a test has scripted, and keep what they were told."""

import asyncio
from collections import deque

from policies.domain import Reservation
from policies.rejections import Reason, Rejection


def refused(meter="budget_per_day", level="key", reason=Reason.RATE_LIMITED):
    """Make the refusal of a meter."""
    return Rejection(reason, f"{level} has used its {meter}", retry_after_us=1_000_000, level=level, meter=meter)


class Books:
    """`admissions` and `growths` hold what the next questions are answered: a Rejection, an error, or None to grant.

    `claims`, `grown` (output tokens, money) and `bills` are what came. Growths wait for `open`.
    """

    def __init__(self, *, shadows=()):
        self.admissions = deque()
        self.growths = deque()
        self.claims = []
        self.grown = []
        self.bills = []
        self.so_far = None
        self.open = asyncio.Event()
        self.open.set()
        self._shadows = shadows

    async def admit(self, claim):
        self.claims.append(claim)
        answer = _next(self.admissions)
        return answer or Reservation(f"r-{len(self.claims)}", claim, shadows=self._shadows)

    def settle(self, reservation, bill):
        self.bills.append(bill)

    def follow(self, reservation, so_far):
        self.so_far = so_far

    async def grow(self, reservation, output_tokens, money):
        self.grown.append((output_tokens, money))
        await self.open.wait()
        return _next(self.growths)


def _next(answers):
    answer = answers.popleft() if answers else None
    if isinstance(answer, Exception):
        raise answer
    return answer
