"""Callers and gateways over one real store, for the tests of who is calling."""

import contextlib
import hashlib

from msgspec.structs import replace

from gateway.config.settings import STANDARD, Organization
from gateway.config.stored import stored_plan
from gateway.identity.changes import Feed
from gateway.identity.identify import Identities
from gateway.identity.keys import _checksum, new_key
from gateway.identity.registry import Registry
from gateway.store.door import Store
from policies.rejections import Reason, Rejection

HERE = "10.1.2.3"
"""The address that callers have."""

PLANS = {"standard": STANDARD}
ORGANIZATIONS = {"acme": Organization(plan=STANDARD, teams={})}
LOCAL = {"standard": replace(STANDARD, when_down="local")}
LOCAL_ORGANIZATIONS = {"acme": Organization(plan=LOCAL["standard"], teams={})}

FORGED = Rejection(Reason.BAD_KEY, "This token is forged.")


def compile_plan(name, document):
    return stored_plan(name, document, None)


class Badges:
    """Issuers that know what each token says: those in `good`, by their bytes."""

    def __init__(self):
        self.good, self._seen, self.verified = {}, {}, 0

    def recall(self, token):
        found = self._seen.get(hashlib.sha256(token).digest())
        return found if found is None or token in self.good else FORGED

    async def verify(self, token):
        self.verified += 1
        if token not in self.good:
            return FORGED
        return self._seen.setdefault(hashlib.sha256(token).digest(), self.good[token])


def identities(registry, feed, **settings):
    """Return what a gateway knows of its callers; `settings` replace the usual ones."""
    usual = {
        "plans": PLANS,
        "organizations": ORGANIZATIONS,
        "when_down": "deny",
        "grace": 600.0,
        "compile_plan": compile_plan,
    }
    return Identities(registry, feed, **usual | settings)


@contextlib.asynccontextmanager
async def gateway(url, **settings):
    """Run what one gateway has of identity; yield it, with its feed."""
    store, listening = Store(url, deadline=5.0), Store(url, deadline=0.8)
    feed = Feed(listening, **{name: settings[name] for name in ("now",) if name in settings})
    found = identities(Registry(store), feed, **settings)
    await feed.start()
    try:
        yield found, feed
    finally:
        await feed.close()
        await store.close()
        await listening.close()


def forged(key):
    """Return a well-formed key with the id of `key` and another secret."""
    _, other = new_key()
    body = key[:16] + other[16:-6]
    return body + _checksum(body)
