"""What the gateways call one another's deployments.

Law: a deployment has one name among all gateways, its id. One whose backend is of its host alone has the host's before
it: what is told of it means something to the gateways of that host, and nothing to any other.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from gateway.upstream.fleet import Home
from gateway.upstream.hosts import is_alone, this_host

T = TypeVar("T")

SIGN = "@"
"""What a name with a host begins with; no backend's does."""


class Names:
    """The names of the deployments of one fleet, whose `homes` these are."""

    def __init__(self, homes: Mapping[str, Home]) -> None:
        self._homes = homes
        self._mark = f"{SIGN}{this_host()} "

    def told(self, deployment: str) -> str:
        """Return what all gateways call a deployment of ours."""
        return f"{self._mark}{deployment}" if self.alone(deployment) else deployment

    def ours(self, name: str) -> str | None:
        """Return the deployment here that is called so; None: it is on another host, or at another place than here."""
        marked = name.startswith(SIGN)
        if marked and not name.startswith(self._mark):
            return None
        deployment = name.removeprefix(self._mark)
        home = self._home(deployment)
        return deployment if home is None or is_alone(home.backend) is marked else None

    def here(self, told: Iterable[tuple[str, T]]) -> Iterator[tuple[str, T]]:
        """Yield what was told of deployments by their names, by those of ours that are called so."""
        for name, what in told:
            deployment = self.ours(name)
            if deployment is not None:
                yield deployment, what

    def alone(self, deployment: str) -> bool:
        """Say whether a deployment is of this host alone."""
        home = self._home(deployment)
        return home is not None and is_alone(home.backend)

    def _home(self, deployment: str) -> Home | None:
        at = deployment.find("/")
        while at >= 0:  # replicas may have paths in their names, and models slashes
            home = self._homes.get(deployment[:at])
            if home is not None:
                return home
            at = deployment.find("/", at + 1)
        return None
