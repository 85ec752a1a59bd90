"""The golden streams: what each engine puts on the wire, and what a caller who did not ask for usage gets of it.

`golden/NAME.sse` holds the bytes. "recorded" streams come from the engine itself; the others are written after what the
engine's sources or documentation say, named here, or after reports of what was seen.
"""

from pathlib import Path
from typing import NamedTuple

from policies.domain import Usage

GOLDEN = Path(__file__).parent / "golden"

WHOLE, UNSEEN, TOO_LONG, SEEN, RETOLD = "whole", "failed unseen", "too long", "failed seen", "failed, retold"
"""How a stream ends: well; in a failure that another deployment may mend, or only one with a larger window; in one that
the caller is told of, by the upstream's own words or, where no client would know them for an error, by ours."""


class Stream(NamedTuple):
    """One golden stream: `told` are prompt and completion tokens, `says` and `thinks` the first choice's text.

    `cached` and `reasoning` are the tokens of each that the engine told apart.
    """

    name: str
    source: str
    told: tuple[int, int] | None = None
    says: str = ""
    thinks: str = ""
    ends: str = WHOLE
    events: int = 0
    held: bool = True
    """Whether a usage event of its own is withheld."""
    cached: int = 0
    reasoning: int = 0
    calls: str = ""
    """The arguments of its tool calls."""

    @property
    def api(self) -> str:
        """The API that it is of, which its file is named after."""
        return next((api for api in ("completions", "responses", "messages") if api in self.name), "chat")

    @property
    def usage(self) -> Usage | None:
        """What was told of tokens."""
        details = {"cached_tokens": self.cached, "reasoning_tokens": self.reasoning}
        return self.told and Usage(*self.told, estimated=False, **details)

    @property
    def wire(self) -> bytes:
        """The bytes."""
        return (GOLDEN / f"{self.name}.sse").read_bytes()

    @property
    def passed(self) -> bytes:
        """What goes out of them: no usage event, nothing after an error, an added `[DONE]` left out."""
        out = b""
        if self.ends in {UNSEEN, TOO_LONG}:
            return out
        for event in self.wire.split(b"\n\n")[:-1]:
            if self.held and b'"usage":{' in event and b'"choices":[]' in event:
                continue
            failed = self.ends in {SEEN, RETOLD} and _FAILURE[self.api](event)
            out += b"" if failed and self.ends == RETOLD else event + b"\n\n"
            if failed:
                break
        return out


_FAILURE = {
    "chat": lambda event: b'"choices"' not in event,
    "completions": lambda event: b'"choices"' not in event,
    "responses": lambda event: b'"type"' not in event.partition(b'"error"')[0] or b"response.failed" in event,
    "messages": lambda event: event.startswith(b"event: error"),
}
"""What of a failed stream is its failure."""

_VLLM = "vLLM, entrypoints/openai/chat_completion/serving.py"
_GARDEN = " under garden garden garden"
_LLAMA = " garden bridge slowly under"
_ZURICH = '{"city": "Zürich"}'
_LLAMA_ERROR = "llama.cpp, tools/server/server-context.cpp: format_error"
_MESSAGES = "Anthropic API reference, streaming messages"
_RESPONSES = "OpenAI API reference, streaming events of Responses"
_COPPER = " narrow copper valley river under narrow garden of with of before valley"
_BRIGHT = " river bright cloud opens letter the before carries water copper under holds"
_SUMMER = " summer gathers and market follows grass grass with garden golden under island"
_NEAR = " between near the copper island field silver before window follows under gathers"
_WAGON = " narrow with wagon cloud field field gathers cloud"
_HOSTED = "NVIDIA hosted: vLLM of unknown version behind it, seen in streams of users"

