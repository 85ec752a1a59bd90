"""The report as a program: what it writes, and that it goes on where it was broken off."""

import pytest
from click.testing import CliRunner

from tests.simulation.points import LOADS, WORKLOADS, Plan
from tests.simulation.report import main


@pytest.mark.ci
@pytest.mark.timeout(300)
def test_a_report_is_whole_and_is_not_run_again(tmp_path):
    """With runs so short that they say nothing."""
    asked = ["--out", str(tmp_path), "--seeds", "2", "--calls", "100"]
    first = CliRunner().invoke(main, asked)
    runs = tmp_path / "runs.jsonl"
    lines = runs.read_bytes().splitlines(keepends=True)
    page = (tmp_path / "REPORT.md").read_text()

    assert first.exit_code in (0, 1), first.output
    assert len(lines) == len(Plan(2, 100).all())
    assert page.count("holds**: ") + page.count("does not hold**: ") >= 4
    assert all(f"### {workload}" in page for workload in WORKLOADS)
    assert "| load | " + " | ".join(map(str, LOADS)) + " |" in page
    assert all((tmp_path / name).read_text().count("<path") > 20 for name in ("goodput.svg", "curve.svg"))

    runs.write_bytes(b"".join(lines[:-1]) + lines[-1][:30])  # killed in the middle of its last line
    again = CliRunner().invoke(main, asked)

    assert f"{len(lines) - 1} of {len(lines)} runs are in" in " ".join(again.output.split())
    assert sorted(runs.read_bytes().splitlines(keepends=True)) == sorted(lines)
    assert (tmp_path / "REPORT.md").read_text() == page
