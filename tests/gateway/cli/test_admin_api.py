import asyncio
import socket
import ssl
from pathlib import Path

import pytest
from litestar import Litestar, Response, get

from gateway.api.admin import ERROR_ANSWERS
from gateway.http import trusting
from tests.gateway.cli.conftest import ADMIN_KEY, stamped
from tests.gateway.identity.support import served
from tests.parts.certificates import self_signed

LIST = ("keys", "list")


def put(path, content):
    """Write a file into the folder that `sluiceway` runs in."""
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_bytes(content)


def failed(result):
    """Return the one line of a command that failed as it should."""
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


async def test_the_admin_key_comes_from_the_environment(run, url):
    assert (await run(*LIST, SLUICEWAY_URL=url)).exit_code == 0


async def test_the_admin_key_comes_from_the_usual_file_where_the_environment_has_none(run, url):
    put("data/admin.key", f"{ADMIN_KEY}\n".encode())
    for none in (None, ""):
        assert (await run(*LIST, SLUICEWAY_URL=url, SLUICEWAY_ADMIN_KEY=none)).exit_code == 0


async def test_a_file_that_was_named_goes_before_the_environment(run, url):
    put("key", ADMIN_KEY.encode())
    named = ("--admin-key-file", "key")
    assert (await run(*LIST, *named, SLUICEWAY_URL=url, SLUICEWAY_ADMIN_KEY="wrong")).exit_code == 0


async def test_without_an_admin_key_the_ways_to_give_one_are_told(run):
    line = failed(await run(*LIST, SLUICEWAY_ADMIN_KEY=None))
    assert "data/admin.key does not exist" in line
    assert "SLUICEWAY_ADMIN_KEY" in line
    assert "--admin-key-file" in line


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"two\nlines", "schlüssel".encode(), b"\xff\xfe"])
async def test_a_file_that_holds_no_key_is_named(run, content):
    put("key", content)
    line = failed(await run(*LIST, "--admin-key-file", "key"))
    assert "key" in line


async def test_a_file_that_cannot_be_read_is_named(run):
    assert "cannot read the admin key from ." in failed(await run(*LIST, "--admin-key-file", "."))


async def test_a_key_in_the_environment_that_is_none_is_told_without_it(run):
    line = failed(await run(*LIST, SLUICEWAY_ADMIN_KEY="sch lüssel"))
    assert line.startswith("Error: SLUICEWAY_ADMIN_KEY holds no admin key")
    assert "lüssel" not in line


async def test_a_wrong_admin_key_is_told_without_it(run, url):
    line = failed(await run(*LIST, SLUICEWAY_URL=url, SLUICEWAY_ADMIN_KEY="wrong-secret"))
    assert "refused the admin key of SLUICEWAY_ADMIN_KEY: " in line
    assert "wrong-secret" not in line


@pytest.mark.parametrize(("named", "source"), [((), "data/admin.key"), (("--admin-key-file", "key"), "key")])
async def test_a_wrong_admin_key_is_told_with_the_file_it_came_from(run, url, named, source):
    """Where nobody named it, nobody knows: another gateway's may lie in the usual place."""
    put(source, b"wrong-secret")
    line = failed(await run(*LIST, *named, SLUICEWAY_URL=url, SLUICEWAY_ADMIN_KEY=None))
    assert f"{url} refused the admin key of {source}: " in line
    assert "wrong-secret" not in line


@pytest.fixture
def key_with(sluiceway):
    """Make an API key with these scopes."""

    async def key_with(*scopes):
        options = [option for scope in scopes for option in ("--scope", scope)]
        made = await sluiceway("keys", "create", "--org", "acme", "--team", "ops", "--name", "admin", *options)
        return made.stdout.strip()

    return key_with


async def test_an_api_key_with_an_admin_scope_does_as_well(run, url, key_with):
    """So that nobody has to hand the admin key around; one that may read may not change."""
    reader, writer = await key_with("admin:read"), await key_with("admin:write")
    assert (await run(*LIST, SLUICEWAY_URL=url, SLUICEWAY_ADMIN_KEY=reader)).exit_code == 0
    assert (await run("orgs", "set", "x", SLUICEWAY_URL=url, SLUICEWAY_ADMIN_KEY=writer)).exit_code == 0

    line = failed(await run("orgs", "set", "y", SLUICEWAY_URL=url, SLUICEWAY_ADMIN_KEY=reader))
    assert "lacks the scope `admin:write`" in line
    assert reader[16:] not in line


async def test_a_key_without_an_admin_scope_is_told_which_it_lacks(run, url, key_with):
    """It is a good key, for something else."""
    line = failed(await run(*LIST, SLUICEWAY_URL=url, SLUICEWAY_ADMIN_KEY=await key_with("inference")))
    assert "lacks the scope `admin:read`" in line


async def test_an_api_key_that_is_no_good_any_more_is_told_why(run, url, key_with, sluiceway):
    """And where a better one goes."""
    key = await key_with("admin:read")
    await sluiceway("keys", "revoke", key[3:15])
    line = failed(await run(*LIST, SLUICEWAY_URL=url, SLUICEWAY_ADMIN_KEY=key))
    assert "revoked" in line
    assert "SLUICEWAY_ADMIN_KEY" in line


