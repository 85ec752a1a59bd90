import re
import subprocess
import sys

import pytest

from gateway.config.settings import Backend
from gateway.upstream import hosts as module
from gateway.upstream.hosts import is_alone, loops_back, this_host


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Make this host another one: the kernel that runs, the network we are in, its name."""

    def tell(boot, network, name="node"):
        this_host.cache_clear()
        for place, file in (("BOOT", boot), ("NETWORK", network)):
            path = tmp_path / (file or "none")
            if file:
                path.write_text(file)
            monkeypatch.setattr(module, place, path)
        monkeypatch.setattr(module.socket, "gethostname", lambda: name)
        return this_host()

    yield tell
    this_host.cache_clear()


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://127.0.0.1:8000/v1", None),
        ("http://127.8.9.1/v1", None),
        ("http://[::1]:8000/v1", None),
        ("http://[::ffff:127.0.0.1]:8000/v1", None),
        ("http://0.0.0.0:8000/v1", None),
        ("http://localhost:8000/v1", None),
        ("http://LOCALHOST.:8000/v1", None),
        ("https://llama.localhost/v1", None),
        ("http://engines.example:8000/v1", "127.0.0.1"),
    ],
)
def test_what_loops_back_is_of_the_host_that_asks(url, address):
    """However it is written, and where a name was resolved before too."""
    assert loops_back(url, address)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://10.0.0.1:8000/v1", None),
        ("http://[fd00::1]:8000/v1", None),
        ("http://[::ffff:10.0.0.1]:8000/v1", None),
        ("http://localhost.example.org/v1", None),
        ("http://notlocalhost:8000/v1", None),
        ("http://localhost:8000/v1", "10.0.0.1"),
    ],
)
def test_what_does_not_is_the_same_place_for_all(url, address):
    assert not loops_back(url, address)


def test_a_hosted_endpoint_is_the_same_behind_any_hosts_proxy():
    """By what the file says, else by its kind."""
    here = "http://127.0.0.1:8000/v1"

    assert is_alone(Backend("a", "vllm", here))
    assert is_alone(Backend("a", "openai", here, told_hosted=False))
    assert not is_alone(Backend("a", "openai", here))
    assert not is_alone(Backend("a", "vllm", here, told_hosted=True))
    assert not is_alone(Backend("a", "vllm", "http://10.0.0.1:8000/v1"))


def test_all_processes_of_a_host_call_it_the_same():
    """Workers, and gateways that were started one by one."""
    command = [sys.executable, "-c", "from gateway.upstream.hosts import this_host; print(this_host())"]

    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == this_host()
    assert re.fullmatch("[0-9a-f]{16}", this_host())


def test_hosts_differ_by_their_kernel_or_their_network(told):
    """Two pods of one node, two machines of one name; containers of a pod may have names of their own."""
    one = told("kernel-1", "network-1")

    assert told("kernel-1", "network-2") != one
    assert told("kernel-2", "network-1") != one
    assert told("kernel-1", "network-1", "sidecar") == one


def test_where_the_kernel_says_nothing_a_host_goes_by_its_name(told):
    """Other systems than Linux, and sandboxes."""
    one = told(None, "network-1", "pod-1")

    assert told(None, "network-1", "pod-2") != one
    assert told(None, None, "pod-1") == one
    assert told(" ", "network-1", "pod-1") == one  # masked: hosts of one make have networks of one number
