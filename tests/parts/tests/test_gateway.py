import openai
import pytest

from tests.parts.echo import EchoServer, echoed_body
from tests.parts.gateway import GatewayProcess, parse_metrics, write_config


async def test_a_gateway_starts_serves_counts_and_ends(tmp_path):
    async with EchoServer() as upstream:
        config = write_config(
            tmp_path,
            {"backends": {"echo": {"kind": "openai", "base_url": f"{upstream.url}/v1"}}},
        )
        async with GatewayProcess(config) as gateway:
            key = await gateway.create_key(team="parts")
            async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0) as client:
                answer = await client.chat.completions.create(model="echo", messages=[])
            assert b'"messages":[]' in echoed_body(answer)
            assert (await gateway.metrics()).total("sluiceway_requests_total", model="echo") == 1
            assert await gateway.terminate() == 0
            assert "listens on" in gateway.output


@pytest.mark.parametrize("place", ["log", "data"])
async def test_a_secret_that_a_gateway_wrote_fails_the_test(tmp_path, place):
    """Whichever test it is: a key it made, or a backend's."""
    async with EchoServer() as upstream:
        backend = {"kind": "openai", "base_url": f"{upstream.url}/v1", "api_key": "${UPSTREAM_KEY}"}
        config = write_config(tmp_path, {"backends": {"echo": backend}})
        gateway = GatewayProcess(config, env={"UPSTREAM_KEY": "of-the-upstream"})
        await gateway.start()
        key = await gateway.create_key()
        if place == "log":
            with gateway.log.open("a") as log:
                log.write(f"a caller came with {key}\n")
        else:
            (gateway.data_dir / "notes").write_text("it is of-the-upstream")
        with pytest.raises(AssertionError, match=r"its log" if place == "log" else r"data/notes"):
            gateway.kill()


async def test_a_gateway_that_cannot_start_says_why(tmp_path):
    config = write_config(tmp_path, {"backends": {"a": {"kind": "nonsense"}}})
    with pytest.raises(RuntimeError, match="nonsense"):
        await GatewayProcess(config).start()


def test_metrics_are_added_up_by_some_of_their_labels():
    samples = parse_metrics('a_total{x="1",y="2"} 3\na_total{x="1",y="3"} 4\na_total{x="12",y="3"} 8\nb 5\n')
    assert samples['a_total{x="1",y="2"}'] == 3
    assert (samples.total("a_total", x="1"), samples.total("a_total"), samples.total("b")) == (7, 15, 5)