STREAMS = (
    Stream("vllm_reasoning", f"{_VLLM}, 0.17 and later (PR 33402)", (12, 6), "Four.", "Let me see.", events=4),
    Stream("vllm_old_reasoning_content", f"{_VLLM}, before 0.17", (12, 4), "Four", "Let me see.", events=3),
    Stream("vllm_continuous_usage", f"{_VLLM}, stream_options.continuous_usage_stats", (12, 3), "Four.", events=2),
    Stream("vllm_error_mid_stream", f"{_VLLM}, create_streaming_error_response", None, "Four", ends=SEEN, events=1),
    Stream("vllm_error_first", f"{_VLLM}, create_streaming_error_response", ends=UNSEEN),
    Stream("vllm_old_error_mid_stream", "vLLM before 0.10: ErrorResponse", None, "Four", ends=RETOLD, events=1),
    Stream("vllm_tool_call", f"{_VLLM}: id and name first, then arguments", (80, 17), events=4, calls=_ZURICH),
    Stream("vllm_two_choices", f"{_VLLM}, n=2", (12, 5), "Four.", events=3),
    Stream("vllm_logprobs", f"{_VLLM}, logprobs", (12, 2), 'Four"usage"', events=2),
    Stream("vllm_completions", "vLLM, entrypoints/openai/completion/serving.py", (5, 2), " four.", events=2),
    Stream("sglang", "SGLang, entrypoints/openai/serving_chat.py", (9, 5), "Four.", "Hm.", events=3, reasoning=2),
    Stream("sglang_queue_timeout", "SGLang issue 17143", ends=UNSEEN),
    Stream("llamacpp", "llama.cpp server, recorded", (24, 4), _GARDEN, events=4),
    Stream("llamacpp_two_choices", "llama.cpp server, recorded, n=2", (24, 8), _GARDEN, events=9, cached=23),
    Stream("llamacpp_logprobs", "llama.cpp server, recorded", (24, 4), _GARDEN, events=4, cached=23),
    Stream("llamacpp_completions", "llama.cpp server, recorded", (6, 4), _LLAMA, events=4, cached=1),
    Stream("llamacpp_completions_two_choices", "llama.cpp server, recorded, n=2", (6, 8), _LLAMA, events=8, cached=5),
    Stream("lmstudio", "LM Studio documentation, developer/openai-compat", (11, 2), "Four.", events=2),
    Stream("lmstudio_overflow", "lmstudio-bug-tracker issue 2322", ends=TOO_LONG),
    Stream("lmstudio_overflow_no_error_member", "lmstudio-bug-tracker issue 2322, older builds", ends=TOO_LONG),
    Stream(
        "lmstudio_error_mid_stream", "LM Studio: event: error, whatever its data", None, "Four", ends=RETOLD, events=1
    ),
    Stream("lmstudio_zero_deltas", "lmstudio-bug-tracker issue 2339", (31430, 0), ends=UNSEEN),
    Stream("transformers", "transformers, cli/serving/chat_completion.py: no [DONE]", (14, 3), "Four.", events=2),
    Stream("transformers_error_first", "transformers, cli/serving/utils.py: an error is text", ends=UNSEEN),
    Stream("transformers_error_mid_stream", "transformers, cli/serving/utils.py", None, "Four", ends=SEEN, events=1),
    Stream("nim", "NIM for LLMs documentation, API reference", (12, 3), "Four.", events=2),
    Stream("nvidia_reasoning", _HOSTED, (12, 4), "Four", "Hm.", events=2),
    Stream("nvidia_reasoning_content", _HOSTED, (12, 4), "Four", "Hm.", events=2),
    Stream("nvidia_think_text", _HOSTED, (12, 6), "<think>Hm.</think>Four", events=3),
    Stream("nvidia_empty", "OmniRoute issue 3758: 200 and nothing", ends=UNSEEN),
    Stream("openai", "OpenAI API reference: obfuscation, null usages", (12, 10), "Four.", events=2, reasoning=8),
    Stream("openai_refusal", "OpenAI API reference: delta.refusal", None, events=1),
    Stream("mistral_blocks", "Mistral documentation, reasoning: content in blocks", (10, 4), events=3),
    Stream("llamacpp_messages", "llama.cpp server, recorded", (24, 12), _SUMMER, events=12, cached=23),
    Stream("llamacpp_messages_error", _LLAMA_ERROR, (24, 0), " summer gathers", ends=SEEN, events=2, cached=23),
    Stream("llamacpp_responses", "llama.cpp server, recorded", (24, 12), _COPPER, events=12, cached=23),
    Stream("llamacpp_responses_error", _LLAMA_ERROR, None, " narrow copper", ends=SEEN, events=2),
    Stream("vllm_messages", "vLLM 0.32, recorded", (25, 12), _NEAR, events=12),
    Stream(
        "vllm_messages_cached",
        "vLLM 0.32, recorded, --enable-prompt-tokens-details: the prompt is told twice, in two ways",
        (419, 4),
        " morning summer between opens",
        events=4,
        cached=384,
    ),
    Stream("vllm_messages_tool_call", "vLLM 0.32, recorded", (265, 60), events=4, calls="null"),
    Stream(
        "vllm_messages_dies",
        "vLLM 0.32, recorded as its engine was killed, in part",
        (25, 0),
        " valley gathers",
        ends=SEEN,
        events=2,
    ),
    Stream("vllm_responses", "vLLM 0.32, recorded: a slow reader's tokens are merged", (25, 12), _BRIGHT, events=6),
    Stream("vllm_responses_tool_call", "vLLM 0.32, recorded", (265, 60), events=15, calls="99131E+92666663"),
    Stream("transformers_responses", "transformers 5.19, recorded: no names of events", (20, 8), _WAGON, events=8),
    Stream("anthropic_messages", _MESSAGES, (35, 9), "Four.", "Hm.", events=4, cached=20),
    Stream("anthropic_messages_overloaded", _MESSAGES, (35, 1), "Four", ends=SEEN, events=1, cached=20),
    Stream("openai_responses", _RESPONSES, (36, 10), "Four.", "Hm.", events=3, cached=4, reasoning=8),
    Stream("openai_responses_failed", _RESPONSES, None, "Four", ends=SEEN, events=1),
    Stream("openai_responses_error_first", _RESPONSES, ends=UNSEEN),
)
