"""How a backend's kind is read: the engine that it is, by the names that people give it.

Law: one name a kind, as `policies/dialects` has it; whoever writes another is told which it is, and never guessed for.
"""

import re
from difflib import get_close_matches

import yaml

from gateway.config.mistakes import At, MisreadError
from gateway.config.reading import Reading
from gateway.config.settings import KINDS

_OLLAMA = (
    "write `kind: openai`, `hosted: false` and `base_url: http://HOST:11434/v1`, "
    "and `price: {input: 0, output: 0}` for its deployments"
)
_TGI = "write `kind: openai` and `hosted: false`, and `price: {input: 0, output: 0}` for its deployments"

_ELSEWHERE = {"ollama": _OLLAMA, "tgi": _TGI, "textgenerationinference": _TGI}
"""Engines that have no kind, and what to write for them; as they are without signs and capitals."""


def kind_of(reading: Reading, node: yaml.Node, _at: At) -> str:
    """Read one of the kinds of backends."""
    word = reading.word(node)
    if word.text in KINDS:
        return word.text
    plain = re.sub(r"[^a-z]", "", word.text.lower())
    near, all_of_them = get_close_matches(plain, KINDS, n=1), f"write one of {', '.join(KINDS)}"
    remedy = _ELSEWHERE.get(plain) or (f"{all_of_them} (did you mean `{near[0]}`?)" if near else all_of_them)
    raise MisreadError(f"{word.shown} is not known here", remedy)
