import random

import pytest

from policies import estimates
from policies.domain import Estimate
from policies.estimates import OUTPUT_HIGH, Estimates
from tests.policies.builders import request


def test_what_nobody_told_is_a_prior():
    """A quarter of a token a byte."""
    facts = request(messages=[{"role": "user", "content": "x" * 4000}])

    guess = Estimates().of("k", facts)

    assert 1000 <= guess.prompt_tokens <= 1020
    assert guess.reserved_output == OUTPUT_HIGH


def test_a_look_at_an_estimate_leaves_no_trace(monkeypatch):
    """A dry run is no call: it makes no key known and keeps none from being forgotten."""
    monkeypatch.setattr(estimates, "MEMORY", 2)
    learner, facts = Estimates(), request()
    assert learner.peek("stranger", facts) == Estimates().of("k", facts)
    assert not learner._pairs
    learner.learn("old", facts, 5, 5000, 0)
    learner.learn("new", facts, 5, 5, 0)
    assert learner.peek("old", facts) != learner.peek("new", facts)
    assert learner.peek("old", facts).output_tokens > Estimates().of("k", facts).output_tokens
    learner.of("another", facts)

    assert learner.peek("old", facts) == learner.peek("stranger", facts)


def test_the_callers_bound_caps_and_choices_multiply():
    """Nothing worst-case, nothing forgotten."""
    assert Estimates().of("k", request(max_tokens=10, n=3)).reserved_output == 30


def test_every_prompt_of_a_list_is_answered_n_times():
    """And reserved for; the prompts themselves are counted by their bytes, however many answers there are."""
    once, often = request("completions", prompt="a b", max_tokens=10), request("completions", prompt=["a b"] * 4, n=3)

    assert Estimates().of("k", once).reserved_output == 10
    assert Estimates().of("k", often).reserved_output == 12 * OUTPUT_HIGH


def test_every_input_of_embeddings_is_at_least_a_token():
    """Engines count one for the shortest."""
    assert Estimates().of("k", request("embeddings", input=[[7]] * 200)).prompt_tokens >= 200


def image(*words):
    parts = [{"type": "text", "text": word} for word in words]
    inlined = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    return request(messages=[{"role": "user", "content": [*parts, inlined]}])


def test_an_image_counts_by_its_own_rule_and_not_by_its_bytes():
    """A documented prior, then what this key's images had."""
    learner, small, large = Estimates(), image("what is it"), image("x" * 40_000)

    assert 1000 <= learner.of("k", small).prompt_tokens <= 1100
    for _ in range(60):
        learner.learn("k", small, 330, 10, 0)
    assert 290 <= learner.of("k", small).prompt_tokens <= 370
    assert learner.of("k", large).prompt_tokens - learner.of("k", small).prompt_tokens >= 9000
    assert learner.of("other", small).prompt_tokens >= 1000


def test_a_long_text_beside_an_image_teaches_little_of_images():
    """Most of what is not as guessed is the text's."""
    learner, long = Estimates(), image("x" * 400_000)
    learner.learn("k", long, 130_000, 10, 0)

    assert learner.of("k", image("hi")).prompt_tokens < 1200


def test_the_events_that_a_reservation_covers_are_by_the_learned_density():
    """One token an event until more is known; past them, the count is past the tokens."""
    learner, facts = Estimates(), request(stream=True)

    assert learner.events_within("k", facts, 100) == 101
    for _ in range(80):
        learner.learn("k", facts, 10, 200, 100)
    events = learner.events_within("k", facts, 100)
    assert 50 <= events <= 53
    assert learner.counted_output("k", facts, events, 0) >= 100


def test_embeddings_have_no_output():
    """They are prompt only."""
    guess = Estimates().of("k", request("embeddings", input="hello"))

    assert (guess.output_tokens, guess.reserved_output) == (0, 0)


