import asyncio
import socket
import ssl
import threading

import pytest
import structlog

from gateway import files
from gateway.config.settings import Backend
from gateway.upstream import discovery as module
from gateway.upstream.discovery import Discovery, addresses_of
from gateway.upstream.fleet import Fleet
from policies.domain import Deployment
from policies.failures import Failure, FailureKind
from tests.gateway.harness import eventually
from tests.parts.certificates import self_signed
from tests.parts.hung import hanging

NAMED = Backend("gpu", "vllm", "http://gpu.cluster.local:8000/v1", "key", max_connections=7, discover="dns")


class Names:
    """A resolver whose answer a test changes: addresses, or an error. Counts its lookups."""

    def __init__(self, *addresses):
        self.answer = list(addresses)
        self.asked = []

    async def __call__(self, host, port):
        self.asked.append((host, port))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
async def discover(monkeypatch):
    """Start discovery in quick time; yield it and its fleet."""
    for name in ("LOOK_EVERY", "LOOK_LEAST", "POLL_EVERY"):
        monkeypatch.setattr(module, name, 0.02 if name == "LOOK_EVERY" else 0.01)
    made = []

    async def start(family, resolve=addresses_of, lasting=900.0, changed=lambda: None):
        fleet = Fleet()
        fleet.add(family)
        found = Discovery(fleet, [family], changed, lasting, resolve)
        made.append((found, fleet))
        await found.start()
        return found, fleet

    yield start
    for found, fleet in made:
        found.close()
        await fleet.close()


def present(fleet):
    return sorted(home.backend.name for home in fleet.present)


async def test_each_address_of_a_name_is_a_replica(discover):
    """Of the same kind, key and bounds; the name stays what it is asked for, the address is where it is asked."""
    names = Names("10.0.0.3", "10.0.0.2", "10.0.0.3", "fd00::1")
    found, fleet = await discover(NAMED, names)

    assert names.asked[0] == ("gpu.cluster.local", 8000)
    assert found.replicas == {"gpu": ("gpu@10.0.0.2:8000", "gpu@10.0.0.3:8000", "gpu@[fd00::1]:8000")}
    one = fleet.homes["gpu@10.0.0.2:8000"].backend
    assert (one.kind, one.api_key, one.max_connections) == ("vllm", "key", 7)
    assert (one.base_url, one.address, one.discovered) == (NAMED.base_url, "10.0.0.2", False)
    assert (b"host", b"gpu.cluster.local:8000") in fleet.homes["gpu@10.0.0.2:8000"].headers
    assert present(fleet) == sorted(found.replicas["gpu"])


async def test_replicas_come_and_go_with_their_addresses(discover):
    """One that goes keeps its connections until its calls have ended; one that stays keeps what was learned."""
    changes = []
    names = Names("10.0.0.1", "10.0.0.2")
    _, fleet = await discover(NAMED, names, changed=lambda: changes.append(1))
    stays, goes = fleet.homes["gpu@10.0.0.2:8000"], fleet.homes["gpu@10.0.0.1:8000"]
    names.answer = ["10.0.0.2", "10.0.0.3"]
    await eventually(lambda: present(fleet) == ["gpu@10.0.0.2:8000", "gpu@10.0.0.3:8000"])

    assert len(changes) == 2
    assert fleet.homes["gpu@10.0.0.2:8000"] is stays
    assert fleet.homes["gpu@10.0.0.1:8000"] is goes
    names.answer = ["10.0.0.1"]
    await eventually(lambda: present(fleet) == ["gpu@10.0.0.1:8000"])
    assert fleet.homes["gpu@10.0.0.1:8000"] is goes


async def test_what_has_left_is_forgotten_when_no_call_can_know_of_it(discover):
    """Its name is told, so that its metrics can go too."""
    names = Names("10.0.0.1", "10.0.0.2")
    _, fleet = await discover(NAMED, names, lasting=50.0)
    one = Deployment("gpu@10.0.0.1:8000", "vllm", "m", None, frozenset(), None)
    live = fleet.live(one)
    names.answer = ["10.0.0.2"]
    await eventually(lambda: len(present(fleet)) == 1)
    now = asyncio.get_running_loop().time()

    assert await fleet.sweep(now + 40) == []
    assert fleet.live(one) is live
    assert await fleet.sweep(now + 60) == ["gpu@10.0.0.1:8000"]
    assert set(fleet.homes) == {"gpu", "gpu@10.0.0.2:8000"}


