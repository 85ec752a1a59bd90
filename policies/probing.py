"""What a backend's answers to free questions say: whether it serves, its load, its models' windows and states.

Law: what is not told is unknown, never 0; what is garbage tells nothing. An answer is read by its shape, since engines
share shapes and change versions. A probe says who is down, and never that a breaker may close.
"""

import math
import re
from typing import Any, Literal

import msgspec
from msgspec import Struct

from policies.dialects import Scrape

LoadState = Literal["loaded", "loading", "not loaded"]
"""Whether a model is in its engine's memory. One that is not is loaded by its first call."""

ANY = "*"
"""Stands for every model that has no window of its own: llama.cpp serves its one model under whatever name is asked."""

LONGEST = 4 << 20
"""Bytes of an answer that are read: vLLM's metrics are 100 KB, llama.cpp's properties 20 KB of chat template."""

MOST = 4096
"""Models of one list that are read: the largest hosted services list some hundreds."""

DEEPEST = 8
"""Parents that are followed for a window: an adapter's is its base."""

PATIENT = 2
"""Probes in a row that must fail where one failure proves little: an engine deep in a prefill may miss a moment."""

_SAMPLE = re.compile(rb'(?:\{(?:[^"}\n]|"(?:[^"\\\n]|\\.)*")*\}[ \t]*|[ \t]+)(\S+)')

# The words of LM Studio (`state`) and of llama.cpp's router (`status.value`).
_STATES: dict[Any, LoadState] = {
    "loaded": "loaded",
    "loading": "loading",
    "not-loaded": "not loaded",
    "unloaded": "not loaded",
}


class Told(Struct, frozen=True):
    """What an answer says of models: their ids in its order, tokens of context, states in memory, each where told."""

    ids: tuple[str, ...] = ()
    windows: dict[str, int] = {}
    states: dict[str, LoadState] = {}


class Load(Struct, frozen=True):
    """An engine's own figures, None where unknown: calls that run and wait, and the share of its KV cache in use."""

    running: float | None = None
    waiting: float | None = None
    kv_use: float | None = None


class Trouble(Struct, frozen=True):
    """Why a question had no good answer. `certain`: one such answer proves that nothing is served there.

    `barred`: and that no call may go there, even where nothing else is left.
    """

    reason: str
    certain: bool
    barred: bool = False


class Finding(Struct, frozen=True):
    """What one probe concludes. `told` None: it did not ask, or nothing was said.

    `listing`: the HTTP status with which the list of models was answered, None where it was not.
    """

    trouble: Trouble | None = None
    load: Load = Load()
    told: Told | None = None
    listing: int | None = None


def refused(status: int, body: bytes) -> Trouble | None:
    """Return what the status of an answer to a free question says against the backend, None where nothing.

    Only a 5xx does: whoever answers 401, 404 or 429 is there, and calls will find out the rest. A 503 is the engine's
    own word that it does not serve: it is loading, or its core is dead.
    """
    if status < 500 or status == 501:
        return None
    if b"oading model" in body[:1024]:  # llama.cpp, on every path until its weights are read
        return Trouble("it is loading its model", certain=True)
    return Trouble(f"its probe was answered {status}", certain=status == 503)


def doubted(status: int) -> str | None:
    """Return what an answer to the question for a list of models says against the way a backend is called.

    It may serve all the same: some hosts have no list, or show it to other keys.
    """
    if status not in {401, 403, 404}:
        return None
    return f"GET /models answered {status}: are its URL and its credential right?"


def down(trouble: Trouble | None, failures: int) -> str | None:
    """Return why a backend counts as down after so many failed probes in a row, None while it does not."""
    return trouble.reason if trouble is not None and (trouble.certain or failures >= PATIENT) else None


def read_load(text: bytes, scrape: Scrape) -> Load:
    """Return the figures in an exposition of Prometheus: calls summed over label sets, of cache use the largest."""
    running, waiting = (_samples(text, names) for names in (scrape.running, scrape.waiting))
    uses = _samples(text, scrape.kv_use)
    return Load(
        running=sum(running) if running else None,
        waiting=sum(waiting) if waiting else None,
        kv_use=max(uses) if uses and max(uses) <= 1 else None,
    )


def read_models(body: bytes) -> Told | None:
    """Return what a list of models says, whichever engine wrote it; None where it is no such list.

    A LoRA adapter without a window has its `parent`'s. LM Studio's `models` hold their loaded instances.
    """
    page = _page(body)
    listing = page.get("data", page.get("models"))
    if not isinstance(listing, list):
        return None
    found = _Gathering()
    for entry in listing[:MOST]:
        name = entry.get("id", entry.get("key")) if isinstance(entry, dict) else None
        if isinstance(name, str):
            found.take(name, entry)
    return found.told()


