"""The hosted endpoint, integrate.api.nvidia.com: a gateway that finds the model, an invocation service, a worker.

Law: every answer is the one of the part that gives it, in the order of the parts: size, JSON, model, retirement; key,
credits, rate; queue, worker. Sources: NVIDIA/nvcf, src/invocation-plane-services: `vanity-gateway/gateway/
openai_director.go` and `vanity_director.go` (the gateway, "VG" below), `http-invocation/crates/server/src/routes/
post_pexec.rs` and `get_pexec.rs` (the invocation service, "IS"); and bodies that users of it wrote down, with where.
"""

import asyncio
import uuid
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime

from tests.fakes.chat import Reasoning, work_for
from tests.fakes.engine import FakeEngine, Generate, State, Trouble, Work, text
from tests.fakes.mistral_vllm import MODEL, error, read, refusal, shape
from tests.fakes.nvidia_errors import (
    EDGE,
    QUEUE,
    QUIRKS,
    Quirk,
    gateway_problem,
    not_found,
    openai_error,
    passed,
    problem,
)
from tests.fakes.window import Window
from tests.parts.http1 import Received
from tests.parts.scripted import Status, Step, whole

LARGEST = 26214400
"""VG h2.go: `maxRequestSize`, 25 MB."""

CREATED = 735790403
"""VG `buildModelMapping`: the same for every model, "filler (year NVIDIA was founded)"."""

POLL = 300
"""Seconds; VG `setPollingHeaderIfNotPresent`."""

LONGEST_POLL = 3600
"""IS `poll_duration`."""

GRACE = 2
"""Seconds that a worker has beyond the caller's; IS `handle_streaming_response`."""

OFFLINE_RETRY = "10800"
"""Seconds; VG `writeFunctionStatusError`."""

END_OF_LIFE = datetime(2026, 8, 7, 9, tzinfo=UTC)
"""Since when this model answers 410."""


@dataclass
class Hosted:
    """One model of the list. `end`: its end of life; before it, answers carry a `Deprecation`. `offline`: why it is."""

    end: datetime | None = None
    offline: str | None = None
    quirk: Quirk | None = None
    window: Window | None = None


