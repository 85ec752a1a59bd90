"""A scripted upstream that plays what a call's id asks for, and knows afterwards what it wrote and told.

Law: an id is `shape-number`; the number decides how long the answer is. Every answer that is whole tells its usage.
"""

from functools import cache

from tests.faults.crowd import WORD
from tests.parts.scripted import DONE, Bytes, Hang, ScriptedServer, Status, delta, event, plain, sse, usage

MODEL = "m"

PACE = 0.02
"""Seconds between two events of a slow stream."""

PLAIN, STREAM, SLOW, LONG, ENDLESS = "plain", "stream", "slow", "long", "endless"
"""A whole answer; a stream in one piece; one whose words come one by one; one that outlives an outage; one without an
end."""

LONG_WORDS, LONG_PACE = 550, 0.1
"""Words of a long stream, and the seconds between them."""

_WORD = WORD.decode()


def told(id_):
    """Return the usage that a whole answer to the call of that id tells."""
    shape, _, number = id_.partition("-")
    return usage(5 + int(number) % 7, LONG_WORDS if shape == LONG else 2 + int(number) % 4)


def is_as_told(record):
    """Say whether a record is what the upstream told of its call."""
    usage, head = told(record.request_id), record.head
    return (head.input, head.output, head.estimated) == (usage["prompt_tokens"], usage["completion_tokens"], False)


@cache
def _script(shape, prompt, words):
    if shape == PLAIN:
        return plain("fine", told=usage(prompt, words), model=MODEL)
    if shape == ENDLESS:
        return [*sse(*[_WORD] * 2000, every=PACE, end=False, model=MODEL), Hang()]
    if shape == LONG:
        return sse(*[_WORD] * words, told=usage(prompt, words), every=LONG_PACE, model=MODEL)
    if shape == SLOW:
        return sse(*[_WORD] * words, told=usage(prompt, words), every=PACE, model=MODEL)
    last = {"id": "c-1", "object": "chat.completion.chunk", "created": 0, "model": MODEL, "choices": []}
    parts = [delta(MODEL, role="assistant", content=""), *[delta(MODEL, content=_WORD)] * words]
    parts += [delta(MODEL, finish="stop"), event(last | {"usage": usage(prompt, words)}), DONE]
    whole = Bytes(b"".join(part.data for part in parts), tokens=words)
    return [Status(200, {"content-type": "text/event-stream"}), whole]


class Upstream(ScriptedServer):
    """Answers by ids."""

    def __init__(self):
        super().__init__(model=MODEL)

    def script(self, request):
        id_ = request.header("x-request-id")
        wanted = told(id_)
        return _script(id_.partition("-")[0], wanted["prompt_tokens"], wanted["completion_tokens"])

    @property
    def by_id(self):
        """Every call by its id."""
        return {call.request.header("x-request-id"): call for call in self.calls}
