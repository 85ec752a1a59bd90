import json

import pytest

from policies.domain import Usage
from policies.usage import Counter, timed_in, together, told_in, usage_in, usage_of


def told(**members):
    return told_in(json.dumps(members).encode())


def test_a_plain_answer_tells_its_usage():
    """Or None, or that it is broken."""
    assert usage_of(b'{"usage":{"prompt_tokens":1,"completion_tokens":2}}') == Usage(1, 2, estimated=False)
    assert usage_of(b'{"usage":{"prompt_tokens":9,"total_tokens":9}}') == Usage(9, 0, estimated=False)
    assert usage_of(b"{}") is None
    with pytest.raises(ValueError, match="whole JSON"):
        usage_of(b'{"usage":')


def test_told_usage_is_within_reason():
    """It goes into the books."""
    told = usage_of(b'{"usage":{"prompt_tokens":1' + b"0" * 30 + b',"completion_tokens":-5}}')

    assert told is None or (told.prompt_tokens, told.completion_tokens) == (2**31, 0)
    assert usage_of(b'{"usage":{"prompt_tokens":null,"completion_tokens":-5}}') == Usage(0, 0, estimated=False)


def test_the_end_of_a_long_answer_tells_its_usage():
    """Wherever nested members lie."""
    tail = (
        b'..."}],"usage":{"prompt_tokens":7,"prompt_tokens_details":{"cached_tokens":1},"completion_tokens":2},"x":1}'
    )

    assert usage_in(tail) == Usage(7, 2, estimated=False, cached_tokens=1)
    assert usage_in(b"nothing here") is None
    assert usage_in(b'"usage": {broken') is None


@pytest.mark.parametrize("odd", ["n/a", {"prompt_tokens": 3.5}, {"prompt_tokens": "9"}, [], 7])
def test_an_odd_usage_is_none_and_no_failure(odd):
    """The answer is whole all the same."""
    assert usage_of(json.dumps({"usage": odd}).encode()) is None


@pytest.mark.parametrize(
    ("members", "cached", "reasoning"),
    [
        ({"prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0}}, 4, 0),
        ({"completion_tokens_details": {"reasoning_tokens": 3}}, 0, 3),
        ({"prompt_tokens_details": None, "completion_tokens_details": None, "reasoning_tokens": 2}, 0, 2),
        ({"prompt_tokens_details": {"cached_tokens": None}, "completion_tokens_details": {}}, 0, 0),
        ({"completion_tokens_details": {"reasoning_tokens": 0}, "reasoning_tokens": 3}, 0, 3),
        ({"prompt_tokens_details": {"cached_tokens": 99}, "reasoning_tokens": 99}, 9, 5),
        ({"prompt_tokens_details": {"cached_tokens": -1}, "reasoning_tokens": -1}, 0, 0),
        ({"prompt_tokens_details": "none", "reasoning_tokens": 2}, 0, 0),
        ({"completion_tokens_details": {"reasoning_tokens": 1.5}}, 0, 0),
    ],
)
def test_cached_and_reasoning_tokens_are_read_where_engines_put_them(members, cached, reasoning):
    """Within the sums, which count whatever stands in the details."""
    assert told(prompt_tokens=9, completion_tokens=5, **members) == Usage(
        9, 5, estimated=False, cached_tokens=cached, reasoning_tokens=reasoning
    )


@pytest.mark.parametrize(
    ("members", "usage"),
    [
        ({"input_tokens": 24, "output_tokens": 12, "input_tokens_details": {"cached_tokens": 23}}, (24, 12, 23, 0)),
        ({"input_tokens": 9, "output_tokens": 5, "output_tokens_details": {"reasoning_tokens": 3}}, (9, 5, 0, 3)),
        ({"cache_read_input_tokens": 23, "input_tokens": 1, "output_tokens": 12}, (24, 12, 23, 0)),
        ({"cache_read_input_tokens": None, "cache_creation_input_tokens": 4, "input_tokens": 1}, (5, 0, 0, 0)),
        ({"cache_read_input_tokens": -9, "input_tokens": 2**40}, (2**31, 0, 0, 0)),
    ],
)
def test_the_prompt_is_all_of_it_whatever_an_api_calls_a_part(members, usage):
    """OpenAI's Responses count the cached in, Anthropic's Messages do not, and no engine does otherwise."""
    prompt, completion, cached, reasoning = usage
    assert told(**members) == Usage(
        prompt, completion, estimated=False, cached_tokens=cached, reasoning_tokens=reasoning
    )


TIMINGS = {"cache_n": 23, "prompt_n": 1, "prompt_ms": 0.3, "predicted_n": 12, "predicted_ms": 1.4}


def test_timings_tell_the_usage_where_nothing_else_does():
    """llama.cpp's, in a plain answer or at the end of a long one."""
    usage = Usage(24, 12, estimated=False, cached_tokens=23)
    timed = json.dumps({"choices": [], "timings": TIMINGS}).encode()
    both = json.dumps({"usage": {"prompt_tokens": 9}, "timings": TIMINGS}).encode()

    assert usage_of(timed) == usage_in(timed) == usage
    assert usage_of(both) == usage_in(both) == Usage(9, 0, estimated=False)
    assert usage_of(json.dumps({"usage": None, "timings": TIMINGS}).encode()) == usage


@pytest.mark.parametrize("odd", [b"null", b"[]", b"{}", b'{"predicted_n":"x"}', b'{"prompt_n":3}', b"{"])
def test_odd_timings_are_none(odd):
    """What was generated must be told at least."""
    assert timed_in(odd) is None


def test_a_stream_that_tells_its_usage_again_and_again_tells_it_once():
    """The last word counts."""
    counter = Counter()
    for tokens in range(5):
        counter.beside(0, Usage(3, tokens, estimated=False))
    counter.ended()
    counter.apart(Usage(3, 4, estimated=False))

    assert counter.total == Usage(3, 4, estimated=False)


def test_attempts_add_up():
    """A sum is estimated where a part of it is."""
    one, other = Usage(1, 2, estimated=False, cached_tokens=1), Usage(10, 20, estimated=True, reasoning_tokens=5)

    assert together(one, other) == Usage(11, 22, estimated=True, cached_tokens=1, reasoning_tokens=5)


def test_an_answer_with_half_a_character_is_whole():
    """JavaScript cuts texts between the halves of a pair, and writes them so."""
    answer = rb'{"choices":[{"text":"\ud83d"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}'

    assert usage_of(answer) == Usage(3, 2, estimated=False)
    with pytest.raises(ValueError, match="whole"):
        usage_of(answer[:-1])
