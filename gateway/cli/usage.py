"""`sluiceway usage`: what an organization has used, by key and model.

Law: the numbers are the ledger's, through the admin API; nothing is computed here but the sums below the table.
"""

from pathlib import Path
from typing import Literal, TypedDict

import click
import msgspec

from gateway.cli.admin_api import admin_options, connect


class _Total(TypedDict):
    key: str
    model: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    estimated_tokens: int


class _Usage(TypedDict):
    organization: str
    totals: list[_Total]


_COUNTED: tuple[Literal["requests", "prompt_tokens", "completion_tokens", "estimated_tokens"], ...] = (
    "requests",
    "prompt_tokens",
    "completion_tokens",
    "estimated_tokens",
)


@click.command("usage")
@click.option("--org", required=True, help="The organization.")
@admin_options
def command(org: str, url: str, admin_key_file: Path | None, as_json: bool) -> None:
    """Show requests and tokens of an organization, by key and model."""
    usage = connect(url, admin_key_file).ask("GET", "/usage", _Usage, params={"organization": org})
    if as_json:
        click.echo(msgspec.json.encode(usage))
    elif usage["totals"]:
        _show(usage["totals"])
    else:
        click.echo(f"{usage['organization']} has used nothing yet")


def _show(totals: list[_Total]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_footer=True)
    table.add_column("key", "all", overflow="fold")
    table.add_column("model", overflow="fold")
    for name in _COUNTED:
        summed = sum(total[name] for total in totals)
        table.add_column(name.replace("_", " "), f"{summed:,}", justify="right")
    for total in totals:
        table.add_row(Text(total["key"]), Text(total["model"]), *(f"{total[name]:,}" for name in _COUNTED))
    Console().print(table)
