import pytest

from gateway.config.settings import Backend


def backends(**settings):
    """Write one backend, each of its keys on a line of its own."""
    return "backends:\n  gpu:\n    kind: vllm\n" + "".join(f"    {key}: {value}\n" for key, value in settings.items())


@pytest.mark.parametrize(
    ("settings", "line", "where", "words"),
    [
        ({}, 2, "base_url", "is missing; add the engine's URL, such as http://127.0.0.1:8000/v1"),
        ({"discover": "dns"}, 2, "base_url", "is missing; add the engine's URL"),
        (
            {"base_url": "http://h/v1", "list": "some"},
            4,
            "base_url",
            "does nothing: `list` says where",
        ),
        ({"list": "some", "discover": "dns"}, 5, "discover", "does nothing: `list` says where"),
        ({"base_url": "http://10.0.0.1/v1", "discover": "dns"}, 5, "discover", "base_url names an address"),
        ({"base_url": "'http://[::1]/v1'", "discover": "dns"}, 5, "discover", "write the name that stands for all"),
        ({"base_url": "http://h/v1", "discover": "srv"}, 5, "discover", "'srv' is not known here; write one of dns"),
        ({"list": "none"}, 4, "list", "none cannot be read: No such file"),
        ({"list": "wrong"}, 4, "list", "wrong:2 names no valid host; write http://HOST:PORT/PATH"),
        ({"base_url": "http://h/v1", "probe_every": "-1"}, 5, "probe_every", "write seconds, 0 for no probes, from 0"),
        ({"base_url": "http://h/v1", "probe_every": "0.05"}, 5, "probe_every", "write 0, or 0.1 or more"),
        ({"base_url": "http://h"}, 4, "base_url", "does not end with /v1, where this kind has its API"),
        ({"base_url": "http://h/v1/chat/completions"}, 4, "base_url", "ends with /chat/completions, which is added"),
        ({"list": "bare"}, 4, "list", "end it with /v1"),
        ({"base_url": "http://h/v1", "probe_every": "false"}, 5, "probe_every", "0 for no probes"),
    ],
)
def test_a_backend_that_is_nowhere_or_in_two_ways_somewhere_is_told(  # noqa: PLR0917 - four are of the table
    mistakes_of, tmp_path, settings, line, where, words
):
    """With what would be right."""
    (tmp_path / "some").write_text("http://h1/v1\n")
    (tmp_path / "bare").write_text("http://h1\n")
    (tmp_path / "wrong").write_text("http://h1/v1\nhttp://-/v1\n")

    (mistake,) = mistakes_of(backends(**settings))
    assert (mistake.line, mistake.where) == (line, f"backends.gpu.{where}")
    assert words in f"{mistake.message}; {mistake.remedy}"


def test_every_wrong_line_of_a_list_is_told(mistakes_of, tmp_path):
    """At once."""
    (tmp_path / "list").write_text("one\ntwo\n")

    assert len(mistakes_of(backends(list="list"))) == 2


def test_a_backend_may_be_a_name_a_list_or_a_place(settings_of, tmp_path):
    """A list's path starts at the file's folder; how often it is probed is its kind's, or its own."""
    (tmp_path / "list").write_text("# none yet\n")
    listed, named, placed = (
        settings_of(backends(**settings)).backends[0]
        for settings in (
            {"list": "list", "probe_every": 0},
            {"base_url": "http://gpu.local:8000/v1", "discover": "dns"},
            {"base_url": "http://h/v1", "probe_every": 2.5},
        )
    )

    assert listed == Backend("gpu", "vllm", "", list_file=tmp_path / "list", probe_every=0)
    assert named == Backend("gpu", "vllm", "http://gpu.local:8000/v1", discover="dns")
    assert placed == Backend("gpu", "vllm", "http://h/v1", probe_every=2.5)
    assert [one.discovered for one in (listed, named, placed)] == [True, True, False]


