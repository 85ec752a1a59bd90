"""`transformers serve` 5.19: three APIs; members it does not know are a 422, usage is always told, no `[DONE]`.

Sources: transformers/cli/serving, chat_completion.py, completion.py, response.py and utils.py. What it keeps is what
those read; what it takes beside that it ignores, or refuses in other versions, and `logit_bias` is a 500 where a weight
is a whole number. /responses streams unless it is told not to. A last message of the assistant's begins a new answer
(in older versions it was answered by 200 and `{}`). /health fails only when the batching worker is dead. Its list is
of what has been downloaded; any other name is when it is asked for.
"""

from policies.dialects.dialect import Dialect, Priors

_ANYWHERE = frozenset({"generation_config", "model", "seed", "stream", "temperature", "top_p"})
_SAMPLING = frozenset({"top_k", "min_p", "presence_penalty", "repetition_penalty", "structured_outputs"})
_FORM = frozenset({"n", "logprobs"})

DIALECT = Dialect(
    kind="transformers",
    priors=Priors(0.5, 1_000.0, 0.05),
    apis=frozenset({"chat", "completions", "responses"}),
    usage="always",
    keeps={
        "chat": _ANYWHERE | {"chat_template_kwargs", "frequency_penalty", "max_tokens", "messages", "stop", "tools"},
        "completions": _ANYWHERE | {"frequency_penalty", "max_tokens", "prompt", "stop", "suffix"},
        "responses": _ANYWHERE | {"input", "instructions", "max_output_tokens", "parallel_tool_calls", "tools"},
    },
    renames={"chat": {"max_completion_tokens": "max_tokens"}},
    adds={"responses": {"stream": b"false"}},
    slights={
        "chat": _SAMPLING
        | _FORM
        | {"audio", "function_call", "functions", "logit_bias", "modalities", "parallel_tool_calls", "prediction"}
        | {"reasoning_effort", "response_format", "tool_choice", "top_logprobs", "web_search_options"},
        "completions": _SAMPLING | _FORM | {"best_of", "echo", "logit_bias"},
        "responses": _SAMPLING
        | {"background", "conversation", "include", "max_tool_calls", "previous_response_id", "prompt"}
        | {"reasoning", "text", "tool_choice", "top_logprobs", "truncation"},
    },
    health="/health",
    any_name=True,
)
