import msgspec
import pytest

from policies.dialects import DIALECTS, Scrape
from policies.probing import (
    ANY,
    MOST,
    PATIENT,
    Load,
    Told,
    Trouble,
    doubted,
    down,
    joined,
    read_load,
    read_models,
    read_properties,
    read_told,
    refused,
)

SCRAPE = Scrape("/metrics", running=("new:running", "old:running"), waiting=("waiting",), kv_use=("use",))

VLLM = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a \\"}\\" b"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 0.0
vllm:num_requests_waiting_by_reason{reason="capacity"} 9.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.5
"""


def listing(*entries):
    return msgspec.json.encode({"object": "list", "data": list(entries)})


def test_calls_are_summed_over_label_sets_and_of_cache_use_the_largest_counts():
    """VLLM tells each data-parallel rank apart; a label may hold a brace, and another name may begin like ours."""
    assert read_load(VLLM, DIALECTS["vllm"].scrape) == Load(5.0, 0.0, 0.5)


@pytest.mark.parametrize(
    ("text", "load"),
    [
        (b"", Load()),
        (b"new:running 1", Load(running=1.0)),
        (b"old:running 1\nwaiting 2 1700000000\n", Load(running=1.0, waiting=2.0)),
        (b"old:running 1\nnew:running 4\n", Load(running=4.0)),
        (b'new:running{a="b"}7\n', Load(running=7.0)),
        (b"new:running NaN\nwaiting 3\nuse 0.5\n", Load(waiting=3.0, kv_use=0.5)),
        (b'new:running{e="0"} 1\nnew:running{e="1"} NaN\n', Load()),
        (b"new:running -1\nwaiting +Inf\nuse 1.5\n", Load()),
        (b"new:running much\nuse NaN\n", Load()),
        (b"# new:running 5\nnot_new:running 6\nnew:running_total 7\n", Load()),
        (b'new:running{a="b 5\n', Load()),
        (b"\xff\xfe\x00 new:running", Load()),
    ],
)
def test_what_is_not_told_as_a_number_is_unknown(text, load):
    """Never 0: an engine that says nothing is not an idle one."""
    assert read_load(text, SCRAPE) == load


def test_a_large_exposition_is_read_in_the_time_of_a_search():
    """Megabytes of label sets that look like ours at first."""
    text = b'new:running_bucket{le="0.001"} 5\n' * 100_000 + b"new:running 3\n"

    assert read_load(text, SCRAPE).running == 3.0


def test_the_list_of_vllm_sglang_and_nim_tells_windows_and_an_adapter_has_its_parents():
    """VLLM lists a LoRA adapter without a window of its own, sometimes of another adapter's name; a ring has none."""
    told = read_models(
        listing(
            {"id": "base", "max_model_len": 8192, "parent": None},
            {"id": "lora", "parent": "base"},
            {"id": "narrow", "parent": "base", "max_model_len": 512},
            {"id": "lora-of-lora", "parent": "lora"},
            {"id": "ring", "parent": "ring"},
            {"id": "orphan", "parent": "gone"},
        )
    )

    assert told.ids == ("base", "lora", "narrow", "lora-of-lora", "ring", "orphan")
    assert told.windows == {"base": 8192, "lora": 8192, "narrow": 512, "lora-of-lora": 8192}


def test_llama_cpp_tells_the_window_of_a_slot_and_what_its_router_has_loaded():
    """In its list since 2026, in its properties before; a router has properties of no model."""
    listed = read_models(
        listing(
            {"id": "tiny", "meta": {"n_ctx": 1024, "n_ctx_train": 16384}},
            {"id": "big", "meta": None, "status": {"value": "loading"}},
            {"id": "cold", "status": {"value": "unloaded"}},
        )
    )
    props = msgspec.json.encode({"default_generation_settings": {"n_ctx": 1024}, "total_slots": 2})

    assert listed.windows == {"tiny": 1024}
    assert listed.states == {"big": "loading", "cold": "not loaded"}
    assert read_properties(props) == Told(windows={ANY: 1024})
    assert read_properties(b'{"default_generation_settings": {"n_ctx": 0}}') == Told()


