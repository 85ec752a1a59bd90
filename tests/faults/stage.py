"""A stage of upstreams that play what each deployment's name stands for, and callers who take every byte as it comes.

Law: who plays is told by the request's `model`, so that any number of deployments share one server and none knows the
others; what was played for a call is kept until it is judged.
"""

import asyncio
import contextlib
import json
import ssl
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import httptools

from tests.parts.certificates import self_signed
from tests.parts.scripted import Bytes, ScriptedServer, Step


@dataclass(frozen=True)
class Ask:
    """One request as a play sees it.

    `place`: which of its call's deployments is asked, from 0. `prompt`: tokens of the prompt, about. `again`: how often
    this call was here before. `since`: seconds since anybody first asked this deployment.
    """

    stream: bool
    model: str
    place: int = 0
    prompt: int = 1
    again: int = 0
    since: float = 0.0
    id: str = ""


Play = Callable[[Ask], Sequence[Step]]


@dataclass(frozen=True)
class Played:
    """What one deployment did with one request."""

    model: str
    place: int
    steps: Sequence[Step]

    @property
    def body(self) -> bytes:
        """The bytes of the answer's body, were it whole."""
        return b"".join(step.data for step in self.steps if isinstance(step, Bytes))


class Stage(ScriptedServer):
    """Plays by the request's model, `NAME.PLACE`. `played`: by request id, in order."""

    def __init__(self):
        super().__init__()
        self.plays: dict[str, Play] = {}
        self.played: dict[str, list[Played]] = defaultdict(list)
        self._first: dict[str, float] = {}
        self._here: Counter[tuple[str, str]] = Counter()

    def script(self, request):
        body, id_, now = json.loads(request.body), request.header("x-request-id"), time.monotonic()
        model = body["model"]
        place = int(model.rpartition(".")[2])
        prompt = len(body["messages"][0]["content"]) // 4
        since = now - self._first.setdefault(model, now)
        asked = Ask(body.get("stream", False), model, place, prompt, self._here[id_, model], since, id_)
        self._here[id_, model] += 1
        steps = self.plays[model](asked)
        self.played[id_].append(Played(model, place, steps))
        return steps

    def forget(self):
        """Forget calls that are over."""
        self.calls = [call for call in self.calls if not call.finished and call.connection in self.connections]
        self.requests.clear()


@dataclass
class Heard:
    """What a caller got. `status` 0: no head came. `whole`: HTTP's own framing says that nothing is missing."""

    id: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    whole: bool = False
    took: float = 0.0


class _Caller(asyncio.Protocol):
    """One call over one connection."""

    def __init__(self, heard, request):
        self.done = asyncio.get_running_loop().create_future()
        self._heard, self._request = heard, request
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport):
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data):
        with contextlib.suppress(httptools.HttpParserError):
            self._parser.feed_data(data)

    def connection_lost(self, error):
        self._end()

    def on_header(self, name, value):
        self._heard.headers[name.decode().lower()] = value.decode()

    def on_headers_complete(self):
        self._heard.status = self._parser.get_status_code()

    def on_body(self, body):
        self._heard.body += body

    def on_message_complete(self):
        self._heard.whole = True
        self._end()

    def _end(self):
        if not self.done.done():
            self.done.set_result(None)
            self._transport.abort()


async def ask(url, key, id_, body, **headers):
    """Make one call and return what was `Heard`."""
    host, port = url.removeprefix("http://").split(":")
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        f"host: {host}",
        f"authorization: Bearer {key}",
        f"x-request-id: {id_}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items()),
    ]
    heard = Heard(id_)
    begun = time.monotonic()
    request = "\r\n".join((*lines, "", "")).encode() + body
    loop = asyncio.get_running_loop()
    _, caller = await loop.create_connection(lambda: _Caller(heard, request), host, int(port))
    await caller.done
    heard.took = time.monotonic() - begun
    return heard


@contextlib.asynccontextmanager
async def behind_strange_tls(folder):
    """Run a server with a certificate that nobody trusts; yield its URL."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*self_signed(folder))
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@dataclass
class Said:
    """What an answer says to its caller, however it is cut into events or members."""

    text: str = ""
    finish: str | None = None
    model: str | None = None
    usage: tuple[int, int] | None = None
    error: dict | str | None = None
    done: bool = False
    broken: int = 0
    """Pieces that are no JSON."""

    @property
    def code(self):
        """The code of an error that has words for people too."""
        told = self.error if isinstance(self.error, dict) else {}
        return told.get("code") if told.get("message") else None

    @property
    def looks_whole(self) -> bool:
        """Whether a client would take it for a complete answer."""
        return self.done and self.error is None and self.finish is not None


@lru_cache(4096)
def said(body: bytes, *, stream: bool) -> Said:
    """Read an answer's body as a client does; nobody changes what is returned."""
    found = Said(done=not stream)
    for piece in _pieces(body) if stream else [body]:
        if piece == b"[DONE]":
            found.done = True
            continue
        try:
            _take(found, json.loads(piece))
        except ValueError:
            found.broken += 1
    return found


def _pieces(body):
    for event in body.split(b"\n\n"):
        for line in event.split(b"\n"):
            if line.startswith(b"data:"):
                yield line[5:].strip()


def _take(found, data):
    if data.get("error"):
        found.error = data["error"]
    found.model = data.get("model") or found.model
    if data.get("usage"):
        found.usage = data["usage"]["prompt_tokens"], data["usage"]["completion_tokens"]
    for choice in data.get("choices") or []:
        part = choice.get("delta") or choice.get("message") or {}
        found.text += (part.get("content") or "") + (part.get("refusal") or "")
        found.finish = choice.get("finish_reason") or found.finish
