import os
import signal
import subprocess
import sys
import time

import httpx
import pytest

from gateway.demo.backend import Simulated
from gateway.demo.fleet import ROOT, Fleet, FleetFailed


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_fleet_is_started_listens_and_ends_with_its_block():
    with Fleet([Simulated("a", "m", 0.0, 0.0), Simulated("b", "m", 0.0, 0.0)]) as fleet:
        pids = [replica.pid for replica in fleet.replicas]
        assert fleet["a"].url != fleet["b"].url
        assert httpx.get(fleet["b"].url + "/health").status_code == 200
        fleet["a"].kill()
        assert [replica.alive for replica in fleet.replicas] == [False, True]
        with pytest.raises(httpx.ConnectError):
            httpx.get(fleet["a"].url + "/health")
    assert all(map(gone, pids))


def test_a_backend_that_cannot_start_is_named(capfd):
    with Fleet([Simulated("a", "m", 0.0, 0.0)]) as fleet:
        port = int(fleet["a"].url.rpartition(":")[2])
        with (
            Fleet([Simulated("second", "m", 0.0, 0.0, port=port)]) as other,
            pytest.raises(FleetFailed, match="second"),
        ):
            _ = other["second"].url
    assert "address already in use" in capfd.readouterr().err


def test_a_backend_dies_with_a_parent_that_was_killed():
    code = (
        "from gateway.demo.backend import Simulated\nfrom gateway.demo.fleet import Fleet\n"
        "fleet = Fleet([Simulated('a', 'm', 0.0, 0.0)])\n"
        "print(fleet['a'].url, fleet['a'].pid, flush=True)\ninput()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        url = parent.stdout.readline().split()[0]
        assert httpx.get(url + "/health").status_code == 200
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        for _ in range(500):
            try:
                httpx.get(url + "/health")
            except httpx.TransportError:
                break
            time.sleep(0.01)
        else:
            pytest.fail("the backend outlived its parent")
