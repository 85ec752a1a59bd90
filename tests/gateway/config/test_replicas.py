import pytest

from gateway.config import ConfigError
from gateway.config.replicas import read_replicas


def test_a_list_is_one_base_url_a_line():
    """Comments, empty lines and trailing slashes are nobody's; a list of none is one too."""
    text = b"# replicas\n\n  http://10.0.0.1:8000/v1/  \r\nhttps://gpu.example/v1 # the large one\n"

    assert read_replicas(text, "list") == ("http://10.0.0.1:8000/v1", "https://gpu.example/v1")
    assert read_replicas(b"", "list") == read_replicas(b"# none yet\n", "list") == ()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("10.0.0.1:8000", "does not begin with http:// or https://; write http://HOST:PORT/PATH"),
        ("http://user:pass@h/v1", "holds credentials"),
        ("http://h:99999/v1", "is not a valid URL"),
        ("http://h/v1#there", "has a query or a fragment"),
        ("http://h/v1 http://i/v1", "is not a valid URL"),
        ("http://\u00fc/v1", "holds what no URL may"),
        ("http://h/\x07", "holds what no URL may"),
        ("http://first/v1/", "is the replica of line 1 again; keep one of them"),
    ],
)
def test_every_wrong_line_is_told_with_what_would_be_right(line, words):
    """By its file and line, and never with what it holds."""
    with pytest.raises(ConfigError) as caught:
        read_replicas(f"http://first/v1\n\n{line}\nnone\n".encode(), "/etc/list")
    first, second = caught.value.mistakes

    assert str(first).startswith("/etc/list:3: a base URL: ")
    assert words in str(first)
    assert "pass" not in str(first)
    assert second.line == 4


def test_bytes_that_are_no_text_are_told_too():
    """Whatever wrote them."""
    with pytest.raises(ConfigError, match="holds what no URL may"):
        read_replicas(b"http://h/\xff\xfe", "list")
