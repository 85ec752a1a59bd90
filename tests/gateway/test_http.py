import httpx
import pytest

from gateway.http import Undelivered, Unreached, cold_client, download, pass_on
from gateway.tls import server_context
from tests.fakes.identity_provider import IdentityProvider
from tests.parts.certificates import self_signed
from tests.parts.scripted import Hang, Raw, Reset, ScriptedServer, Status

PLACE = "/x"


async def test_a_cold_client_does_not_wait_for_ever():
    """Nor follow where it is sent."""
    async with ScriptedServer() as server, cold_client(timeout=0.1) as client:
        server.enqueue([Hang()])
        with pytest.raises(httpx.TimeoutException):
            await client.post(f"{server.url}/x")

        assert client.follow_redirects is False


async def fetch(server, within=5.0, longest=100, ca=None):
    return await download(server.url + PLACE, within=within, longest=longest, ca=ca)


async def test_a_download_is_whole_or_it_is_not():
    """A part of a document could be read as another one."""
    async with IdentityProvider() as server:
        server.instead[PLACE] = (200, b"x" * 100)
        assert await fetch(server) == b"x" * 100

        with pytest.raises(Undelivered, match="more than 99 bytes"):
            await fetch(server, longest=99)


@pytest.mark.parametrize("status", [204, 302, 404, 500])
async def test_only_a_200_is_an_answer(status):
    """Where an answer sends us may be anybody's."""
    async with IdentityProvider() as server:
        server.instead[PLACE] = (status, b"")

        with pytest.raises(Undelivered, match=f"answered {status}"):
            await fetch(server)


async def test_a_download_says_why_it_did_not_come():
    """An operator reads it in the log."""
    async with IdentityProvider() as server:
        server.held.clear()
        with pytest.raises(Undelivered, match=r"did not answer within 0\.05 s"):
            await fetch(server, within=0.05)
        server.down = True
        server.held.set()
        with pytest.raises(Undelivered, match="Error"):
            await fetch(server)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/", f"http://{'a' * 70}.invalid/", "http://[", "nonsense", "ftp://a/"]
)
async def test_what_is_no_address_delivers_nothing(url):
    """It may come out of an answer."""
    with pytest.raises(Undelivered):
        await download(url, within=5.0, longest=100)


async def test_only_the_authority_that_was_named_is_trusted(tmp_path):
    """One in the operator's own house, which nobody else knows."""
    certificate, key = self_signed(tmp_path)
    async with IdentityProvider(tls=server_context(certificate, key)) as server:
        server.instead[PLACE] = (200, b"fine")

        assert await fetch(server, ca=certificate) == b"fine"
        with pytest.raises(Undelivered, match="CERTIFICATE_VERIFY_FAILED"):
            await fetch(server)
        with pytest.raises(Undelivered, match="FileNotFoundError"):
            await fetch(server, ca=tmp_path / "gone.pem")


async def test_other_authorities_in_the_same_file_are_trusted_in_the_place_of_those_before(tmp_path):
    """Whoever rotates them writes the new ones where the old ones were; their digest tells them apart."""
    (tmp_path / "new").mkdir()
    certificate, _ = self_signed(tmp_path)
    later, its_key = self_signed(tmp_path / "new")
    async with IdentityProvider(tls=server_context(later, its_key)) as server:
        server.instead[PLACE] = (200, b"fine")
        url = server.url + PLACE
        for digest in ("one", "one"):
            with pytest.raises(Undelivered, match="CERTIFICATE_VERIFY_FAILED"):
                await download(url, within=5.0, longest=100, ca=certificate, ca_digest=digest)
            certificate.write_bytes(later.read_bytes())

        assert await download(url, within=5.0, longest=100, ca=certificate, ca_digest="two") == b"fine"


async def test_what_is_passed_on_comes_as_it_went_and_so_does_its_answer():
    """Nothing is added that its sender did not say, and nothing decoded."""
    async with ScriptedServer() as server:
        server.enqueue([Status(418, {"X-Tea": "green", "content-encoding": "gzip", "content-length": "2"}), Raw(b"ok")])
        headers = [(b"accept", b"a"), (b"accept", b"b"), (b"host", b"elsewhere")]
        answer = await pass_on("PATCH", f"{server.url}/x?y=%20", headers, b"{}", within=5, longest=9)
        (received,) = server.requests

    assert (answer.status, answer.body) == (418, b"ok")
    assert (b"x-tea", b"green") in answer.headers
    assert (received.method, received.path, received.body) == ("PATCH", "/x?y=%20", b"{}")
    assert sorted(received.headers) == [
        ("accept", "a"),
        ("accept", "b"),
        ("content-length", "2"),
        ("host", "elsewhere"),
    ]


async def test_who_passes_on_learns_whether_it_got_there():
    """Only what did not may be passed on to another."""
    async with ScriptedServer() as server:
        server.enqueue([Reset()], [Hang()])
        with pytest.raises(Undelivered, match="Error") as broken:
            await pass_on("POST", server.url, within=5, longest=9)
        with pytest.raises(Undelivered, match="did not answer within") as late:
            await pass_on("POST", server.url, within=0.1, longest=9)
        with pytest.raises(Undelivered, match="more than 9 bytes"):
            await pass_on("GET", f"{server.url}/v1/models", within=5, longest=9)
    with pytest.raises(Unreached):
        await pass_on("POST", server.url, within=5, longest=9)

    assert Unreached not in (type(broken.value), type(late.value))
