"""How the tests of the fakes ask."""

import asyncio
import json

import httpx
import openai

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello there"}]
KEY = "nvapi-1"


def sdk(server):
    """Make the official client of a fake."""
    return openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, http_client=raw(server))


def raw(server, key=KEY):
    """Make a bare client of a fake."""
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    return httpx.AsyncClient(base_url=server.url, headers=headers, trust_env=False, verify=False, timeout=20)


async def ask(server, path=CHAT, key=KEY, headers=None, **members):
    """Post a chat request, or another one, and return the answer."""
    body = {"model": server.model, "messages": HELLO} | members
    async with raw(server, key) as client:
        return await client.post(path, json=body, headers=headers)


async def look(server, path, key=KEY):
    """Get a page."""
    async with raw(server, key) as client:
        return await client.get(path)


async def leave(server, after=1, **members):
    """Stream an answer and leave after so many events."""
    body = {"model": server.model, "messages": HELLO, "stream": True} | members
    async with raw(server) as client, client.stream("POST", CHAT, json=body) as answer:
        seen = 0
        async for line in answer.aiter_lines():
            seen += line.startswith("data:")
            if seen == after:
                break


async def until(condition):
    """Wait until something is so; ten seconds at most."""
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise TimeoutError


def events(answer):
    """Return the data of an answer's events; `[DONE]` as it is."""
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def told(answer, *path):
    """Return the texts of a stream's deltas under a member's name."""
    found = [event["choices"][0]["delta"].get(path[0]) for event in events(answer)[:-1] if event["choices"]]
    return "".join(text for text in found if text)
