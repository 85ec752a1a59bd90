"""Claims, bills, waits and sums for the contract suite."""

import asyncio
from datetime import UTC

from gateway.ledger import audit, reports
from gateway.ledger.reports import By
from policies.domain import Bill, Claim, Level, Meter, MeterKind, Usage
from policies.meters import HOUR_US, MINUTE_US, SECOND_US
from policies.periods import current_and_next

__all__ = ["DAY_US", "HOUR_US", "MINUTE_US", "SECOND_US"]

DAY_US = 24 * HOUR_US

REQUESTS = MeterKind.REQUESTS_PER_MINUTE
TOKENS = MeterKind.TOKENS_PER_MINUTE
SLOTS = MeterKind.CONCURRENT_REQUESTS
DAILY = MeterKind.TOKENS_PER_DAY
MONTHLY = MeterKind.TOKENS_PER_MONTH
IN_ALL = MeterKind.TOKENS_IN_ALL
BUDGET = MeterKind.BUDGET_IN_ALL

USD = 1_000_000_000
"""Nano-dollars."""

IDS = {"organization": "org", "team": "team:t1", "key": "key:k1"}
"""The store's names of the levels of `claim`."""


def meter(kind, limit, burst=None, **more):
    return Meter(kind, limit, burst or limit, **more)


def level(kind, *meters):
    return Level(kind, IDS[kind], meters)


def claim(*levels, tokens=(4, 6), money=0, seconds=0.0, organization="acme", model="m", zone="UTC"):
    """Claim input and output `tokens` for the key k1 of the team t1."""
    return Claim(organization, "t1", "k1", model, levels, *tokens, money, seconds, zone)


def bill(prompt=4, completion=6, money=0, *, estimated=False, **more):
    return Bill(Usage(prompt, completion, estimated), money, **more)


async def until(condition, seconds=20.0):
    """Wait until an async condition holds; fail when it does not in all that time."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - the condition is in another process
            await asyncio.sleep(0.01)


async def settled(*ledgers, left=0):
    """Wait until these gateways have made every settlement, when so many of their reservations are left."""

    async def all_are_made():
        return sum(ledger.open_reservations for ledger in ledgers) == left

    await until(all_are_made)


async def callers(many, ledgers, one):
    """Run `many` callers at a time, spread over the ledgers."""
    await asyncio.gather(*(one(ledgers[i % len(ledgers)]) for i in range(many)))


async def usage(ledger, *by, organization="acme"):
    """Return what the roll-ups of all hours say, by key and model unless told otherwise."""
    keys = await ledger.store.keys(f"sw:{{{organization}}}:hour:*")
    hours = [int(key.rpartition(b":")[2]) for key in keys]
    if not hours:
        return {}
    within = range(min(hours), max(hours) + 1)
    report = await reports.usage(ledger.store, {organization: UTC}, within, by or (By.KEY, By.MODEL))
    return {row.values: row.amounts for row in report.rows}


async def differences(ledger, organization="acme"):
    """Return what the audit finds: counts that are not what the books add up to, or that cannot be told.

    What the period before owed when it began is nowhere, and no fault.
    """
    levels = (await audit.levels_of(ledger.store, organization))[organization]
    found = await audit.check(ledger.store, organization, levels)
    return found.differences + [line for line in found.unchecked if line.why != audit.UNKNOWN]


def period(calendar, at_us, zone=UTC):
    """Return the period of that moment."""
    return current_and_next(calendar, zone, at_us)[0]
