"""A stand-in for a gateway, answered in memory: it keeps its promises, or breaks the ones that a test names."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterable

import httpx

CHUNK = 'data: {{"choices": [{{"delta": {{"content": "{}"}}}}]}}\n\n'
USAGE = 'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": %d}}\n\n'
DONE = "data: [DONE]\n\n"
ERROR = 'data: {"error": {"message": "the upstream broke off", "code": "upstream_failed"}}\n\n'


class Slowly(httpx.AsyncByteStream):
    def __init__(self, parts: Iterable[str]) -> None:
        self.parts = parts

    async def __aiter__(self):
        for part in self.parts:
            await asyncio.sleep(0)
            yield part.encode()


class Replica:
    def __init__(self, how) -> None:
        self.how, self.name, self.url, self.pid = how, how.name, f"http://{how.name}", 4242
        self.alive, self.made = True, 0

    def kill(self) -> None:
        self.alive = False


class Fleet:
    def __init__(self, backends) -> None:
        self.replicas = [Replica(how) for how in backends]

    @property
    def alive(self):
        return [replica for replica in self.replicas if replica.alive]

    def __getitem__(self, name):
        return next(replica for replica in self.replicas if replica.name == name)


class Mill:
    """Takes turns between its replicas; a call that a dead one would have had is moved, once for each call."""

    def __init__(self, fleet: Fleet, broken: str = "") -> None:
        self.fleet, self.broken = fleet, broken
        self.charged: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.plans: dict[str, str | None] = {}
        self.turn = 0

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.MockTransport(self.answer), base_url="http://gateway")

    async def answer(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0.002)
        if request.url.path == "/admin/v1/keys":
            return self.made_key(json.loads(request.content))
        if request.url.path == "/admin/v1/usage":
            return httpx.Response(200, json={"rows": self.rows()})
        if request.url.path == "/metrics":
            replica = self.fleet[request.url.host]
            if self.broken == "never stops":
                replica.made += 1
            return httpx.Response(200, text=self.metrics(replica))
        return self.chat(json.loads(request.content), request.headers["authorization"].removeprefix("Bearer "))

    def made_key(self, body: dict) -> httpx.Response:
        if self.broken == "administration":
            return httpx.Response(500, text="no")
        self.plans[body["name"]] = body.get("plan")
        return httpx.Response(201, json={"id": body["name"], "key": body["name"], **body})

    def rows(self) -> list[dict]:
        factor = 0 if self.broken == "charges nothing" else 1
        return [
            {
                "key": key,
                "model": "m",
                "calls": self.calls[key],
                "input_tokens": 3 * self.calls[key] * factor,
                "output_tokens": tokens * factor,
                "estimated_tokens": 0,
            }
            for key, tokens in self.charged.items()
        ]

    def metrics(self, replica: Replica) -> str:
        running = 0 if self.plans.keys() & {"leaver"} else 5
        return f'vllm:num_requests_running{{m="m"}} {running}\nvllm:generation_tokens_total{{m="m"}} {replica.made}\n'

    def chat(self, body: dict, key: str) -> httpx.Response:
        self.turn += 1
        self.calls[key] += 1
        if self.plans[key] and self.broken != "never refuses" and self.calls[key] in {4, 5}:
            return self.refusal()
        replicas = self.fleet.replicas
        planned = replicas[0] if self.broken == "one backend" else replicas[self.turn % len(replicas)]
        replica = planned if planned.alive else self.fleet.alive[0]
        headers = {"x-sluiceway-backend": replica.name, "x-sluiceway-attempts": str(1 + (replica is not planned))}
        if replica is not planned and self.broken == "no failover":
            return httpx.Response(502, json={"error": {"message": "gone", "code": "upstream_failed"}})
        tokens = min(body["max_tokens"], 60)
        replica.made += tokens
        self.charged[key] += tokens
        if body.get("stream"):
            return httpx.Response(200, headers=headers, stream=Slowly([CHUNK.format("x")] * tokens + self.end(tokens)))
        told = {"prompt_tokens": 3, "completion_tokens": tokens}
        return httpx.Response(200, headers=headers, json={"choices": [{"message": {"content": "x"}}], "usage": told})

    def end(self, tokens: int) -> list[str]:
        return [USAGE % tokens, DONE]

    def refusal(self) -> httpx.Response:
        headers = {"retry-after-ms": "20", "x-sluiceway-level": "key"}
        if self.broken != "meter without a name":
            headers["x-sluiceway-meter"] = "requests_per_minute"
        return httpx.Response(429, headers=headers, json={"error": {"message": "slow", "code": "rate_limit_exceeded"}})