@pytest.mark.parametrize("trouble", [socket.gaierror(-3, "Temporary failure"), UnicodeError("label"), []])
async def test_a_lookup_that_fails_keeps_the_last_addresses_and_is_told_once(discover, trouble):
    """A resolver that restarts must not take a fleet away."""
    names = Names("10.0.0.1")
    with structlog.testing.capture_logs() as told:
        _, fleet = await discover(NAMED, names)
        names.answer = trouble
        seen = len(names.asked)
        await eventually(lambda: len(names.asked) > seen + 3)
        assert present(fleet) == ["gpu@10.0.0.1:8000"]
        names.answer = ["10.0.0.1"]
        seen = len(names.asked)
        await eventually(lambda: len(names.asked) > seen + 1)

    assert [entry["event"] for entry in told] == [
        "the replicas changed",
        "the last known replicas stay",
        "the replicas are known again",
    ]


async def test_a_name_without_an_address_is_waited_for(discover):
    """Its backend stands for what will come, and cannot be called until then."""
    names = Names()
    found, fleet = await discover(NAMED, names)
    assert (found.replicas, present(fleet)) == ({"gpu": ()}, [])
    waiting = Deployment("gpu", "vllm", "m", None, frozenset(), None)
    assert fleet.live(waiting).snapshot(waiting, 0.0).absent == "no replicas"
    names.answer = ["10.0.0.9"]

    await eventually(lambda: present(fleet) == ["gpu@10.0.0.9:8000"])


async def test_a_resolver_that_hangs_does_not_hold_the_start(discover, monkeypatch):
    """And is not asked a second time meanwhile."""
    monkeypatch.setattr(module, "FIRST", 0.05)
    asked, free = [], asyncio.Event()

    async def hang(host, port):
        asked.append(host)
        await free.wait()
        return ["10.0.0.1"]

    _, fleet = await discover(NAMED, hang)
    await asyncio.sleep(0.05)
    assert (present(fleet), len(asked)) == ([], 1)
    free.set()

    await eventually(lambda: len(present(fleet)) == 1)


async def test_a_connection_that_fails_has_the_name_looked_up_sooner(discover, monkeypatch):
    """But not sooner than a second after the last time."""
    monkeypatch.setattr(module, "LOOK_EVERY", 1000.0)
    names = Names("10.0.0.1")
    _, fleet = await discover(NAMED, names)
    live = fleet.live(Deployment("gpu@10.0.0.1:8000", "vllm", "m", None, frozenset(), None))
    await asyncio.sleep(0.05)
    assert len(names.asked) == 1
    for _ in range(5):
        live.failed(Failure(FailureKind.CONNECT, "refused"), "chat", 0.0, probe=False)

    await eventually(lambda: len(names.asked) == 2)
    await asyncio.sleep(0.05)
    assert len(names.asked) == 2


async def test_the_system_resolves_a_name_to_its_addresses(discover):
    """As the resolver of this machine has it; a name that nobody has is an error."""
    assert set(await addresses_of("localhost", 80)) <= {"127.0.0.1", "::1"}
    assert await addresses_of("127.0.0.2", 80) == ["127.0.0.2"]
    with pytest.raises(OSError, match=r".+"):
        await addresses_of("no-such-host.invalid", 80)


