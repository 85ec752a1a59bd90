import asyncio
import socket

import pytest

from gateway.config.loading import load
from gateway.config.mistakes import ConfigError
from gateway.workers.channel import Channel, Handed, Listening, Stop, Task
from tests.gateway.harness import settings
from tests.parts.certificates import self_signed


@pytest.fixture
async def ends():
    ours, theirs = socket.socketpair()
    channels = [await Channel.over(ours), await Channel.over(theirs)]
    yield channels
    for channel in channels:
        channel.close()


FILE = """
listen: {tls: {cert: cert.pem, key: key.pem}, trusted_proxies: [10.0.0.0/8, "::1"]}
admin_key: a-key-of-16-letters
store: {url: "redis://user:pass@store:6379/0"}
backends:
  hosted: {kind: nvidia, base_url: https://integrate.api.nvidia.com/v1, api_key: nvapi-x}
models:
  m: {deployments: [{backend: hosted, model: n, price: {input: 1.5, output: 7.5}}], deadlines: {total: 60}}
plans: {lab: {tokens_per_day: 1000000, overrun: cut, models: {m: {requests_per_minute: 6}}}}
organizations: {acme: {plan: lab, teams: {research: {plan: lab}}}}
issuers:
  sso: {issuer: https://sso.example, audience: sluiceway, organization: acme, team_claim: team, plan: lab}
"""


async def test_settings_come_as_they_went_credentials_and_all(ends, tmp_path):
    """Whatever a file can say: a worker runs on what the supervisor has read, and on nothing else."""
    path = tmp_path / "gateway.yaml"
    path.write_text(FILE)
    self_signed(tmp_path)
    told = Task(2, 3, 7, 8, load(path, {}), False)
    ends[0].send(told)
    ends[0].send(Stop(at_once=True))

    assert await ends[1].receive() == told
    assert await ends[1].receive() == Stop(at_once=True)


async def test_a_message_longer_than_any_buffer_comes_whole(ends):
    """A file of a thousand organizations is some megabytes."""
    long = Listening(1, tuple(f"backend-{number}" for number in range(200_000)))
    ends[0].send(long)

    assert await ends[1].receive() == long


async def test_the_end_of_one_who_held_it_is_the_end_of_the_channel(ends):
    """Whatever was sent before comes still; half a message does not."""
    ends[0].send(Stop())
    ends[0]._writer.write(b"\x09\x00\x00\x00half")
    ends[0].close()

    assert await ends[1].receive() == Stop()
    assert await ends[1].receive() is None
    await asyncio.sleep(0)
    ends[1].send(Stop())  # nobody is there, and nobody is told so
    await ends[1].flush()


async def test_what_could_not_be_read_is_read_as_such_at_the_other_end(ends, tmp_path):
    """With every mistake and its line, so that each gateway tells them."""
    good = settings(tmp_path, {})
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("lisen: {}\n")
    with pytest.raises(ConfigError) as mistaken:
        load(wrong, {})
    with pytest.raises(OSError, match="absent") as absent:
        load(tmp_path / "absent.yaml", {})
    for file in (Handed(good), Handed(mistakes=mistaken.value.mistakes), Handed(unread=absent.value)):
        ends[0].send(file)

    assert (await ends[1].receive()).read() == good
    with pytest.raises(ConfigError) as again:
        (await ends[1].receive()).read()
    assert str(again.value) == str(mistaken.value)
    with pytest.raises(FileNotFoundError) as gone:
        (await ends[1].receive()).read()
    assert (gone.value.filename, gone.value.strerror) == (absent.value.filename, absent.value.strerror)
