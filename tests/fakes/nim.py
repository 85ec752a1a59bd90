"""A NIM container with a vision language model, as 2.x (vLLM behind nginx) or 1.x tells it.

Law: never a 202, never a key; what vLLM says passes through.
Sources: docs.nvidia.com/nim/vision-language-models/2.0.6-variant/release-notes.html (the limits of this model),
.../2.0.0/api-reference.html (the endpoints), .../large-language-models/reference/api-reference/health-ready (503 until
the model is loaded), .../1.7.0/api-reference.html (the words of health and of the models' page).
"""

import json

from tests.fakes.chat import Reasoning, prompt_tokens, work_for
from tests.fakes.engine import FakeEngine, Generate, Trouble, text
from tests.fakes.mistral_vllm import MODEL, bad, error, listing, metrics, no_such_model, read, refusal, shape
from tests.parts.http1 import Received
from tests.parts.scripted import Step, whole

GENERATING = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")


class NimServer(FakeEngine):
    """One container. `ready`: whether the model is loaded. `old`: a 1.x, of other names and fewer endpoints.

    `reasoning`: tokens of thoughts before the answer. `fails_at`: after so many tokens the engine dies.
    """

    def __init__(self, model: str = MODEL, *, old: bool = False, ready: bool = True, **engine) -> None:
        super().__init__(model, **engine)
        self.old, self.ready = old, ready
        self.reasoning, self.form = 0, Reasoning.CONTENT if old else Reasoning.FIELD
        self.fails_at: int | None = None

    def page(self, request: Received) -> list[Step]:
        pages = {
            "/v1/health/live": self._live,
            "/v1/health/ready": self._ready,
            "/v1/metrics": self._metrics,
            "/v1/models": lambda: whole(200, listing(self, "system")),
            "/v1/metadata": self._metadata,
            "/v1/version": self._version,
        }
        found = pages.get(request.path)
        if found is None:
            return whole(404, {"detail": "Not Found"})
        needs_engine = request.path in ("/v1/models", "/v1/metrics")
        return self._unready() if needs_engine and not self.ready else found()

    def script(self, request: Received) -> list[Step]:
        if not self.ready:
            return self._unready()
        body = read(request.body)
        if body is None:
            return bad("[{'type': 'json_invalid', 'loc': ('body', 1), 'msg': 'JSON decode error'}]")
        if request.path == "/tokenize":
            count = prompt_tokens(body)
            return whole(200, {"count": count, "max_model_len": self.context, "tokens": list(range(count))})
        # The responses and messages APIs came with 2.x.
        if request.path not in (GENERATING[:2] if self.old else GENERATING):
            return whole(404, {"detail": "Not Found"})
        if body.get("model") != self.model:
            return no_such_model(body.get("model"))
        refused = self._input_text(body) or refusal(body, self.context)
        return refused or self._generate_for(request.path, body)

    def failed(self, trouble: Trouble) -> list[Step]:
        """Answer an engine's death (500) as vLLM does."""
        return error(trouble.status, trouble.message, trouble.kind)

    def _generate_for(self, path: str, body: dict) -> list[Step]:
        # Values that are out of range or of the wrong type are taken silently, with 200 (release notes).
        work = work_for(body, self.answer, reasoning=self.reasoning)
        work.fails_at = self.fails_at
        return [Generate(self, work, shape(path, work, body, self.form), bool(body.get("stream")))]

    def _input_text(self, body: dict) -> list[Step] | None:
        # "objects with "type": "input_text" are not supported" (release notes); the words are a guess.
        if '"type": "input_text"' in json.dumps(body.get("input")):
            return bad("Unknown part type: input_text", "input")
        return None

    def _live(self) -> list[Step]:
        # Served by nginx: says nothing about the model.
        return whole(200, self._health("Service is live.", "live"))

    def _ready(self) -> list[Step]:
        if self.ready:
            return whole(200, self._health("Service is ready.", "ready"))
        return whole(503, self._health("Service is not ready.", "not_ready"))  # the words are a guess

    def _health(self, message: str, status: str) -> dict:
        told = {"object": "health.response", "message": message}
        return told if self.old else told | {"status": status}

    def _unready(self) -> list[Step]:
        # nginx runs before the engine listens; its page is nginx's own (a guess: no manual shows it).
        html = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n</body>\r\n</html>\r\n"
        return text(502, html, **{"content-type": "text/html"})

    def _metrics(self) -> list[Step]:
        # 1.x has vLLM's names without their prefix, and the number of requests that it takes.
        labels = f'{{model_name="{self.model}"}}'
        told = metrics(self, "" if self.old else "vllm:", labels)
        if self.old:
            told += f"# TYPE num_request_max gauge\nnum_request_max{labels} {float(self.slots or 256)}\n"
        return text(200, told, **{"content-type": "text/plain; version=0.0.4; charset=utf-8"})

    def _metadata(self) -> list[Step]:
        told = {"assetInfo": [], "licenseInfo": {"name": "NVIDIA AI Enterprise"}, "version": self._release()}
        return whole(200, told | {"modelInfo": [{"modelUrl": f"ngc://nim/{self.model}", "shortName": self.model}]})

    def _version(self) -> list[Step]:
        return whole(200, {"release": self._release(), "api": "1.0.0"})

    def _release(self) -> str:
        return "1.7.0" if self.old else "2.0.6-variant"
