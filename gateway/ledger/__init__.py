"""The ledger: admission over all levels, settlement, leases and the books, in the store and nowhere else."""

from gateway.ledger.ledger import Ledger

__all__ = ["Ledger"]
