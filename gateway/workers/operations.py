"""What an operator's machinery asks, on the one address that all workers have together.

Law: nothing is answered from memory: readiness and metrics are asked of every worker when they are asked for. Whatever
else comes here, as the admin API, a worker answers, which learns who asks; another one only if that one is not there or
hangs. Nobody who has shown no credential, or sends slowly, keeps others from being answered.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import structlog

from gateway.api.admin_requests import MAX_BODY
from gateway.errors import CONFIG_HEADER, Headers, error_body, error_headers, new_request_id
from gateway.http import Answer, Coming, Late, Undelivered, Unreached, pass_on, passing
from gateway.workers.merging import merged, readiness
from policies.rejections import Reason, Rejection

ASKED_WITHIN = 1.0
"""Seconds that a worker gets to say how it is: who asks us, as a kubelet, waits for 2."""

MEASURED_WITHIN = 3.0
"""Seconds that a worker gets to tell its metrics, which are long in a large fleet."""

PASSED_WITHIN = 660.0
"""Seconds that a worker gets to answer what was passed on: more than any of our commands waits for it."""

LONGEST = 32 << 20
"""Bytes of what a worker says of itself."""

BODY_WITHIN = 10.0
"""Seconds in which a request's body must be here; as many as its head gets."""

TEXT = b"text/plain; charset=utf-8"
METRICS = b"text/plain; version=0.0.4; charset=utf-8"

_HOPS = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"te", b"expect"})
"""Headers of one connection, which say nothing of the next."""

_CREDENTIALS = frozenset({b"authorization", b"x-api-key"})
"""Headers without one of which a worker says no before it looks at anything else."""

_ORIGINS = frozenset({b"x-forwarded-for", b"x-forwarded-proto", b"forwarded"})
"""Headers that tell where a request comes from; a worker believes ours."""

_NOT_OURS = _HOPS | _ORIGINS | {b"content-length"}

NOBODY = Rejection(Reason.OVERLOADED, "No worker is there to answer; send it again.", retry_after_us=1_000_000)
LOST = Rejection(Reason.OVERLOADED, "A worker was lost before it had answered; see whether it was done.")
SLOW = Rejection(Reason.BODY_TIMEOUT, f"The body was not complete within {BODY_WITHIN:g} s; send it again.")
LATE = Rejection(Reason.DEADLINE, f"The worker's answer took longer than {PASSED_WITHIN:g} s; see whether it was done.")

log = structlog.get_logger("sluiceway.workers")

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class Workers(Protocol):
    """The workers, as seen from here."""

    @property
    def restarts(self) -> Mapping[int, int]:
        """How often each was replaced, by its number."""

    @property
    def stopping(self) -> bool:
        """Whether none takes calls for long."""

    @property
    def ports(self) -> Mapping[int, int | None]:
        """Each worker's operations port on 127.0.0.1, by its number; None where it does not listen."""

    @property
    def answering(self) -> Sequence[int]:
        """The ports of those of them that answered when they were last looked at."""

    @property
    def digest(self) -> str:
        """Which configuration is in force."""