async def test_an_address_where_nothing_answers_is_told(run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
    line = failed(await run(*LIST, "--url", address))
    assert f"nothing answers at {address}" in line
    assert "sluiceway serve" in line


@pytest.mark.parametrize(
    "address", ["127.0.0.1:8600", "gateway", "ftp://gateway", "http://", "http://a b:x", "http://" + "a" * 300]
)
async def test_what_is_no_address_is_told_with_one_that_is(run, address):
    assert "http://127.0.0.1:8600" in failed(await run(*LIST, "--url", address))


async def test_a_slash_at_the_end_of_the_address_does_no_harm(run, url):
    assert (await run(*LIST, "--url", url + "/")).exit_code == 0


@get("/admin/v1/keys")
async def another_api() -> dict[str, str]:
    return {"hello": "world"}


@get("/admin/v1/audit")
async def another_list() -> dict[str, list[int]]:
    return {"lines": [1]}


@get("/admin/v1/usage")
async def a_page() -> Response[str]:
    return Response("<html>not found</html>", status_code=404, media_type="text/html")


async def test_a_server_that_is_no_gateway_is_noticed(run):
    async with served(Litestar([another_api, another_list, a_page])) as address:
        for command in (LIST, ("audit",), ("usage", "--org", "acme"), ("plans", "ls")):
            assert "Is it a Sluiceway gateway?" in failed(await run(*command, "--url", address))


@get("/admin/v1/{path:path}")
async def an_engine() -> Response[dict[str, dict[str, str | int]]]:
    error = {"code": 404, "message": "File Not Found", "type": "not_found_error"}
    return Response({"error": error}, status_code=404)


async def test_an_engines_error_is_not_taken_for_a_gateways(run):
    """Engines have the same shape of error, and would else be told to have no such record."""
    async with served(Litestar([an_engine])) as address:
        for command in (LIST, ("orgs", "set", "acme"), ("plans", "show", "p")):
            line = failed(await run(*command, "--url", address))
            assert line.startswith(f"Error: {address} gave 404 (File Not Found) ")
            assert "Is it a Sluiceway gateway? Check --url." in line


@pytest.mark.parametrize(
    "command", [LIST, ("orgs", "set", "acme"), ("orgs", "rm", "acme"), ("plans", "show", "p"), ("peers",)]
)
async def test_an_address_without_the_admin_api_is_told_with_where_it_is(run, command):
    """A gateway is there, but its admin API is on its other port; nothing is taken for a record that is not there."""
    async with served(Litestar([], exception_handlers=ERROR_ANSWERS, before_send=[stamped])) as address:
        line = failed(await run(*command, "--url", address))
    assert line.startswith(f"Error: the admin API is not at {address}: ")
    assert "`admin: {on: operations}`" in line
    assert "--url http://HOST:8601" in line


async def test_a_record_that_is_not_there_is_no_wrong_address(refused):
    """The gateway that says so has the admin API."""
    line = await refused("orgs", "show", "nobody")
    assert "8601" not in line


async def test_a_name_with_a_slash_is_refused_before_it_leads_elsewhere(refused):
    """A server may read it as two parts of the path, and then the command would be told a wrong address."""
    assert "'acme/ops' is no name" in await refused("orgs", "show", "acme/ops")


@get("/admin/v1/keys")
async def a_gateway_without_its_store() -> Response[dict[str, dict[str, str]]]:
    return Response({"error": {"message": "The store is down: refused."}}, status_code=503)


async def test_what_a_gateway_says_of_its_own_trouble_is_told_as_it_says_it(run):
    """It knows whether something may have been changed; the command adds no guess."""
    async with served(Litestar([a_gateway_without_its_store], before_send=[stamped])) as address:
        assert failed(await run(*LIST, "--url", address)) == "Error: The store is down: refused.\n"


async def test_a_call_that_breaks_off_is_told(run):
    async def hang_up(_, writer):
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        line = failed(await run(*LIST, "--url", address))
    assert "broke off" in line
    assert line.endswith(f"Try again, or with --url https://{address.removeprefix('http://')} if it speaks TLS.\n")


@pytest.fixture
async def with_tls(tmp_path):
    """Run a server that speaks TLS only and says nothing; return its port and its certificate's file."""
    cert, key = self_signed(tmp_path / "tls")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1], cert


async def test_a_gateway_that_speaks_tls_is_guessed_where_the_address_has_none(run, with_tls):
    """It hangs up without a word, which looks like any other end."""
    line = failed(await run(*LIST, "--url", f"http://127.0.0.1:{with_tls[0]}"))
    assert line.endswith(f"Try again, or with --url https://127.0.0.1:{with_tls[0]} if it speaks TLS.\n")


async def test_a_certificate_that_is_not_trusted_is_told_with_what_would_make_it_so(run, with_tls):
    """Somebody answers there: that nobody does would send its reader astray."""
    address = f"https://127.0.0.1:{with_tls[0]}"
    line = failed(await run(*LIST, "--url", address))
    assert f"the certificate at {address} is not trusted (" in line
    assert "nothing answers" not in line
    assert "Set SSL_CERT_FILE to its authority's file" in line


async def test_a_call_over_tls_that_breaks_off_is_not_told_to_try_it(run, with_tls, monkeypatch):
    """It does."""
    monkeypatch.setenv("SSL_CERT_FILE", str(with_tls[1]))
    trusting.cache_clear()
    line = failed(await run(*LIST, "--url", f"https://127.0.0.1:{with_tls[0]}"))
    trusting.cache_clear()
    assert line.endswith("). Try again.\n")


async def test_the_variable_of_the_address_is_in_the_help(run):
    """Or nobody would know it."""
    assert "SLUICEWAY_URL" in (await run(*LIST, "--help")).stdout


async def test_a_gateway_that_does_not_answer_in_time_is_told(run, monkeypatch):
    monkeypatch.setattr("gateway.cli.admin_api.TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert "did not answer within" in failed(await run(*LIST, "--url", address))