def read_properties(body: bytes) -> Told:
    """Return the window of one slot from llama.cpp's `/props`."""
    settings = _page(body).get("default_generation_settings")
    window = _tokens(settings.get("n_ctx")) if isinstance(settings, dict) else None
    return Told() if window is None else Told(windows={ANY: window})


def read_told(body: bytes) -> Told:
    """Return what a page about an engine's models says: a list of them, or llama.cpp's properties."""
    return read_models(body) or read_properties(body)


def joined(one: Told, two: Told) -> Told:
    """Return what two answers say together; where both speak of a model, the second does."""
    ids = dict.fromkeys((*one.ids, *two.ids))
    return Told(tuple(ids), one.windows | two.windows, one.states | two.states)


class _Gathering:
    """What the entries of one list say, so far."""

    def __init__(self) -> None:
        self.ids: dict[str, None] = {}
        self.windows: dict[str, int] = {}
        self.states: dict[str, LoadState] = {}
        self._parents: dict[str, str] = {}

    def told(self) -> Told:
        """Return what they say together."""
        for child in self._parents:
            self._inherit(child)
        return Told(tuple(self.ids), self.windows, self.states)

    def take(self, name: str, entry: dict[str, Any]) -> None:
        """Take in what one entry says of the model `name`."""
        self.ids[name] = None
        window = _window(entry)
        if window is not None:
            self.windows[name] = window
        if isinstance(entry.get("parent"), str):
            self._parents[name] = entry["parent"]
        status = entry.get("status")
        word = entry.get("state", status.get("value") if isinstance(status, dict) else None)
        if isinstance(word, str) and word in _STATES:
            self.states[name] = _STATES[word]
        instances = entry.get("loaded_instances")
        if isinstance(instances, list):
            self.states[name] = "loaded" if instances else "not loaded"
            self._instances(name, [one for one in instances if isinstance(one, dict)])

    def _instances(self, name: str, instances: list[dict[str, Any]]) -> None:
        """Take in a model's loaded instances: a call for the model may go to any of them."""
        for instance in instances:
            config = instance.get("config")
            window = _tokens(config.get("context_length")) if isinstance(config, dict) else None
            if window is not None:
                self.windows[name] = min(window, self.windows.get(name, window))
                if isinstance(instance.get("id"), str):
                    self.windows.setdefault(instance["id"], window)

    def _inherit(self, child: str) -> None:
        """Give `child` the window of its nearest ancestor that has one."""
        line = [child]
        while line[-1] not in self.windows:
            parent = self._parents.get(line[-1])
            if parent is None or len(line) > DEEPEST:
                return
            line.append(parent)
        self.windows[child] = self.windows[line[-1]]


def _window(entry: dict[str, Any]) -> int | None:
    """Return the window in one entry of a list, as vLLM, SGLang and NIM call it, as LM Studio or as llama.cpp does."""
    meta = entry.get("meta")
    told = (
        entry.get("max_model_len"),
        entry.get("loaded_context_length"),
        meta.get("n_ctx") if isinstance(meta, dict) else None,
    )
    return next(filter(None, map(_tokens, told)), None)


def _tokens(value: object) -> int | None:
    """Return a number of tokens, None where it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _page(body: bytes) -> dict[str, Any]:
    """Return a JSON object, empty where the body is none."""
    try:
        page = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
    return page if isinstance(page, dict) else {}


def _samples(text: bytes, names: tuple[str, ...]) -> list[float]:
    """Return the samples of the first of these names that has any; none where one of them is no count.

    Names are searched for, rather than lines taken apart: an exposition of 100 KB is read between two calls.
    """
    for name in map(str.encode, names):
        found: list[float] = []
        at = text.find(name)
        while at >= 0:
            sample = _SAMPLE.match(text, at + len(name)) if at == 0 or text[at - 1] == ord("\n") else None
            if sample is not None:
                found.append(_count(sample[1]))
            at = text.find(name, at + len(name))
        if found:
            return found if all(map(math.isfinite, found)) else []
    return []


def _count(word: bytes) -> float:
    """Return a sample's value; NaN where it is no number from 0 up."""
    try:
        number = float(word)
    except ValueError:
        return math.nan
    return number if number >= 0 else math.nan
