"""The ledger: admission over all levels, settlement, leases and usage totals, in the store and nowhere else."""

from gateway.ledger.ledger import Ledger
from gateway.ledger.totals import UsageTotal

__all__ = ["Ledger", "UsageTotal"]
