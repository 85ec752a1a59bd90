"""What is known of one backend apart from its calls.

Law: written by probes, discovery, operators' drains and the other gateways' word alone, read by snapshots and metrics.
It makes others come first or says that there is nothing to call; whether calls fail is the breaker's to know. What an
engine counts beyond the gateways' calls is believed once two of its answers in a row say so, and only as far as no
gateway has told of calls since.
"""

from collections.abc import Callable

from policies.probing import ANY, MOST, Load, Told

MOST_FOREIGN = 10_000
"""Calls past the gateways that are believed at most: no engine runs and holds more at once."""


class Condition:
    """One backend's.

    `absent`: why nothing can be called there (None: something can). `down`: what its last probe found wrong; `doubt`:
    what it found that calls may not get over, though something serves there.
    `failures`: probes in a row that failed. `probed`: whether one has ended yet. `load`, `told`: the engine's own
    figures, and what it says of its models; `foreign`: calls there, by these figures, that are not the gateways'.
    `elsewhere`: what the other gateways have there, as the engine counts. `unreached`: called when no connection to it
    could be made. `drained`: an operator has asked for no new calls.
    """

    def __init__(self, absent: str | None = None) -> None:
        self.absent = absent
        self.down: str | None = None
        self.doubt: str | None = None
        self.failures = 0
        self.probed = False
        self.load = Load()
        self.told = Told()
        self.unreached: Callable[[], None] = _nobody
        self.drained = False
        self.foreign = 0
        self.elsewhere = 0
        self._beyond: list[tuple[int, int]] = []

    def measured(self, load: Load, ours: int) -> None:
        """Take in the engine's own figures, as told while the gateways had so many calls there; none: what was is old.

        They correct what we count, and never replace it: what is above is somebody's who calls past us. One answer
        alone proves nothing: calls begin and end while it is asked.
        """
        self.load = load
        if load.running is None or load.waiting is None:
            self._beyond = []
        else:
            beyond = int(min(MOST_FOREIGN, max(0.0, load.running + load.waiting - ours)))
            self._beyond = [*self._beyond[-1:], (beyond, self.elsewhere)]
        self._reckon()

    def counted(self, elsewhere: int) -> None:
        """Take in how many calls the other gateways have there: those that nobody had told of are no longer foreign."""
        self.elsewhere = elsewhere
        self._reckon()

    def _reckon(self) -> None:
        """Count as foreign what the last two answers agree on, less what the others have told of since."""
        left = [max(0, beyond - max(0, self.elsewhere - then)) for beyond, then in self._beyond]
        self.foreign = min(left) if len(left) > 1 else 0

    def against(self, model: str) -> str | None:
        """Return why calls for `model` had better go elsewhere just now, None where nothing is known."""
        if self.down is None and self.told.states.get(model) == "loading":
            return "its model is being loaded"
        return self.down

    def unlisted(self, model: str) -> bool:
        """Say whether the backend has listed its models, all of them, and not this one."""
        listed = self.told.ids
        return 0 < len(listed) < MOST and model not in listed and model not in self.told.windows

    def window(self, model: str) -> int | None:
        """Return the tokens of context that the backend told for `model`."""
        return self.told.windows.get(model, self.told.windows.get(ANY))


def _nobody() -> None:
    """Tell nobody."""
