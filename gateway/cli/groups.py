"""Groups of subcommands whose list may be asked for as `ls` and as `list`.

Law: both words do the same in every group; one of them is in its help.
"""

import click

_SAME = {"ls": "list", "list": "ls"}


class Group(click.Group):
    """A group of subcommands."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a subcommand by its name, or by the other word for it."""
        return super().get_command(ctx, cmd_name) or super().get_command(ctx, _SAME.get(cmd_name, cmd_name))