class NvidiaServer(FakeEngine):
    """The endpoint, with one account.

    `per_minute`: calls a minute for each model; `at_once`: whether the first call too many is refused, or only those
    after it. `keys`: which are good; None: all that begin with `nvapi-`. `worker_limit`: how many calls at once a
    worker takes. `polls`: how often an accepted call (202) says 202 again before it is answered. `lists_retired`:
    whether retired models stay in the list: VG `filterExpiredModels` takes them out, yet 410 was seen of listed ones.
    """

    early_head = False  # IS answers when the worker does

    def __init__(
        self,
        model: str = MODEL,
        *,
        per_minute: int | None = None,
        at_once: bool = False,
        keys: frozenset[str] | None = None,
        worker_limit: int | None = None,
        polls: int = 1,
        lists_retired: bool = True,
        **engine,
    ) -> None:
        super().__init__(model, **engine)
        self.per_minute, self.at_once, self.keys = per_minute, at_once, keys
        self.worker_limit, self.polls, self.lists_retired = worker_limit, polls, lists_retired
        self.models: dict[str, Hosted] = {model: Hosted()}
        self.reasoning, self.form = 0, Reasoning.FIELD
        self.largest = LARGEST
        self.too_many_message: str | None = None
        """What VG `appendTooManyRequestsMessage` adds to a 429."""
        self._next: deque[Quirk] = deque()
        self._accepted: dict[str, tuple[Generate, int]] = {}

    def upset(self, *quirks: Quirk) -> None:
        """Let the next calls go wrong, one each."""
        self._next.extend(quirks)

    def retire(self, model: str | None = None, end: datetime = END_OF_LIFE) -> None:
        """End a model's life, or announce its end."""
        self.models[model or self.model].end = end

    def after_leaving(self) -> int:
        """Tokens that were generated and had no caller any more."""
        return sum(work.generated - work.delivered for work in self.works)

    def lingering(self, work: Work) -> float | None:
        # IS `InflightRequestGuard`: cancelled when the caller leaves before the head of an answer, and not after it.
        return None if work.answered else 0.0

    def failed(self, trouble: Trouble) -> list[Step]:
        """Pass a worker's error on."""
        return error(trouble.status, trouble.message, trouble.kind)

    def page(self, request: Received) -> list[Step]:
        path = request.path
        if path == "/v1/models":  # no key is asked for
            shown = [name for name, model in self.models.items() if self.lists_retired or not _expired(model)]
            return whole(200, {"object": "list", "data": [_card(name) for name in sorted(shown)]})
        if path.startswith("/v1/models/"):
            return self._model(path.removeprefix("/v1/models/"))
        if path.startswith("/v2/nvcf/pexec/status/"):
            return self._denied(request) or self._poll(path.rpartition("/")[2])
        return not_found()

    def script(self, request: Received) -> list[Step]:
        # VG h2.go `registerOpenAI`: the routes of the OpenAI host, of which this model has those of chat and text.
        if request.path not in ("/v1/chat/completions", "/v1/completions"):
            return not_found()
        if len(request.body) > self.largest:
            return openai_error(
                f"Please make sure your payload is below {LARGEST} bytes in size. If larger assets are required please "
                "refer to our Assets API.",
                "invalid_image_format",
            )
        body = read(request.body)
        if body is None:
            return text(500, "failed to decode json body: expected { character for struct\n")
        if not body.get("model"):
            return openai_error("model field is required", "missing_required_field")
        model = self.models.get(body["model"])
        if model is None:
            return not_found()
        return _gone(body["model"], model) or self._invoke(request, body, model)

    def _invoke(self, request: Received, body: dict, model: Hosted) -> list[Step]:
        quirk = self._next.popleft() if self._next else model.quirk
        denied = self._denied(request)
        if denied is not None:
            return denied
        if quirk in EDGE:
            return QUIRKS[quirk]
        poll = request.header("nvcf-poll-seconds") or str(POLL)
        if not poll.isdigit() or int(poll) > LONGEST_POLL:
            return problem(400, "Bad Request", "failed to parse poll duration")
        if model.window is None:
            model.window = Window(self.per_minute, 60 * self.time_scale, at_once=self.at_once)
        if model.window.refuses():
            return problem(429, "Too Many Requests", self.too_many_message)
        if quirk in QUEUE:
            return QUIRKS[quirk]
        return self._work(request.path, body, model, quirk, max(1, int(poll)))

    def _work(self, path: str, body: dict, model: Hosted, quirk: Quirk | None, poll: int) -> list[Step]:
        call = str(uuid.uuid4())
        ends = {} if model.end is None else {"deprecation": _stamp(model.end)}
        told = {"nvcf-reqid": call, "access-control-expose-headers": "nvcf-reqid"} | ends
        if self.worker_limit is not None and self.unfinished >= self.worker_limit:
            quirk = Quirk.EXHAUSTED
        refused = QUIRKS.get(quirk) or refusal(body, self.context)
        if refused is not None:
            return passed(refused, told)
        work = work_for(body, self.answer, reasoning=self.reasoning)
        work.stalls_at = 1 if quirk is Quirk.STALL else None  # kilocode#12775
        late = Status(504, {"content-length": "0", "nvcf-status": "errored"} | told)
        wait = (poll + GRACE) * self.time_scale
        if quirk is Quirk.NO_WORKER:
            return [Nobody(wait), late]
        generate = Generate(
            self,
            work,
            shape(path, work, body, self.form),
            bool(body.get("stream")),
            {"nvcf-status": "fulfilled"} | told,
            wait,
            (late,),
        )
        if quirk is Quirk.ACCEPTED:
            self.begin(work)
            work.answered = True
            self._accepted[call] = (generate, self.polls)
            return [Status(202, {"content-length": "0", "nvcf-status": "in-progress"} | told)]
        return [generate]

    def _poll(self, call: str) -> list[Step]:
        # IS get_pexec.rs: a call is forgotten with its first answer that is no 202.
        if call not in self._accepted:
            return problem(404, "Not Found")
        generate, left = self._accepted[call]
        if left or generate.work.state is State.OPEN:
            self._accepted[call] = (generate, max(0, left - 1))
            return [Status(202, {"content-length": "0", "nvcf-status": "in-progress", "nvcf-reqid": call})]
        del self._accepted[call]
        generate.work.delivered = generate.work.generated
        return whole(200, generate.shape.whole(), generate.work.generated, **generate.headers)

    def _denied(self, request: Received) -> list[Step] | None:
        key = request.header("authorization")
        if key is None:  # IS middleware/auth.rs
            return text(401, "Header of type `authorization` was missing")
        scheme, _, secret = key.partition(" ")
        if scheme.lower() != "bearer":
            return text(401, "Unauthorized access")
        if not secret.startswith("nvapi-"):  # seen of a key without the prefix
            return problem(401, "Unauthorized", "Authentication failed")
        if self.keys is not None and secret not in self.keys:  # seen of a mistyped or expired key
            return problem(403, "Forbidden", "Authorization failed")
        return None

    def _model(self, name: str) -> list[Step]:
        if name not in self.models:
            return text(404, f"Model does not exist by the name of {name}\n")
        return _gone(name, self.models[name]) or whole(200, _card(name))


@dataclass(frozen=True)
class Nobody(Step):
    """Wait for a worker that never comes."""

    seconds: float

    async def play(self, call) -> None:
        await asyncio.sleep(self.seconds)


def _card(name: str) -> dict:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": name.partition("/")[0]}


def _expired(model: Hosted) -> bool:
    return model.end is not None and datetime.now(UTC) > model.end


def _gone(name: str, model: Hosted) -> list[Step] | None:
    if model.offline is not None:
        return gateway_problem(503, "Service Unavailable", model.offline, **{"retry-after": OFFLINE_RETRY})
    if _expired(model):
        words = f"The model '{name}' has reached its end of life on {_stamp(model.end)} and is no longer available."
        return gateway_problem(410, "Gone", words)
    return None


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
