"""What the gateways tell one another: load, cached beginnings, breakers, and what they have learned."""

from gateway.peers.memory import Memory
from gateway.peers.peers import Peers

__all__ = ["Memory", "Peers"]