@pytest.mark.parametrize("transport", ["pooled", "httpx"])
async def test_a_replica_is_reached_at_its_address_under_its_name(discover, tmp_path, transport):
    """TLS asks for the name and verifies it, though other machines have it too; so does the host header."""
    certificate, key = self_signed(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    heads, names = [], []
    context.sni_callback = lambda _, name, __: names.append(name)

    async def serve(reader, writer):
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.2", 0, ssl=context)
    port = listener.sockets[0].getsockname()[1]
    url = f"https://localhost:{port}/v1"
    family = Backend("gpu", "vllm", url, transport=transport, ca=certificate, discover="dns")
    _, fleet = await discover(family, Names("127.0.0.2"))
    (home,) = fleet.present
    answer = await home.transport.post(home.urls["chat"], [*home.headers], b"{}", lambda: None)

    assert (home.backend.name, answer.status) == (f"gpu@127.0.0.2:{port}", 200)
    assert names == ["localhost"]
    assert f"\r\nhost: localhost:{port}\r\n".encode() in heads[0].lower()
    answer.close()
    listener.close()


async def test_each_line_of_a_list_is_a_replica(discover, tmp_path):
    """Named by its host and port, and by its path where several lie behind one."""
    path = tmp_path / "replicas"
    path.write_text("# ours\nhttp://10.0.0.1:8000/v1\nhttps://gpu.example/v1/ # theirs\nhttp://10.0.0.1:8000/b/v1\n")
    found, fleet = await discover(Backend("gpu", "vllm", "", "key", list_file=path))

    assert found.replicas == {"gpu": ("gpu@10.0.0.1:8000", "gpu@gpu.example:443", "gpu@10.0.0.1:8000/b")}
    one = fleet.homes["gpu@gpu.example:443"].backend
    assert (one.base_url, one.address, one.api_key) == ("https://gpu.example/v1", None, "key")


async def test_a_list_is_read_again_when_it_changes_by_whatever_way(discover, tmp_path):
    """Written over, replaced, or swapped behind a link as a ConfigMap's is."""
    for name, line in (("..one", "http://h1:1/v1"), ("..two", "http://h2:1/v1")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "list").write_text(line)
    data, path = tmp_path / "..data", tmp_path / "list"
    data.symlink_to("..one")
    path.symlink_to("..data/list")
    _, fleet = await discover(Backend("gpu", "vllm", "", list_file=path))
    assert present(fleet) == ["gpu@h1:1"]
    fresh = tmp_path / "..fresh"
    fresh.symlink_to("..two")
    fresh.replace(data)
    await eventually(lambda: present(fleet) == ["gpu@h2:1"])
    path.unlink()
    path.write_text("http://h3:1/v1\n")
    await eventually(lambda: present(fleet) == ["gpu@h3:1"])
    path.write_text("http://h4:1/v1\n")
    await eventually(lambda: present(fleet) == ["gpu@h4:1"])
    path.write_text("")
    await eventually(lambda: present(fleet) == [])


async def test_a_list_that_is_wrong_or_gone_changes_nothing_and_is_told_with_its_line(discover, tmp_path):
    """Once each."""
    path = tmp_path / "replicas"
    path.write_text("http://h1:1/v1\n")
    with structlog.testing.capture_logs() as told:
        _, fleet = await discover(Backend("gpu", "vllm", "", list_file=path))
        path.write_text("http://h1:1/v1\nftp://h2\n")
        await eventually(lambda: len(told) == 2)
        path.unlink()
        await eventually(lambda: len(told) == 3)
        assert present(fleet) == ["gpu@h1:1"]
        path.write_text("http://h2:1/v1\n")
        await eventually(lambda: present(fleet) == ["gpu@h2:1"])

    assert f"{path}:2: " in told[1]["why"]
    assert "No such file" in told[2]["why"]


async def test_a_list_that_does_not_answer_stops_nothing_and_its_replicas_stay(discover, tmp_path, monkeypatch):
    """One thread waits for it; it is told once, and once it has answered it is as any other."""
    monkeypatch.setattr(files, "LATE", 0.5)
    path, other = tmp_path / "replicas", tmp_path / "others"
    for number, one in enumerate((path, other)):
        one.write_text(f"http://h{number}:1/v1\n")
    found, fleet = await discover(Backend("gpu", "vllm", "", list_file=path))
    _, beside = await discover(Backend("gpu", "vllm", "", list_file=other))
    threads = threading.active_count()
    with structlog.testing.capture_logs() as told, hanging(path) as hung:
        await eventually(lambda: found.late)
        other.write_text("http://h2:1/v1\n")
        await eventually(lambda: present(beside) == ["gpu@h2:1"])
        await asyncio.sleep(0.1)
        assert (present(fleet), [one.filename for one in found.late]) == (["gpu@h0:1"], [str(path)])
        assert threading.active_count() <= threads + 2, "one that hangs, and one that may be looking at the other"
        hung.answer(b"http://h3:1/v1\n")
        await eventually(lambda: present(fleet) == ["gpu@h3:1"])

    assert found.late == []
    mine = [entry for entry in told if entry.get("file") == str(path)]
    assert [entry["event"] for entry in mine] == ["a file does not answer", "a file has answered"]
    assert mine[0]["meanwhile"] == "the last known replicas"


async def test_a_list_that_does_not_answer_does_not_hold_the_start(discover, tmp_path, monkeypatch):
    """Nor does one that nobody follows any more count as late."""
    monkeypatch.setattr(files, "LATE", 0.5)
    monkeypatch.setattr(module, "FIRST", 0.1)
    path = tmp_path / "replicas"
    path.touch()
    with hanging(path) as hung:
        async with asyncio.timeout(10):
            found, fleet = await discover(Backend("gpu", "vllm", "", list_file=path))
        assert present(fleet) == []
        await eventually(lambda: found.late)
        found.take([], {}, 1.0)
        assert found.late == []
        found.take([Backend("gpu", "vllm", "", list_file=path)], {}, 1.0)
        hung.answer(b"http://h1:1/v1\n")

        await eventually(lambda: present(fleet) == ["gpu@h1:1"])


async def test_a_look_at_a_list_for_which_no_thread_is_left_is_not_the_last(discover, tmp_path, monkeypatch):
    """It is logged, and looked at again."""
    path = tmp_path / "replicas"
    path.write_text("http://h1:1/v1\n")
    _, fleet = await discover(Backend("gpu", "vllm", "", list_file=path))
    real = files.apart

    def none_left(work):
        raise RuntimeError("can't start new thread")

    with structlog.testing.capture_logs() as told:
        monkeypatch.setattr(files, "apart", none_left)
        await eventually(lambda: told)
        monkeypatch.setattr(files, "apart", real)
        path.write_text("http://h2:1/v1\n")
        await eventually(lambda: present(fleet) == ["gpu@h2:1"])


async def test_a_list_that_is_being_written_is_not_taken_for_a_shorter_one(discover, tmp_path, monkeypatch):
    """It is read once it has stayed the same for a whole look."""
    path = tmp_path / "replicas"
    path.write_text("http://h1:1/v1\n")
    monkeypatch.setattr(module, "POLL_EVERY", 0.1)
    changes = []
    _, fleet = await discover(Backend("gpu", "vllm", "", list_file=path), changed=lambda: changes.append(1))
    with path.open("w") as file:
        for number in range(20):
            file.write(f"http://h{number}:1/v1\n")
            file.flush()
            await asyncio.sleep(0.02)

    await eventually(lambda: len(present(fleet)) == 20)
    assert len(changes) == 2


async def test_another_url_at_the_same_place_is_another_backend(discover, tmp_path):
    """An engine that was given TLS is reached anew."""
    path = tmp_path / "replicas"
    path.write_text("http://h1:1/v1\n")
    _, fleet = await discover(Backend("gpu", "vllm", "", list_file=path))
    before = fleet.homes["gpu@h1:1"]
    path.write_text("https://h1:1/v1\n")

    await eventually(lambda: fleet.homes["gpu@h1:1"] is not before)
    assert fleet.homes["gpu@h1:1"].backend.base_url == "https://h1:1/v1"


async def test_what_nobody_foresaw_ends_no_watch(discover, tmp_path):
    """It is logged, and the next look goes on."""
    names = Names("10.0.0.1")
    names.answer = ValueError("a bug")
    _, named = await discover(NAMED, names)
    names.answer = ["10.0.0.1"]
    await eventually(lambda: present(named) == ["gpu@10.0.0.1:8000"])
    path = tmp_path / "replicas"
    path.write_text("http://h1:1/v1\n")
    broken = []

    def changed():
        if not broken:
            broken.append(1)
            raise ValueError("a bug")

    _, listed = await discover(Backend("gpu", "vllm", "", list_file=path), changed=changed)
    path.write_text("http://h2:1/v1\n")
    await eventually(lambda: present(listed) == ["gpu@h2:1"])


async def test_a_name_whose_addresses_all_change_does_not_fill_the_log(discover):
    """Some resolvers answer with another choice of hundreds each time."""
    names = Names(*(f"10.0.0.{number}" for number in range(200)))
    with structlog.testing.capture_logs() as told:
        await discover(NAMED, names)

    (entry,) = [entry for entry in told if entry["event"] == "the replicas changed"]
    assert (entry["there"], len(entry["come"]), entry["gone"]) == (200, module.MOST_TOLD, [])
