import random

from policies import estimates
from policies.estimates import OUTPUT_HIGH, Estimates
from tests.policies.builders import request


def test_what_nobody_told_is_a_prior():
    """A quarter of a token a byte."""
    facts = request(messages=[{"role": "user", "content": "x" * 4000}])

    guess = Estimates().of("k", facts)

    assert 1000 <= guess.prompt_tokens <= 1020
    assert guess.reserved_output == OUTPUT_HIGH


def test_the_callers_bound_caps_and_choices_multiply():
    """Nothing worst-case, nothing forgotten."""
    assert Estimates().of("k", request(max_tokens=10, n=3)).reserved_output == 30


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
