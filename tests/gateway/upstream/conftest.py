import pytest

from gateway.upstream import discovery
from gateway.upstream import scanning as module
from gateway.upstream.catalog import Catalog
from gateway.upstream.fleet import Fleet
from gateway.upstream.scanning import Scanning
from tests.gateway.upstream.test_scanning import served_by


class Kept:
    """A fleet that is kept, what was published of it, and who was forgotten. `state`: what calls go by."""

    def __init__(self, backends, models, **options):
        self.fleet, self.published, self.forgotten = Fleet(), [Catalog(models or ())], []
        self.scanning = Scanning(self.fleet, backends, models, self.published.append, self.forgotten.append, **options)

    async def take(self, backends, models):
        await self.scanning.prepare(backends, models)
        before = len(self.published)
        self.scanning.take(backends, models)
        assert len(self.published) > before

    @property
    def served(self):
        return served_by(self.published)

    @property
    def state(self):
        homes = {name: (home, home.backend) for name, home in self.fleet.homes.items()}
        return homes, self.present, len(self.published), dict(self.scanning._discovery.replicas)

    @property
    def present(self):
        return sorted(home.backend.name for home in self.fleet.present)


@pytest.fixture
async def keep(monkeypatch):
    """Keep a fleet of a test's own backends in quick time."""
    monkeypatch.setattr(discovery, "LOOK_EVERY", 0.02)
    monkeypatch.setattr(discovery, "LOOK_LEAST", 0.01)
    monkeypatch.setattr(discovery, "MORE", 0.2)
    monkeypatch.setattr(module, "SWEEP", 0.02)
    monkeypatch.setattr(module, "LISTS_WITHIN", 5.0)
    made = []

    async def start(backends, models, **options):
        made.append(kept := Kept(backends, models, **options))
        await kept.scanning.start()
        return kept

    yield start
    for kept in made:
        kept.scanning.close()
        await kept.fleet.close()
