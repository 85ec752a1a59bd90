import json

import pytest

from policies.domain import Usage
from policies.usage import Counter, together, told_in, usage_in, usage_of


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
