"""The admin API's route for the gateways that share a store.

Law: a gateway that has been silent is not listed; nobody has to take it off.
"""

from litestar import get
from litestar.handlers import HTTPRouteHandler
from msgspec import Struct

from gateway.api.admin_answers import noes
from gateway.api.admin_parts import Parts
from gateway.roll import Listed, gateways


class GatewayList(Struct, frozen=True):
    """The gateways that live, the longest running first."""

    gateways: list[Listed]


def fleet_routes(parts: Parts) -> list[HTTPRouteHandler]:
    """Build the route that lists gateways."""

    @get(
        "/gateways",
        summary="List gateways",
        description="Lists the gateways that live, all that share this one's store: what each runs on (`config` is the "
        "digest of its file, `refused` that a newer one has mistakes and is not in force), its load, and how many "
        "seconds ago it told so (`lag`).",
        responses=noes("The request is wrong."),
    )
    async def list_gateways() -> GatewayList:
        return GatewayList(await gateways(parts.store))

    return [list_gateways]
