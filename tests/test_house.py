import statistics

import pytest

from tests.house import RANKS, ROOT, functions, sources, violations

FILE_LINES, FUNCTION_LINES = 400, 60
MEDIAN_FILE, P90_FUNCTION = 130, 30


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_keeps_the_rules(path):
    """Imports run one way, each library has one door, nothing grows past its bound, every head says its law."""
    place, source = str(path.relative_to(ROOT)), path.read_text()

    assert violations(place, source) == []
    assert source.count("\n") <= FILE_LINES
    assert [name for name, lines in functions(source) if lines > FUNCTION_LINES] == []
    assert source.startswith(('"""', 'r"""')), "the head of a module states its law"


def test_the_house_as_a_whole_stays_small():
    """Good cores sit at 70 to 170 lines a module and 7 to 9 lines a function."""
    texts = [path.read_text() for path in sources()]
    lines = sorted(lines for text in texts for _, lines in functions(text))

    assert statistics.median(text.count("\n") for text in texts) <= MEDIAN_FILE
    assert lines[int(0.9 * len(lines))] <= P90_FUNCTION


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("policies/x.py", "import asyncio"),
        ("policies/x.py", "from gateway import clock"),
        ("policies/x.py", "import time"),
        ("policies/x.py", "def f():\n    import socket"),
        ("policies/x.py", "async def f(): ..."),
        ("gateway/relay.py", "import redis"),
        ("gateway/exchange.py", "from redis.asyncio import Redis"),
        ("gateway/exchange.py", "import time"),
        ("gateway/identity/x.py", "import litestar"),
        ("gateway/api/x.py", "from opentelemetry import trace"),
        ("gateway/relay.py", "from gateway.exchange import Exchange"),
        ("gateway/store/door.py", "from gateway import exchange"),
        ("gateway/ledger/x.py", "from gateway.upstream import fleet"),
        ("gateway/server.py", "from gateway.cli import main"),
    ],
)
def test_a_planted_forbidden_import_is_found(place, source):
    """The machine keeps the rules, not the reviewer."""
    assert violations(place, source)


def test_every_room_has_a_rank():
    """A new file in `gateway` must say where it stands."""
    rooms = {path.name.removesuffix(".py") for path in (ROOT / "gateway").iterdir() if not path.name.startswith("_")}

    assert rooms == {room for rank in RANKS for room in rank}


def test_every_source_file_has_its_test_file():
    """Of the same name, in the same place."""
    missing = [
        str(path.relative_to(ROOT))
        for path in sources()
        if path.name != "__init__.py"
        and path.parent.name != "dialects"  # data, one engine a file; tests/policies/dialects tests them as a table
        and not (ROOT / "tests" / path.relative_to(ROOT).with_name(f"test_{path.name}")).exists()
    ]

    assert missing == []