class Operations:
    """The ASGI application of the operations' address."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._turn = 0

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:  # noqa: ANN401 - ASGI's, untyped
        """Answer one request."""
        answer = _OWN.get(scope["path"])
        if answer is None:
            await self._pass_on(scope, receive, send)
        elif scope["method"] in {"GET", "HEAD"}:
            await self._tell(send, *await answer(self))
        else:
            await self._tell(send, 405, TEXT, "Ask with GET.", [(b"allow", b"GET, HEAD")])

    async def livez(self) -> tuple[int, bytes, str]:
        """Say that the process lives."""
        return 200, TEXT, "ok"

    async def readyz(self) -> tuple[int, bytes, str]:
        """Say whether calls are taken: one worker that is ready takes them."""
        if self._workers.stopping:
            return 503, TEXT, "stopping"
        ready, unready = await self._states()
        return 200 if ready else 503, TEXT, readiness(ready, unready)

    async def metrics(self) -> tuple[int, bytes, str]:
        """Return the metrics of all workers."""
        (ready, _), answers = await asyncio.gather(self._states(), self._ask("/metrics", MEASURED_WITHIN))
        texts = {n: answer.body.decode() for n, answer in answers.items() if not isinstance(answer, str)}
        return 200, METRICS, merged(texts, 0 if self._workers.stopping else len(ready), self._workers.restarts)

    async def _states(self) -> tuple[dict[int, str], dict[int, str]]:
        """Return what the workers that are ready say, and why the others are not."""
        ready, unready = {}, {}
        for number, answer in (await self._ask("/readyz", ASKED_WITHIN)).items():
            if isinstance(answer, str):
                unready[number] = answer
            elif answer.status == 200:
                ready[number] = answer.body.decode()
            else:
                unready[number] = answer.body.decode()
        return ready, unready

    async def _ask(self, path: str, within: float) -> dict[int, Answer | str]:
        """Ask every worker, and return each one's answer, or why there is none in `within` seconds."""

        async def ask(port: int | None) -> Answer | str:
            if port is None:
                return "starting"
            try:
                return await pass_on("GET", f"http://127.0.0.1:{port}{path}", within=within, longest=LONGEST)
            except Undelivered as error:
                return str(error)

        ports = self._workers.ports
        return dict(zip(ports, await asyncio.gather(*map(ask, ports.values())), strict=True))

    async def _pass_on(self, scope: Any, receive: Receive, send: Send) -> None:  # noqa: ANN401 - ASGI's, untyped
        """Have a worker answer; the next one, where one is not there at all."""
        if not scope["raw_path"].startswith(b"/"):  # it would be read as a part of the address
            await self._tell(send, 404, TEXT, "There is no such path.")
            return
        credential = any(name in _CREDENTIALS for name, _ in scope["headers"])
        try:
            async with asyncio.timeout(BODY_WITHIN):
                # To a body without a credential a worker says no, whatever it holds; it is not waited for.
                body = await _received(receive) if credential else b""
        except TimeoutError:
            await self._refuse(send, SLOW, [(b"connection", b"close")])
            return
        if body is None:
            return
        client = scope["client"][0] if scope["client"] else ""
        headers = [(name, value) for name, value in scope["headers"] if name not in _NOT_OURS]
        headers.append((b"x-forwarded-for", client.encode()))
        query = scope["query_string"].decode("latin-1")
        target = scope["raw_path"].decode("latin-1") + (f"?{query}" if query else "")
        begun = False
        for port in self._in_turn():
            if not await _hangs(port):
                where = f"http://127.0.0.1:{port}{target}"
                try:
                    async with passing(scope["method"], where, headers, body, within=PASSED_WITHIN) as coming:
                        begun = True
                        await _send_on(send, coming, [] if credential else [(b"connection", b"close")])
                except Unreached:
                    continue
                except Undelivered as error:
                    if begun:  # the caller sees it break off, for its connection ends
                        log.warning("the answer of a worker broke off", path=scope["path"], why=str(error))
                    else:
                        await self._refuse(send, LATE if isinstance(error, Late) else LOST)
                return
        await self._refuse(send, NOBODY)

    def _in_turn(self) -> Sequence[int]:
        """Return the ports of those that answer, another one first each time."""
        ports = list(self._workers.answering)
        self._turn += 1
        first = self._turn % len(ports) if ports else 0
        return ports[first:] + ports[:first]

    async def _refuse(self, send: Send, why: Rejection, more: Headers | None = None) -> None:
        request_id = new_request_id()
        headers = [*error_headers(why), (b"x-request-id", request_id.encode()), (b"content-type", b"application/json")]
        headers += more or []
        await _send(send, why.shape.status, [*headers, self._stamp()], error_body(why, request_id))

    async def _tell(self, send: Send, status: int, kind: bytes, text: str, headers: Headers | None = None) -> None:
        await _send(send, status, [(b"content-type", kind), self._stamp(), *(headers or ())], text.encode())

    def _stamp(self) -> tuple[bytes, bytes]:
        return CONFIG_HEADER, self._workers.digest.encode()


_OWN = {"/livez": Operations.livez, "/readyz": Operations.readyz, "/metrics": Operations.metrics}
"""What is answered here, by its path."""


async def _hangs(port: int) -> bool:
    """Say whether a worker does not even say that it lives: what it was passed would be done who knows when."""
    try:
        await pass_on("GET", f"http://127.0.0.1:{port}/livez", within=ASKED_WITHIN, longest=LONGEST)
    except Undelivered:
        return True
    return False


async def _received(receive: Receive) -> bytes | None:
    """Return a request's body; of one that is too long no more than shows it to be. None: its sender has left."""
    body = bytearray()
    while len(body) <= MAX_BODY:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    return bytes(body[: MAX_BODY + 1])


async def _send(send: Send, status: int, headers: Headers, body: bytes) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [*headers, (b"content-length", str(len(body)).encode())],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def _send_on(send: Send, answer: Coming, more: Headers) -> None:
    """Send an answer as it comes, with some more headers."""
    headers = [*(one for one in answer.headers if one[0] not in _HOPS), *more]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    async for part in answer.parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