def test_tokens_a_byte_are_learned_within_a_few_calls():
    """A byte-level vocabulary has one token a byte."""
    learner, facts = Estimates(), request(messages=[{"role": "user", "content": "x" * 4000}])
    for _ in range(50):
        learner.learn("k", facts, facts.text_bytes, 10, 0)

    assert abs(learner.of("k", facts).prompt_tokens - facts.text_bytes) <= 0.05 * facts.text_bytes


def test_the_reserved_output_covers_nine_calls_in_ten():
    """A running quantile, whatever the shape."""
    learner, facts, dice = Estimates(), request(), random.Random(7)
    covered = 0
    for call in range(3000):
        output = round(dice.lognormvariate(5, 1))
        covered += call >= 1000 and output <= learner.of("k", facts).reserved_output
        learner.learn("k", facts, 10, output, 0)

    assert 0.86 <= covered / 2000 <= 0.94


def test_a_short_lived_habit_is_followed():
    """A coding agent with a huge bound and short answers reserves little."""
    learner, facts = Estimates(), request(max_tokens=32_000)
    for _ in range(60):
        learner.learn("k", facts, 10, 80, 0)

    assert learner.of("k", facts).reserved_output < 130


def test_a_cut_stream_counts_at_least_one_token_an_event():
    """Never less than the caller received."""
    learner, facts = Estimates(), request(stream=True)

    assert learner.counted_output("k", facts, 40, 0) == 40
    for _ in range(80):
        learner.learn("k", facts, 10, 200, 100)
    assert 75 <= learner.counted_output("k", facts, 40, 0) <= 80
    assert learner.counted_output("other", facts, 40, 0) == 40


def test_a_plain_answer_without_usage_counts_its_bytes():
    """And an embedding counts none."""
    assert Estimates().counted_output("k", request(), 0, 400) == 100
    assert Estimates().counted_output("k", request("embeddings", input="x"), 0, 400) == 0


def test_memory_is_bounded(monkeypatch):
    """Strangers push out only those heard of least recently."""
    monkeypatch.setattr(estimates, "MEMORY", 100)
    learner, facts = Estimates(), request()
    for number in range(1000):
        learner.of(f"k{number}", facts)

    assert len(learner._pairs) == 100


def test_what_one_caller_does_teaches_nothing_of_another():
    """Nor can it teach nonsense of itself."""
    learner, facts = Estimates(), request(messages=[{"role": "user", "content": "x" * 400}], stream=True)
    before = learner.of("other", facts)
    for _ in range(50):
        learner.learn("k", facts, 10**9, 10**6, 2)

    assert learner.of("other", facts) == before
    assert learner.of("k", facts).prompt_tokens <= facts.text_bytes
    assert learner.counted_output("k", facts, 100, 0) <= 1600


def test_short_prompts_teach_little_of_long_ones():
    """Most of their tokens are the chat template's."""
    learner = Estimates()
    short, long = (request(messages=[{"role": "user", "content": "x" * size}]) for size in (0, 30_000))
    for _ in range(60):
        learner.learn("k", short, 24, 10, 0)

    assert learner.of("k", long).prompt_tokens < 2 * Estimates().of("k", long).prompt_tokens


@pytest.mark.parametrize("api", ["count_tokens", "tokenize"])
def test_what_only_counts_tokens_uses_none(api):
    """However long the text is."""
    facts = request(api, messages=[{"role": "user", "content": "x" * 100_000}])

    assert Estimates().of("k", facts) == Estimate(0, 0, 0, 0)
    assert Estimates().counted_output("k", facts, 0, 4000) == 0


@pytest.mark.parametrize(("api", "bound"), [("messages", "max_tokens"), ("responses", "max_output_tokens")])
def test_the_output_of_every_api_is_bounded_by_its_own_member(api, bound):
    """And learned as a chat's."""
    facts = request(api, messages=[], input="a", **{bound: 7})

    assert Estimates().of("k", facts).longest_output == 7
    assert Estimates().counted_output("k", facts, 3, 0) == 3
