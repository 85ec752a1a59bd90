"""What is known of one backend apart from its calls.

Law: written by probes, discovery and operators' drains alone, read by snapshots and metrics. It makes others come first
or says that there is nothing to call; whether calls fail is the breaker's to know.
"""

from collections.abc import Callable

from policies.probing import ANY, Load, Told


class Condition:
    """One backend's.

    `absent`: why nothing can be called there (None: something can). `down`: what its last probe found wrong.
    `failures`: probes in a row that failed. `probed`: whether one has ended yet. `load`, `told`: the engine's own
    figures, and what it says of its models. `unreached`: called when no connection to it could be made. `drained`: an
    operator has asked for no new calls.
    """

    def __init__(self, absent: str | None = None) -> None:
        self.absent = absent
        self.down: str | None = None
        self.failures = 0
        self.probed = False
        self.load = Load()
        self.told = Told()
        self.unreached: Callable[[], None] = _nobody
        self.drained = False

    def against(self, model: str) -> str | None:
        """Return why calls for `model` had better go elsewhere just now, None where nothing is known."""
        if self.down is None and self.told.states.get(model) == "loading":
            return "its model is being loaded"
        return self.down

    def window(self, model: str) -> int | None:
        """Return the tokens of context that the backend told for `model`."""
        return self.told.windows.get(model, self.told.windows.get(ANY))


def _nobody() -> None:
    """Tell nobody."""
