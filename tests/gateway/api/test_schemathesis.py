"""Whatever a stranger's tool makes of the API's own page is answered as the page says."""

import asyncio
import contextlib
import subprocess
import sys
import threading

import pytest

from gateway.store.door import Store
from tests.gateway.api.conftest import app_over, parts_over
from tests.gateway.api.support import ADMIN_KEY
from tests.gateway.identity.support import served

LEFT_OUT = (
    # Rules that no schema can say (a plan must be there, a name be printable), and versions (428) are noes to it.
    "positive_data_acceptance",
    # Litestar's own answer to OPTIONS names the first method of a path alone.
    "allow_header_conformance",
)


class NoKeys:
    """Identities of a gateway without keys."""

    async def identify(self, headers, address):
        from gateway.identity.identify import NO_KEY

        return NO_KEY


@contextlib.contextmanager
def gateway(valkey_url):
    """Serve the admin API in a loop of its own; yield its address."""
    up, enough, told = threading.Event(), asyncio.Event(), {}

    async def serve():
        store = Store(valkey_url, deadline=5.0)
        async with served(app_over(parts_over(store, NoKeys()))) as url:
            told.update(url=url, loop=asyncio.get_running_loop())
            up.set()
            await enough.wait()
        await store.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert up.wait(30)
    yield told["url"]
    told["loop"].call_soon_threadsafe(enough.set)
    thread.join(30)


@pytest.mark.ci
@pytest.mark.timeout(600)
def test_every_answer_is_as_the_page_says(valkey_url, tmp_path):
    """No 5xx, no undocumented status, no body of another shape, nothing taken that the schema forbids, no open door."""
    with gateway(valkey_url) as url:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/schema/openapi.json"),
                *("--header", f"Authorization: Bearer {ADMIN_KEY}"),
                *("--include-path-regex", "^/admin/"),
                *("--exclude-checks", ",".join(LEFT_OUT)),
                *("--phases", "coverage,fuzzing"),
                *("--max-examples", "50"),
                *("--generation-deterministic", "--continue-on-failure", "--no-color"),
            ],
            cwd=tmp_path,  # it leaves its notes there
            capture_output=True,
            text=True,
            timeout=540,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    assert " passed" in done.stdout
