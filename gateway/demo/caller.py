"""The tour's callers: they speak HTTP to the gateway like anybody else, and note what they were told.

Law: an outcome says only what came over the wire: statuses, headers, events, usage. What a call was charged is asked
of the ledger (`Desk`), never reckoned here.
"""

import asyncio
from typing import Literal

import httpx
import msgspec
from msgspec import Struct

from gateway import clock
from gateway.demo.cast import ORGANIZATION

TIMEOUT = httpx.Timeout(30.0)

Ended = Literal["clean", "cut", "refused", "failed", "left"]


class TourBroken(Exception):  # noqa: N818 - a state of the world, not a programming error
    """The gateway's administration did not answer as it should."""


class Key(Struct, frozen=True):
    """A key that was made for the tour: its id in the ledger and the secret that callers show."""

    id: str
    key: str


class Charged(Struct, frozen=True):
    """What the ledger has booked on one key."""

    key: str = ""
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated_tokens: int = 0


class Told(Struct, frozen=True):
    """The `usage` member of an answer."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class Outcome(Struct):
    """How one call went.

    `ended`: clean (a whole answer), cut (a stream that told of its failure after content), refused (429), left (by us),
    or failed (anything else; `problem` says what). `events`: content events seen. `wait`: seconds that a refusal told.
    """

    streamed: bool
    ended: Ended = "failed"
    problem: str = ""
    status: int = 0
    backend: str = ""
    attempts: int = 1
    events: int = 0
    usage: Told = Told()
    code: str = ""
    meter: str = ""
    level: str = ""
    wait: float = 0.0


class _Delta(Struct):
    content: str | None = None


class _Choice(Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)


class _Error(Struct):
    message: str = ""
    code: str | int | None = None


class _Body(Struct):
    choices: list[_Choice] = []
    usage: Told | None = None
    error: _Error | None = None


class _Used(Struct):
    key: str
    calls: int
    input_tokens: int
    output_tokens: int
    estimated_tokens: int


class _Usage(Struct):
    rows: list[_Used]


_read = msgspec.json.Decoder(_Body).decode


class Caller:
    """Calls one model with one key."""

    def __init__(self, client: httpx.AsyncClient, key: Key, model: str) -> None:
        self.key = key
        self._client = client
        self._model = model

    async def plain(self, prompt: str, max_tokens: int) -> Outcome:
        """Make a plain call."""
        outcome = Outcome(streamed=False)
        try:
            answer = await self._client.send(self._request(prompt, max_tokens))
            _note(outcome, answer)
            body = _read(answer.content)
            if answer.status_code == 200 and body.choices and body.usage is not None:
                outcome.ended, outcome.usage = "clean", body.usage
            else:
                _fail(outcome, body.error)
        except (httpx.HTTPError, msgspec.MsgspecError) as error:
            outcome.problem = f"{type(error).__name__}: {error}"
        return outcome

    async def streamed(self, prompt: str, max_tokens: int, *, leave_after: int = 0) -> Outcome:
        """Make a streamed call; with `leave_after`, hang up once that many content events were seen."""
        outcome = Outcome(streamed=True)
        request = self._request(prompt, max_tokens, stream=True, endless=bool(leave_after))
        try:
            answer = await self._client.send(request, stream=True)
            try:
                await self._follow(answer, outcome, leave_after)
            finally:
                await answer.aclose()
        except (httpx.HTTPError, msgspec.MsgspecError) as error:
            outcome.ended = "failed"
            outcome.problem = f"{type(error).__name__}: {error}"
        return outcome

    async def _follow(self, answer: httpx.Response, outcome: Outcome, leave_after: int) -> None:
        _note(outcome, answer)
        if answer.status_code != 200:
            _fail(outcome, _read(await answer.aread()).error)
            return
        failure: _Error | None = None
        async for line in answer.aiter_lines():
            data = line.removeprefix("data: ")
            if data == line:
                continue
            if data == "[DONE]":
                outcome.ended = "clean" if outcome.events and failure is None else "failed"
                outcome.problem = "" if outcome.ended == "clean" else "[DONE] without content, or after an error"
                return
            body = _read(data)
            failure = failure or body.error
            outcome.usage = body.usage or outcome.usage
            outcome.events += any(choice.delta.content for choice in body.choices)
            if leave_after and outcome.events >= leave_after:
                outcome.ended = "left"
                return
        outcome.ended = "cut" if failure is not None and outcome.events else "failed"
        outcome.problem = failure.message if failure is not None else "the stream ended without a word"

    def _request(self, prompt: str, max_tokens: int, *, stream: bool = False, endless: bool = False) -> httpx.Request:
        body: dict[str, object] = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
        }
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        if endless:
            body |= {"ignore_eos": True}
        headers = {"authorization": f"Bearer {self.key.key}"}
        return self._client.build_request("POST", "/v1/chat/completions", json=body, headers=headers)


class Desk:
    """The gateway's administration, as the tour uses it."""

    def __init__(self, client: httpx.AsyncClient, admin_key: str) -> None:
        self._client = client
        self._headers = {"authorization": f"Bearer {admin_key}"}

    async def make_key(self, name: str, plan: str | None = None) -> Key:
        """Make a key of the demo organization; raises `TourBroken`."""
        body = {"organization": ORGANIZATION, "team": "tour", "name": name} | ({"plan": plan} if plan else {})
        answer = await self._client.post("/admin/v1/keys", json=body, headers=self._headers)
        if answer.status_code != 201:
            raise TourBroken(f"POST /admin/v1/keys answered {answer.status_code}: {answer.text[:200]}")
        return msgspec.json.decode(answer.content, type=Key)

    async def charged(self, key: Key) -> Charged:
        """Return what the ledger has booked on `key`, over all models; raises `TourBroken`."""
        answer = await self._client.get("/admin/v1/usage", params={"organization": ORGANIZATION}, headers=self._headers)
        if answer.status_code != 200:
            raise TourBroken(f"GET /admin/v1/usage answered {answer.status_code}: {answer.text[:200]}")
        rows = [row for row in msgspec.json.decode(answer.content, type=_Usage).rows if row.key == key.id]
        return Charged(
            key=key.id,
            requests=sum(row.calls for row in rows),
            prompt_tokens=sum(row.input_tokens for row in rows),
            completion_tokens=sum(row.output_tokens for row in rows),
            estimated_tokens=sum(row.estimated_tokens for row in rows),
        )

    async def charged_at_least(self, key: Key, completion_tokens: int, seconds: float) -> Charged:
        """Return the booking once it has grown to `completion_tokens`, or as it is after `seconds`."""
        deadline = clock.monotonic() + seconds
        while (charged := await self.charged(key)).completion_tokens < completion_tokens:
            if clock.monotonic() > deadline:
                break
            await asyncio.sleep(0.05)
        return charged


def _note(outcome: Outcome, answer: httpx.Response) -> None:
    headers = answer.headers
    outcome.status = answer.status_code
    outcome.backend = headers.get("x-sluiceway-backend", "")
    outcome.attempts = int(headers.get("x-sluiceway-attempts", "1"))
    outcome.meter = headers.get("x-sluiceway-meter", "")
    outcome.level = headers.get("x-sluiceway-level", "")
    outcome.wait = int(headers.get("retry-after-ms", "0")) / 1000


def _fail(outcome: Outcome, error: _Error | None) -> None:
    outcome.ended = "refused" if outcome.status == 429 else "failed"
    outcome.code = str(error.code) if error is not None else ""
    outcome.problem = f"{outcome.status}: {error.message if error is not None else 'no error member in the body'}"
