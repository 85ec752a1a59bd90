"""The hosted NVIDIA endpoint beside the simulated fleet, for whoever has a key.

Law: it joins while the tour runs and never delays it; the tour's own model stays simulated, so no call of it is paid.
"""

from gateway.app import Gateway
from gateway.config.loading import HOSTED_URL
from gateway.config.settings import Backend
from gateway.upstream.catalog import listed
from gateway.upstream.fleet import Home
from gateway.upstream.listing import models_of


async def join_hosted(gateway: Gateway, api_key: str, base_url: str = HOSTED_URL) -> int | None:
    """Serve what the hosted endpoint lists, each model under its own id; return how many, None if it did not answer."""
    backend = Backend("hosted", "nvidia", base_url, api_key)
    home = Home(backend)
    listing = await models_of(home)
    await home.transport.aclose()
    if isinstance(listing, str):
        return None
    known = {model.name for model in gateway.services.catalog.models}
    joined = [model for model in listed({backend.name: listing}, [backend]).models if model.name not in known]
    gateway.scanning.join(backend, joined)
    return len(joined)
