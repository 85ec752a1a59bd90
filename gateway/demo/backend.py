"""A simulated OpenAI-compatible backend: the wire of a vLLM server, and no model behind it.

Law: it says what it is (`server: sluiceway-simulated`, and every text says so), counts every token it makes in
`/metrics`, makes none for a caller who has left, and dies with its parent (standard input at its end). Imports stay at
the standard library and httptools, so that it listens within a moment of being started:

    python -m gateway.demo.backend --name gpu-a --model a-model --ttft 0.2 --token-time 0.02
"""

import argparse
import asyncio
import base64
import hashlib
import os
import struct
import sys
import threading
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import NamedTuple

from gateway import clock
from gateway.demo import prose, reading
from gateway.demo.reading import JSON, Ask, Refused
from gateway.demo.shapes import Chat, Completions, Head, Tokens
from gateway.demo.wire import Connection, Reply, Request, encode

DIMENSIONS = 16
"""Numbers in an embedding."""


class Simulated(NamedTuple):
    """How one simulated backend behaves: seconds to a first token and a token, prompt tokens a second before that."""

    name: str
    model: str
    ttft: float
    token_time: float
    prefill_rate: float = 20_000.0
    slots: int = 16
    max_model_len: int = 131_072
    api_key: str = ""
    port: int = 0

    def arguments(self) -> list[str]:
        """Return the command line that starts this backend."""
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in self._asdict().items()]
        return [sys.executable, "-m", "gateway.demo.backend", *flags]


