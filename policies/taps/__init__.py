"""What watches streams, one API's a file.

Law: all have the surface of `Tap`; whoever relays a stream knows no API by name.
"""

from policies.domain import API
from policies.taps.chat import ChatTap, ChoicesTap
from policies.taps.messages import MessagesTap
from policies.taps.responses import ResponsesTap
from policies.taps.tap import Tap

__all__ = ["Tap", "tap_of"]


def tap_of(api: API, *, withhold_usage: bool, choices: int = 1) -> Tap:
    """Return what watches one stream of `api`, in which so many `choices` were asked for.

    `withhold_usage`: the usage event was asked for by us alone.
    """
    if api == "messages":
        return MessagesTap()
    if api == "responses":
        return ResponsesTap()
    return ChatTap(withhold_usage=withhold_usage) if choices == 1 else ChoicesTap(withhold_usage=withhold_usage)