@pytest.mark.parametrize(
    ("listens", "url", "own"),
    [
        ("listen: {port: 8610}", "http://127.0.0.1:8610/v1", "address"),
        ("listen: {port: 8610}", "http://localhost:8610/v1", "address"),
        ("listen: {port: 8610}", "http://0.0.0.0:8610/v1", "address"),
        ("listen: {port: 8610}", "http://127.0.0.1:8601/v1", "operations address"),
        ("operations: {port: 8700}", "https://127.0.0.1:8700/v1", "operations address"),
        ("listen: {host: 0.0.0.0, port: 80}", "http://127.1.2.3/v1", "address"),
        ("listen: {host: '::', port: 443}", "https://127.0.0.1/v1", "address"),
        ("listen: {host: '::', port: 8610}", "http://[::1]:8610/v1", "address"),
        ("listen: {host: 10.0.0.5}", "http://10.0.0.5:8600/v1", "address"),
        ("listen: {host: gate.local}", "http://Gate.Local:8600/v1", "address"),
        ("listen: {host: localhost}", "http://127.0.0.1:8600/v1", "address"),
        ("listen: {port: 8610}", "http://127.0.0.1:8600/v1", None),
        ("listen: {port: 8610}", "http://10.0.0.5:8610/v1", None),
        ("listen: {port: 8610}", "http://gate.local:8610/v1", None),
        ("listen: {host: 10.0.0.5}", "http://127.0.0.1:8600/v1", None),
        ("listen: {host: 0.0.0.0}", "http://[::1]:8600/v1", None),
        ("listen: {host: 0.0.0.0}", "http://10.0.0.5:8600/v1", None),
        ("listen: {port: 443}", "http://127.0.0.1/v1", None),
    ],
)
@pytest.mark.parametrize("key", ["base_url", "list"])
def test_a_backend_that_is_the_gateway_itself_is_told(mistakes_of, settings_of, tmp_path, listens, url, own, key):  # noqa: PLR0917 - the table's
    """One call would become as many as it has places; what only a resolver knows is left to the probes."""
    (tmp_path / "list").write_text(f"{url}\n")
    text = f"{listens}\n{backends(**{key: url if key == 'base_url' else 'list'})}"
    if own is None:
        settings_of(text)
        return

    (mistake,) = mistakes_of(text)
    where = (mistake.line, mistake.where, mistake.message, mistake.remedy)
    assert where == (5, f"backends.gpu.{key}", f"is this gateway's own {own}", "name an engine")


def test_an_address_that_could_not_be_read_is_nobodys_own(mistakes_of):
    """It is told once, where it stands."""
    for listens in ("listen: 5", "listen: {port: none}", "listen: {host: '-'}"):
        text = f"{listens}\n{backends(base_url='http://127.0.0.1:8600/v1')}"
        assert [mistake.line for mistake in mistakes_of(text)] == [1]


def test_what_could_not_be_read_is_not_judged_again(mistakes_of):
    """A URL that is none is told once, and so is a row that is none."""
    for text in (backends(base_url="nonsense"), backends(base_url="nonsense", discover="dns"), "backends: {gpu: 5}\n"):
        assert len(mistakes_of(text)) == 1


def test_the_hosted_endpoint_needs_a_key_and_others_do_not(mistakes_of):
    """Nobody would be served."""
    (mistake,) = mistakes_of(
        "backends:\n  a: {kind: openai, base_url: http://h/v1}\n  b: {kind: nvidia, base_url: http://h/v1}\n"
    )
    assert (mistake.line, mistake.where) == (3, "backends.b.api_key")
    assert 'add `api_key: "${NVIDIA_API_KEY}"`' in mistake.remedy


def test_a_hosted_backend_whose_key_could_not_be_read_is_told_once(mistakes_of):
    """The variable is what is missing."""
    (mistake,) = mistakes_of("backends: {h: {kind: nvidia, base_url: http://h/v1, api_key: '${NVIDIA_API_KEY}'}}\n")
    assert "the environment has no NVIDIA_API_KEY" in mistake.message
