"""Hosts that are network namespaces of this machine, and bridges between them: a cable can be pulled.

Law: nothing of the machine's own network is touched: bridges stand in a namespace too, and every name has this
process's id in it. `Network.close` removes all of it, whatever happened; what a killed one left the next one removes.
Needs root and iproute2.
"""

import contextlib
import ctypes
import os
import re
import subprocess
from pathlib import Path

NETWORKS = {"front": "10.77.0", "store": "10.78.0"}
"""Each network and its prefix: callers, balancer, gateways and engines; gateways and the store."""

_NAMES = Path("/run/netns")
_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000


def _ip(*words):
    subprocess.run(["ip", *map(str, words)], check=True)


class Host:
    """One namespace. `number` is the last part of its addresses, one in each network that it is plugged into."""

    def __init__(self, name, number, switch):
        self.name = name
        self._number = number
        self._switch = switch
        _ip("netns", "add", name)
        _ip("-n", name, "link", "set", "lo", "up")

    def address(self, network):
        """Return where it is found in a network."""
        return f"{NETWORKS[network]}.{self._number}"

    def wire(self, network):
        """Lay a cable to a network's bridge."""
        port = self._port(network)
        _ip("-n", self._switch, "link", "add", port, "type", "veth", "peer", "name", network, "netns", self.name)
        _ip("-n", self._switch, "link", "set", port, "master", network, "up")
        _ip("-n", self.name, "addr", "add", f"{self.address(network)}/24", "dev", network)
        _ip("-n", self.name, "link", "set", network, "up")

    def unplug(self, network):
        """Pull the cable: what is sent in either direction is lost, and no socket is told."""
        _ip("-n", self._switch, "link", "set", self._port(network), "down")

    def plug(self, network):
        """Put the cable back."""
        _ip("-n", self._switch, "link", "set", self._port(network), "up")

    def command(self, *words):
        """Return the command line that runs `words` there; such a process does not outlive this one."""
        return ["ip", "netns", "exec", self.name, "setpriv", "--pdeathsig", "KILL", *map(str, words)]

    def enter(self):
        """Have this thread open its sockets there from now on, and start its processes there."""
        with (_NAMES / self.name).open("rb") as name:
            _enter(name)

    @contextlib.contextmanager
    def inside(self):
        """Open sockets, and start processes, there; they stay there. The thread is back at the end."""
        with Path("/proc/thread-self/ns/net").open("rb") as home:
            self.enter()
            try:
                yield
            finally:
                _enter(home)

    def _port(self, network):
        return f"{network}{self._number}"


class Network:
    """The bridges, and the hosts by their names."""

    def __init__(self):
        self.hosts = {}
        self._stem = f"hosts{os.getpid()}"
        self._switch = f"{self._stem}-switch"
        _sweep()
        try:
            _ip("netns", "add", self._switch)
            for network in NETWORKS:
                _ip("-n", self._switch, "link", "add", network, "type", "bridge")
                _ip("-n", self._switch, "link", "set", network, "up")
        except BaseException:
            self.close()
            raise

    def host(self, name, *networks):
        """Make a host, plugged into networks."""
        host = Host(f"{self._stem}-{name}", 11 + len(self.hosts), self._switch)
        self.hosts[name] = host
        for network in networks:
            host.wire(network)
        return host

    def close(self):
        """Remove it all. The namespace of a process that still runs goes with that process."""
        for path in [*_NAMES.glob(f"{self._stem}-*")]:
            subprocess.run(["ip", "netns", "del", path.name], check=False)


def _enter(opened):
    if _LIBC.setns(opened.fileno(), _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "cannot enter a network namespace")


def _sweep():
    """Remove what a process left that is no more."""
    for path in [*_NAMES.glob("hosts*-*")] if _NAMES.exists() else []:
        told = re.fullmatch(r"hosts(\d+)-\w+", path.name)
        if told and not Path(f"/proc/{told[1]}").exists():
            subprocess.run(["ip", "netns", "del", path.name], check=False)
