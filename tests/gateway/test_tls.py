import asyncio
import socket
import ssl
import sys
import threading
import time
from functools import partial

import pytest

from gateway import clock, wire
from gateway.tls import CertificateError, server_context, unread
from tests.gateway.harness import eventually
from tests.parts.certificates import self_signed


def fault(cert, key):
    with pytest.raises(CertificateError) as caught:
        server_context(cert, key)
    return caught.value.setting, caught.value.message, str(caught.value)


def test_a_chain_and_its_key_serve(pair):
    """From TLS 1.2 on."""
    context = server_context(*pair)

    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_a_missing_file_is_named(pair, tmp_path):
    """With what is the matter with it."""
    gone = tmp_path / "gone.pem"

    assert fault(gone, pair[1])[:2] == ("cert", f"{gone} cannot be read: No such file or directory")
    assert fault(pair[0], gone)[:2] == ("key", f"{gone} cannot be read: No such file or directory")
    assert fault(pair[0], tmp_path)[:2] == ("key", f"{tmp_path} cannot be read: Is a directory")


def test_the_two_files_in_each_other_s_place_are_told(pair):
    """The commonest mistake of all."""
    setting, message, _ = fault(pair[1], pair[0])

    assert setting == "cert"
    assert "holds no certificate" in message
    assert fault(pair[0], pair[0])[1].endswith("holds no private key")


def test_another_certificate_s_key_is_told(pair, tmp_path):
    """Neither file alone is wrong."""
    _, other = self_signed(tmp_path / "other")

    assert fault(pair[0], other)[:2] == ("key", f"{other} is not the key of {pair[0]}")


def test_an_encrypted_key_is_told_and_nobody_is_asked_for_a_passphrase(tmp_path):
    """A gateway starts unattended."""
    cert, key = self_signed(tmp_path / "locked", passphrase=b"secret")

    setting, message, told = fault(cert, key)

    assert (setting, message) == ("key", f"{key} is encrypted")
    assert "without a passphrase" in told


@pytest.mark.parametrize(("broken", "setting"), [(0, "cert"), (1, "key")])
def test_a_damaged_file_is_the_one_told(tmp_path, broken, setting):
    """Though OpenSSL says the same of both."""
    pair = self_signed(tmp_path / "pair")
    lines = pair[broken].read_text().splitlines()
    pair[broken].write_text("\n".join([lines[0], "AAAA", *lines[-1:]]) + "\n")

    assert fault(*pair)[0] == setting


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what TLS hides")
def test_a_look_that_comes_late_cuts_off_nobody(play, pair, monkeypatch):
    """The loop was held up while the caller took all that the network held: the end is still here, and TLS hides it."""
    monkeypatch.setattr(wire, "PARTING", 0.05)
    looks, go = [], threading.Event()

    def late(transport, *, secure):
        looks.append(None)
        if len(looks) == 2:
            go.set()
            until = time.monotonic() + 10
            while unread(transport, secure=secure)[0] and time.monotonic() < until:
                time.sleep(0.001)
        return unread(transport, secure=secure)

    def take(port):
        trust = ssl.create_default_context(cafile=pair[0])
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as bare,
            trust.wrap_socket(bare, server_hostname="localhost") as caller,
        ):
            assert go.wait(10)
            return sum(map(len, iter(partial(caller.recv, 65536), b"")))

    async def scene(it, _):
        assert await eventually(lambda: it.server.server_state.connections)
        known = set(it.server.server_state.connections)
        taken = clock.spawn(asyncio.to_thread(take, it.port), "take")
        assert await eventually(lambda: it.server.server_state.connections - known)
        (ours,) = it.server.server_state.connections - known
        sent, begun = 0, sum(unread(ours.transport, secure=True))
        while sent - sum(unread(ours.transport, secure=True)) + begun < 16_000:  # those the network does not take
            ours.transport.write(b"a" * 16_384)
            sent += 16_384
            await asyncio.sleep(0.002)
        monkeypatch.setattr(wire, "unread", late)
        ours.shutdown()
        assert await taken == sent

    play(scene, pair=pair)