class Backend:
    """The endpoints of one simulated server, and its counters."""

    def __init__(self, how: Simulated) -> None:
        self._how = how
        self._slots = asyncio.Semaphore(how.slots)
        self._running = self._waiting = 0
        self._prompt_tokens = self._generated_tokens = 0
        self._routes: dict[tuple[str, str], Callable[[Request, Reply], Awaitable[None]]] = {
            ("GET", "/health"): self._health,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/v1/models"): self._models,
            ("POST", "/v1/chat/completions"): self._chat,
            ("POST", "/v1/completions"): self._completions,
            ("POST", "/v1/embeddings"): self._embeddings,
        }

    async def serve(self, request: Request, reply: Reply) -> None:
        """Answer one request; the task that runs this is cancelled when the caller leaves."""
        handler = self._routes.get((request.method, request.path))
        key = self._how.api_key
        if key and request.path.startswith("/v1") and request.headers.get("authorization") != f"Bearer {key}":
            await reply.json({"error": "Unauthorized"}, 401)
        elif handler is not None:
            try:
                await handler(request, reply)
            except Refused as refused:
                await reply.json(refused.body, refused.status)
        elif any(path == request.path for _, path in self._routes):
            await reply.json({"detail": "Method Not Allowed"}, 405)
        else:
            await reply.json({"detail": "Not Found"}, 404)

    async def _health(self, _: Request, reply: Reply) -> None:
        await reply.send(200, b"", "text/plain")

    async def _models(self, _: Request, reply: Reply) -> None:
        how = self._how
        card = {"id": how.model, "object": "model", "owned_by": "sluiceway-simulated", "root": how.model}
        await reply.json({"object": "list", "data": [{**card, "max_model_len": how.max_model_len}]})

    async def _metrics(self, _: Request, reply: Reply) -> None:
        rows = (
            ("num_requests_running", "gauge", self._running),
            ("num_requests_waiting", "gauge", self._waiting),
            ("prompt_tokens_total", "counter", self._prompt_tokens),
            ("generation_tokens_total", "counter", self._generated_tokens),
        )
        label = f'{{model_name="{self._how.model}"}}'
        lines = [f"# TYPE vllm:{name} {kind}\nvllm:{name}{label} {value}\n" for name, kind, value in rows]
        await reply.send(200, "".join(lines).encode(), "text/plain; version=0.0.4; charset=utf-8")

    async def _chat(self, request: Request, reply: Reply) -> None:
        body = reading.body_of(request.body, self._how.model)
        await self._answer(reading.chat(body, self._how.max_model_len), Chat(), reply)

    async def _completions(self, request: Request, reply: Reply) -> None:
        body = reading.body_of(request.body, self._how.model)
        await self._answer(reading.completion(body, self._how.max_model_len), Completions(), reply)

    async def _embeddings(self, request: Request, reply: Reply) -> None:
        body = reading.body_of(request.body, self._how.model)
        texts = reading.texts_of(body, "input")
        tokens = sum(map(reading.tokens_in, texts))
        await asyncio.sleep(tokens / self._how.prefill_rate)
        self._prompt_tokens += tokens
        told = embedding_as_base64 if body.get("encoding_format") == "base64" else embedding
        data = [{"object": "embedding", "index": i, "embedding": told(text)} for i, text in enumerate(texts)]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        await reply.json({"object": "list", "model": self._how.model, "data": data, "usage": usage})

    async def _answer(self, ask: Ask, shape: Chat | Completions, reply: Reply) -> None:
        head = Head(f"{shape.prefix}-{clock.token_hex(16)}", int(clock.wall()), self._how.model)
        await (self._streamed if ask.stream else self._plain)(ask, shape, head, reply)

    async def _plain(self, ask: Ask, shape: Chat | Completions, head: Head, reply: Reply) -> None:
        pieces: list[str] = []

        async def keep(piece: str) -> None:
            pieces.append(piece)

        made = await self._generate(ask, keep)
        texts = ["".join(pieces)] * ask.choices
        tokens = Tokens(ask.prompt_tokens, made * ask.choices)
        await reply.json(shape.whole(head, texts, _reason(ask, made), tokens))

    async def _streamed(self, ask: Ask, shape: Chat | Completions, head: Head, reply: Reply) -> None:
        opening = shape.opening(head, ask.choices)

        async def tell(piece: str) -> None:
            while opening:  # with the first token, not before: so does vLLM
                await reply.event(encode(opening.pop(0)))
            for index in range(ask.choices):
                await reply.event(encode(shape.token(head, index, piece)))

        reply.start()
        made = await self._generate(ask, tell)
        closing: list[JSON] = shape.closing(head, ask.choices, _reason(ask, made))
        if ask.include_usage:
            closing.append(shape.usage(head, Tokens(ask.prompt_tokens, made * ask.choices)))
        for chunk in closing:
            await reply.event(encode(chunk))
        await reply.event(b"[DONE]")
        await reply.end()

    async def _generate(self, ask: Ask, emit: Callable[[str], Awaitable[None]]) -> int:
        """Give `emit` one piece after another at this backend's pace; returns how many."""
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        self._running += 1
        made = 0
        try:
            await asyncio.sleep(self._how.ttft + ask.prompt_tokens / self._how.prefill_rate)
            self._prompt_tokens += ask.prompt_tokens
            due = clock.monotonic()
            for piece in islice(prose.speak(self._how.name, ask.prompt, endless=ask.endless), ask.limit):
                await asyncio.sleep(max(0.0, due - clock.monotonic()))
                self._generated_tokens += ask.choices
                made += 1
                await emit(piece)
                due += self._how.token_time
        finally:
            self._running -= 1
            self._slots.release()
        return made


def embedding(text: str) -> list[float]:
    """Return a vector between -1 and 1 that depends on `text` alone; near texts are not near each other."""
    digest = hashlib.shake_128(text.encode()).digest(2 * DIMENSIONS)
    return [round(number / 32768, 5) for number in struct.unpack(f"<{DIMENSIONS}h", digest)]


def embedding_as_base64(text: str) -> str:
    """Return the same vector as little-endian 32-bit floats in base64, which is what the OpenAI SDK asks for."""
    return base64.b64encode(struct.pack(f"<{DIMENSIONS}f", *embedding(text))).decode()


def _reason(ask: Ask, made: int) -> str:
    return "length" if made == ask.limit else "stop"


def _read() -> Simulated:
    parser = argparse.ArgumentParser(prog="python -m gateway.demo.backend", description=__doc__.splitlines()[0])
    for name, kind in Simulated.__annotations__.items():
        default = Simulated._field_defaults.get(name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default, required=default is None)
    return Simulated(**vars(parser.parse_args()))


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


async def _main(how: Simulated) -> None:
    backend = Backend(how)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(backend.serve), "127.0.0.1", how.port)
    sys.stdout.write(f'{{"port": {server.sockets[0].getsockname()[1]}}}\n')
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    asyncio.run(_main(_read()))
