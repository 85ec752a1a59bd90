"""The models that a caller may use, as OpenAI's API tells them and as Anthropic's does.

Law: both tell the same models. What nobody here knows of one (when it came out, how much it writes at most) is told as
each API tells the unknown, never made up. A page of Anthropic's goes on by name, so that it finds its place even where
the model behind which it goes on has gone meanwhile.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from policies.domain import Model
from policies.rejections import Reason, Rejection

OWNER = "sluiceway"

NOBODY_KNOWS = "1970-01-01T00:00:00Z"
"""When a model came out: the moment that Anthropic's API has for one of which that is not known."""

PAGE, LARGEST_PAGE = 20, 1000
"""Models on a page where nobody says, and at most, of Anthropic's API."""

LIFECYCLE = "lifecycle[]"
"""The query's name, as SDKs write lists, for the stages of a model's life that are asked for; ours are all active."""

_name = attrgetter("name")


def of_openai(model: Model) -> dict[str, Any]:
    """Describe a model as OpenAI does, and its largest context window as vLLM does."""
    entry: dict[str, Any] = {"id": model.name, "object": "model", "created": 0, "owned_by": OWNER}
    window = _window(model)
    return entry if window is None else entry | {"max_model_len": window}


def of_anthropic(model: Model) -> dict[str, Any]:
    """Describe a model as Anthropic does."""
    return {
        "type": "model",
        "id": model.name,
        "display_name": model.name,
        "created_at": NOBODY_KNOWS,
        "lifecycle": "active",
        "max_input_tokens": _window(model),
        "max_tokens": None,
    }


def list_of_openai(models: Iterable[Model]) -> dict[str, Any]:
    """Return all of `models` as OpenAI lists them."""
    return {"object": "list", "data": [of_openai(model) for model in models]}


def page_of_anthropic(models: Iterable[Model], query: Mapping[str, Sequence[str]]) -> dict[str, Any] | Rejection:
    """Return the page of `models`, by name, that a query asks for as Anthropic's clients do.

    `query`: each name's values. A Rejection where it is none.
    """
    limit, after, before = (query.get(name, [""])[-1] for name in ("limit", "after_id", "before_id"))
    most = int(limit) if limit.isdecimal() and len(limit) <= len(str(LARGEST_PAGE)) else 0
    if limit and not 0 < most <= LARGEST_PAGE:
        return _wrong("limit", f"must be a whole number from 1 to {LARGEST_PAGE}")
    if after and before:
        return _wrong("before_id", "cannot stand beside after_id: a page lies behind one model or before one")
    most = most or PAGE
    found = sorted(models, key=_name) if "active" in query.get(LIFECYCLE, ["active"]) else []
    if before:
        found = found[: bisect_left(found, before, key=_name)]
        page = found[-most:]
    else:
        found = found[bisect_right(found, after, key=_name) :]
        page = found[:most]
    return {
        "data": [of_anthropic(model) for model in page],
        "has_more": len(found) > len(page),
        "first_id": page[0].name if page else None,
        "last_id": page[-1].name if page else None,
    }


def _wrong(name: str, why: str) -> Rejection:
    return Rejection(Reason.BAD_MEMBER, f"The query's {name} {why}.", param=name)


def _window(model: Model) -> int | None:
    """Return the largest context window of a model's deployments, None where none is known."""
    windows = [deployment.context_window for deployment in model.deployments if deployment.context_window is not None]
    return max(windows, default=None)
