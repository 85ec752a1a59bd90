import pytest

from policies.said import WORDS, Said, said_by


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": {"message": "no", "type": "T", "code": "c"}}', Said("no", frozenset({"t", "c"}), api=True)),
        (b'{"error": {"message": "no", "code": 404, "param": null}}', Said("no", api=True)),
        (b'{"object": "error", "message": "no", "type": "T"}', Said("no", frozenset({"t"}), api=True)),
        (b'{"error": "no", "message": "more"}', Said("no", api=True)),
        (b'{"detail": "no", "status": 404, "title": "Not Found"}', Said("no", api=True)),
        (b'{"detail": [{"msg": "no", "input": {"message": "theirs"}}]}', Said("", api=True)),
        (b'{"error": null}', Said("", api=True)),
        (b"{}", Said("", api=True)),
        (b"no\n", Said("no\n")),
        (b"[]", Said("[]")),
        (b"", Said("")),
        (b'{"message": "\xff"}', Said("", api=True)),
        (b'{"error": ', Said('{"error": ')),
    ],
)
def test_an_error_is_told_in_the_places_that_engines_have_for_it(body, said):
    """As OpenAI, SGLang, Ollama, NVIDIA and FastAPI write it, and as proxies do."""
    assert said_by(body) == said


def test_what_nests_without_end_says_nothing():
    """And breaks nothing."""
    body = b"[" * 100_000

    assert said_by(body) == Said(body[:WORDS].decode())
    assert said_by(b'{"error": ' + body) == Said((b'{"error": ' + body)[:WORDS].decode())


def test_words_are_kept_up_to_a_bound():
    """A message may be a megabyte of the caller's own."""
    assert said_by(b'{"error": "%s"}' % (b"x" * 10**6)).message == "x" * WORDS
