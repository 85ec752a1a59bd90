"""What the file may say of routing: wishes, which plans and keys have too, and a model's own terms.

Law: this page, with `schema.py`, is the reference of what a file may say. A wish that is not there is None, so that a
wider one or the gateway's own counts. Money is USD in the file and nano-dollars here.
"""

from typing import Annotated, ClassVar, get_args

from gateway.config import amounts, values
from gateway.config.reading import Key, Row
from policies.terms import Policy, Priority, RoutingTerms, RoutingWishes, joined

_DAY = "86400"


class WishesRow(Row, frozen=True, kw_only=True):
    """`routing` of a plan or a key: seconds, nano-dollars a second, seconds an output token, nano-dollars a call."""

    NOUN: ClassVar[str] = "routing"

    ttft_target: Annotated[float | None, Key(values.decimal("0.001", _DAY, "seconds"))] = None
    value_of_time: Annotated[int | None, Key(values.usd(amounts.nano_dollars, 1000, "a second"))] = None
    tpot_target: Annotated[float | None, Key(values.decimal("0.0001", "60", "seconds an output token"))] = None
    max_price: Annotated[int | None, Key(values.usd(amounts.nano_dollars, 10_000, "a call"))] = None
    policy: Annotated[Policy | None, Key(values.one_of(get_args(Policy)))] = None
    priority: Annotated[Priority | None, Key(values.one_of(get_args(Priority)))] = None

    def wishes(self) -> RoutingWishes:
        """Return what is wished."""
        return RoutingWishes(
            ttft_target=self.ttft_target,
            value_of_time=self.value_of_time,
            tpot_target=self.tpot_target,
            max_price=self.max_price,
            policy=self.policy,
            priority=self.priority,
        )


class RoutingRow(WishesRow, frozen=True, kw_only=True):
    """A model's `routing`: deployments tried, and seconds."""

    NOUN: ClassVar[str] = "a model's routing"

    max_attempts: Annotated[int, Key(values.whole(1, 10, "attempts"))] = RoutingTerms().max_attempts
    max_wait: Annotated[float, Key(values.decimal("0", _DAY, "seconds"))] = RoutingTerms().max_wait

    def terms(self) -> RoutingTerms:
        """Return the model's terms."""
        return joined(RoutingTerms(max_attempts=self.max_attempts, max_wait=self.max_wait), self.wishes())
