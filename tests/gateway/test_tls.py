import asyncio
import socket
import ssl
import sys
import threading
import time
from functools import partial
from types import SimpleNamespace

import pytest
import structlog

from gateway import clock, files, wire
from gateway.tls import CertificateError, Renewal, server_context, unheard, unread
from tests.gateway.harness import eventually
from tests.parts.certificates import self_signed
from tests.parts.hung import hanging


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


async def test_a_renewed_pair_is_used_and_a_useless_one_is_told_and_is_not(tmp_path):
    """Whoever asks for it has it by then."""
    used = []
    renewal, mine = Renewal(used.append), self_signed(tmp_path)
    with structlog.testing.capture_logs() as told:
        await renewal.renew(*mine)
        mine[1].unlink()
        await renewal.renew(*mine)

    assert [context.minimum_version for context in used] == [ssl.TLSVersion.TLSv1_2]
    assert [entry["event"] for entry in told] == ["certificate renewed", "the certificate in force stays"]
    assert told[1]["why"].startswith(f"{mine[1]} cannot be read: No such file")


async def test_a_pair_that_is_as_it_was_is_not_told_as_renewed(tmp_path):
    """It is read at every start and every hangup; a line each time would hide the one that counts."""
    mine = self_signed(tmp_path)
    used = [server_context(*mine)]
    renewal = Renewal(used.append, used[0])
    with structlog.testing.capture_logs() as told:
        await renewal.renew(*mine)
        assert told == []
        self_signed(tmp_path)
        for _ in range(2):
            await renewal.renew(*mine)

    assert len(used) == 4
    assert [entry["event"] for entry in told] == ["certificate renewed"]


@pytest.mark.parametrize("which", [0, 1], ids=["cert", "key"])
async def test_a_pair_that_does_not_answer_holds_up_nobody_and_is_used_when_it_does(tmp_path, which, monkeypatch):
    """Whoever asks for it waits a moment and goes on."""
    monkeypatch.setattr(files, "LATE", 0.5)
    used = []
    renewal, mine = Renewal(used.append), self_signed(tmp_path)
    content = mine[which].read_bytes()
    with structlog.testing.capture_logs() as told, hanging(mine[which]) as hung:
        async with asyncio.timeout(10):
            await renewal.renew(*mine)
        await eventually(lambda: renewal.late)
        (late,) = renewal.late
        assert (used, late.filename) == ([], str(mine[which]))
        assert [entry["meanwhile"] for entry in told] == ["the certificate in force"]
        hung.answer(content)
        await eventually(lambda: used)

    assert renewal.late == []
    assert [entry["event"] for entry in told][1:] == ["a file has answered", "certificate renewed"]


async def test_a_pair_that_answers_after_another_one_was_asked_for_is_not_used(tmp_path, monkeypatch):
    """Whoever moved it away from a dead mount has the new one at once, and keeps it."""
    monkeypatch.setattr(files, "LATE", 0.5)
    used = []
    renewal, old, new = Renewal(used.append), self_signed(tmp_path / "old"), self_signed(tmp_path / "new")
    content = old[0].read_bytes()
    with structlog.testing.capture_logs() as told, hanging(old[0]) as hung:
        await renewal.renew(*old)
        await renewal.renew(*new)
        assert (len(used), renewal.late) == (1, [])
        hung.answer(content)
        await eventually(lambda: told[-1]["event"] == "a file has answered")
        await asyncio.sleep(0.1)

    assert len(used) == 1


async def test_a_pair_that_hangs_is_read_once_more_however_often_that_was_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LATE", 0.1)
    used = []
    renewal, mine = Renewal(used.append), self_signed(tmp_path)
    content = mine[0].read_bytes()
    with hanging(mine[0]) as hung:
        await renewal.renew(*mine)
        tasks = len(asyncio.all_tasks())
        await asyncio.gather(*(renewal.renew(*mine) for _ in range(100)))
        assert len(asyncio.all_tasks()) == tasks + 1
        hung.answer(content)
        assert await eventually(lambda: len(used) == 2)
        await asyncio.sleep(0.1)

    assert len(used) == 2


async def test_a_key_that_was_moved_away_from_a_dead_mount_is_used_with_the_certificate_that_was_not(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(files, "LATE", 0.5)
    used = []
    renewal, (cert, key) = Renewal(used.append), self_signed(tmp_path)
    moved = tmp_path / "moved.pem"
    moved.write_bytes(key.read_bytes())
    with hanging(key):
        await renewal.renew(cert, key)
        await renewal.renew(cert, moved)
        assert await eventually(lambda: used)
        assert renewal.late == []

    assert len(used) == 1


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
        ours.evict()
        assert await taken == sent

    play(scene, pair=pair)


def test_what_has_come_and_nobody_has_read_is_told():
    """A request that lies in the kernel must not be closed over."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        transport = SimpleNamespace(get_extra_info={"socket": ours}.get)
        assert unheard(transport) == 0
        theirs.sendall(b"hello")
        assert unheard(transport) == 5