def test_lm_studio_tells_what_it_has_loaded_and_with_which_window():
    """Of two instances a call may get either; what it has only downloaded has no window yet."""
    v1 = {
        "models": [
            {
                "key": "qwen",
                "max_context_length": 262144,
                "loaded_instances": [
                    {"id": "qwen", "config": {"context_length": 8192}},
                    {"id": "qwen:2", "config": {"context_length": 4096}},
                ],
            },
            {"key": "idle", "loaded_instances": []},
        ]
    }
    v0 = listing(
        {"id": "qwen", "state": "loaded", "loaded_context_length": 8192, "max_context_length": 262144},
        {"id": "idle", "state": "not-loaded", "max_context_length": 4096},
    )

    told = read_models(msgspec.json.encode(v1))
    assert told.windows == {"qwen": 4096, "qwen:2": 4096}
    assert told.states == {"qwen": "loaded", "idle": "not loaded"}
    assert read_models(v0) == Told(("qwen", "idle"), {"qwen": 8192}, {"qwen": "loaded", "idle": "not loaded"})


@pytest.mark.parametrize(
    "body",
    [b"", b"no", b"[]", b"{}", b'{"data": "nonsense"}', b'{"error": "Unexpected endpoint"}', b"[" * 100_000],
)
def test_what_is_no_list_says_nothing(body):
    """LM Studio answers 200 to whatever it does not know."""
    assert read_models(body) is None
    assert read_told(body) == Told()


def test_entries_that_are_none_are_passed_over():
    """And a window that is no number of tokens is none."""
    odd = [1, None, {"id": 5}, {"id": ["x"], "parent": "y"}, {"id": "a", "max_model_len": True, "parent": 3}]
    odd += [{"id": "b", "max_model_len": "4096"}, {"id": "c", "max_model_len": -1, "loaded_instances": [7, {}]}]
    odd += [{"id": "d", "state": ["loaded"], "status": "loaded", "loaded_instances": [{"config": {}}]}]

    told = read_models(listing(*odd))
    assert told.ids == ("a", "b", "c", "d")
    assert told.windows == {}


def test_of_two_answers_the_second_has_the_last_word():
    """Properties beside a list."""
    both = joined(Told(("a",), {"a": 1}, {"a": "loading"}), Told(("a", "b"), {"a": 2}, {"b": "loaded"}))

    assert both == Told(("a", "b"), {"a": 2}, {"a": "loading", "b": "loaded"})


@pytest.mark.parametrize("status", [200, 204, 301, 400, 401, 403, 404, 405, 429, 501])
def test_whoever_answers_at_all_is_there(status):
    """What calls may do there, calls find out."""
    assert refused(status, b"") is None


def test_a_503_is_certain_and_another_5xx_is_not():
    """llama.cpp says which it is: that it loads."""
    loading = b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}'

    assert refused(503, loading) == Trouble("it is loading its model", certain=True)
    assert refused(503, b"") == Trouble("its probe was answered 503", certain=True)
    assert refused(500, b"") == Trouble("its probe was answered 500", certain=False)


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 405, 429, 500, 501, 503])
def test_a_list_that_is_refused_casts_doubt_and_one_that_fails_does_not(status):
    """A wrong path or key is mended by an operator alone; a host may have no list, so no more than that."""
    why = doubted(status)

    assert (why is not None) == (status in {401, 403, 404})
    assert why is None or f"answered {status}" in why


def test_what_is_certain_is_believed_at_once_and_the_rest_when_it_is_repeated():
    """A refused connection is the kernel's word; a timeout may be one long step of a busy engine."""
    sure, unsure = Trouble("refused", certain=True), Trouble("late", certain=False)

    assert down(None, 0) is None
    assert down(sure, 1) == "refused"
    assert down(unsure, PATIENT - 1) is None
    assert down(unsure, PATIENT) == "late"


def test_a_list_that_is_no_text_tells_nothing():
    """As any other garbage."""
    assert read_models(b'{"data": [{"id": "\xff"}]}') is None


def test_a_long_line_of_parents_is_not_followed():
    """An adapter's parent is its base; a list of thousands that each name the next would take hours."""
    line = [{"id": f"m{n}", "parent": f"m{n + 1}"} for n in range(3000)]
    told = read_models(msgspec.json.encode({"data": [*line, {"id": "m3000", "max_model_len": 7}]}))

    assert told.windows["m2999"] == 7
    assert "m0" not in told.windows


def test_a_list_without_end_is_cut():
    """Nobody serves so many; each would be a model of the catalog."""
    told = read_models(msgspec.json.encode({"data": [{"id": f"m{n}"} for n in range(MOST + 1)]}))

    assert len(told.ids) == MOST
