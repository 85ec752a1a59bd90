"""The command `sluiceway`: a table of subcommands, each in a module of its own.

Law: `--help` and `--version` import no subcommand. A module is imported when its command runs, and exposes `command`.
"""

import os
import signal
from collections.abc import Sequence
from importlib import import_module

import click

COMMANDS: dict[str, tuple[str, str]] = {
    "check": ("gateway.cli.check", "Tell everything that is wrong with a configuration file."),
    "serve": ("gateway.cli.serve", "Run the gateway."),
    "demo": ("gateway.cli.demo", "Show the gateway at work on a simulated fleet."),
    "orgs": ("gateway.cli.orgs", "Organizations: what each is held to."),
    "teams": ("gateway.cli.teams", "Teams: what each is held to."),
    "keys": ("gateway.cli.keys", "Create, list, change, rotate and revoke keys."),
    "plans": ("gateway.cli.plans", "Plans that are kept in the store."),
    "apply": ("gateway.cli.apply", "Make plans, organizations and teams as a file says."),
    "backends": ("gateway.cli.backends", "The backends: list, drain and resume them."),
    "explain": ("gateway.cli.explain", "Tell where a call would go right now, and why."),
    "peers": ("gateway.cli.peers", "The gateways that run: version, configuration, load, lag."),
    "tokens": ("gateway.cli.tokens", "Revoke a token before it ends by itself."),
    "audit": ("gateway.cli.audit", "Tell who changed what, and when."),
    "usage": ("gateway.cli.usage", "Tell what organizations, teams and keys have used."),
    "simulate": ("gateway.cli.simulate", "Say what other machines or terms would make of calls."),
    "ledger": ("gateway.cli.ledger", "Check the ledger's counters against its records."),
}
"""Each subcommand: its module, and what it does in one line."""


class LazyGroup(click.Group):
    """A group that knows its subcommands' names and lines without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the subcommands' names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import and return one subcommand, None where there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        if cmd_name == "serve":  # importing it takes a second, in which a container's first process would not hear
            signal.signal(signal.SIGTERM, _leave)
        command: click.Command = import_module(COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """Write the subcommands from the table, where click would import each."""
        rows: Sequence[tuple[str, str]] = [(name, line) for name, (_, line) in COMMANDS.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _leave(*_: object) -> None:
    """End before anything has begun; not by an exception, which whatever is being imported or set up may swallow."""
    os._exit(0)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sluiceway", prog_name="sluiceway")
def main() -> None:
    """One OpenAI-compatible endpoint for all of an organization's models."""
