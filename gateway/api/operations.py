"""What an operator's machinery asks, on an address apart from the callers': liveness, readiness, metrics.

Law: liveness says only that the loop turns; readiness that calls would be taken, which asks the store.
"""

from collections.abc import Awaitable, Callable

from litestar import get
from litestar.handlers import HTTPRouteHandler
from litestar.response import Response

from gateway.metrics import Metrics


def operations_routes(
    metrics: Metrics, ready: Callable[[], Awaitable[str | None]], state: Callable[[], str]
) -> list[HTTPRouteHandler]:
    """Build the routes; `ready` says why not, or None; `state` says how well, where it is ready."""

    @get("/livez", sync_to_thread=False)
    def livez() -> str:
        """Say that the process lives."""
        return "ok"

    @get("/readyz")
    async def readyz() -> Response[str]:
        """Say whether calls are taken, and if not, why."""
        why = await ready()
        return Response(
            state() if why is None else why, status_code=200 if why is None else 503, media_type="text/plain"
        )

    @get("/metrics", sync_to_thread=False)
    def scrape() -> Response[bytes]:
        """Return the metrics in Prometheus' text format."""
        return Response(metrics.render(), media_type="text/plain; version=0.0.4")  # Litestar adds the charset

    return [livez, readyz, scrape]
