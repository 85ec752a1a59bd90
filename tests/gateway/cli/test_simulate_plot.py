import struct
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from gateway.cli.simulate_plot import PlotError, check_plot, plot
from tests.gateway.cli.simulated import came_to, ran

FOUND = [ran("as it is", came_to(0.5), came_to(0.6)), ran("+1 replica", came_to(0.7), came_to(0.9))]


def test_a_png_is_a_picture_of_some_size(tmp_path):
    """Told by its own head."""
    path = tmp_path / "answer.png"
    plot(FOUND, path)
    content = path.read_bytes()

    assert content.startswith(b"\x89PNG\r\n")
    assert all(side > 300 for side in struct.unpack(">II", content[16:24]))


def test_an_svg_names_the_cases(tmp_path):
    """As XML that can be read, with something drawn."""
    path = tmp_path / "answer.svg"
    plot(FOUND, path)
    root = ET.parse(path).getroot()

    assert root.tag.endswith("svg")
    assert float(root.get("width").removesuffix("pt")) > 300
    assert "+1 replica" in path.read_text()
    assert sum(1 for _ in root.iter("{http://www.w3.org/2000/svg}path")) > 20


def test_where_it_cannot_be_drawn_is_found_out_first(tmp_path):
    """A wrong name or folder is told before minutes of simulating."""
    with pytest.raises(PlotError, match=r"\.svg or \.png"):
        check_plot(Path("answer.jpg"))
    with pytest.raises(PlotError, match="make it first"):
        check_plot(tmp_path / "nowhere" / "answer.svg")
    check_plot(tmp_path / "answer.svg")
    check_plot(None)
