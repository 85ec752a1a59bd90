import gzip

import pytest

from gateway.cli.simulate_trace import UnreadableError, read_trace

MOONCAKE = '{"timestamp": 0, "input_length": 600, "output_length": 4, "hash_ids": [0, 1]}\n'
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,480,10\n2023-11-16 18:17:04.03,310,8\n"


@pytest.mark.parametrize(("text", "prompts"), [(MOONCAKE, [600]), (AZURE, [480, 310]), ("\n" + AZURE, [480, 310])])
@pytest.mark.parametrize("packed", [bytes, gzip.compress])
def test_a_trace_is_told_by_its_content(tmp_path, text, prompts, packed):
    """Its name says nothing."""
    path = tmp_path / "trace"
    path.write_bytes(packed(text.encode()))

    assert [call.prompt for call in read_trace(path, None)] == prompts


def test_only_so_many_calls_are_taken(tmp_path):
    """The first ones."""
    path = tmp_path / "trace"
    path.write_text(AZURE)

    assert len(read_trace(path, 1)) == 1


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (MOONCAKE.encode() + b"{", 2),
        (AZURE.encode() + b"2023-11-16,x,1\n", 4),
        (b"time,tokens\n", 1),
        (b"", 1),
        (b"\xff\xfe\n", 1),
    ],
)
def test_what_is_no_trace_is_told_with_its_line(tmp_path, content, line):
    """And what would be right."""
    path = tmp_path / "trace"
    path.write_bytes(content)
    with pytest.raises(UnreadableError) as caught:
        read_trace(path, None)

    assert caught.value.code == 1
    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert "TIMESTAMP,ContextTokens,GeneratedTokens" in str(caught.value)


@pytest.mark.parametrize("content", [None, b"\x1f\x8bnothing"])
def test_what_cannot_be_read_is_exit_2(tmp_path, content):
    """No file, or one that was cut while it was copied."""
    path = tmp_path / "trace.gz"
    if content:
        path.write_bytes(content)
    with pytest.raises(UnreadableError, match="cannot be read") as caught:
        read_trace(path, None)

    assert caught.value.code == 2
