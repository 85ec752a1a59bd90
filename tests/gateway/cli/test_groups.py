from importlib import import_module

import click
import pytest
from click.testing import CliRunner

from gateway.cli import COMMANDS, main
from gateway.cli.groups import Group

GROUPS = ("orgs", "teams", "keys", "plans", "backends", "tokens")


def test_every_group_of_records_is_one():
    """Which those are stands here, since the others are no lists."""
    assert all(isinstance(import_module(COMMANDS[name][0]).command, Group) for name in GROUPS)


@pytest.mark.parametrize("name", GROUPS)
def test_every_list_is_ls_and_list(name):
    """Nobody has to remember which group has which."""
    group = import_module(COMMANDS[name][0]).command
    context = click.Context(group)
    if group.get_command(context, "ls") is None:
        assert group.get_command(context, "list") is None
    assert group.get_command(context, "ls") is group.get_command(context, "list")


@pytest.mark.parametrize("name", GROUPS)
def test_every_subcommand_has_a_line_and_a_page_of_help(name):
    """And takes `--json`, `--url` and `--admin-key-file`."""
    group = import_module(COMMANDS[name][0]).command
    for sub, command in group.commands.items():
        page = CliRunner().invoke(main, [name, sub, "--help"])
        assert page.exit_code == 0
        assert command.get_short_help_str()
        assert all(option in page.stdout for option in ("--json", "--url", "--admin-key-file"))


def test_a_word_that_is_no_subcommand_is_refused():
    """With those there are."""
    result = CliRunner().invoke(main, ["keys", "lst"])

    assert result.exit_code == 2
    assert "No such command 'lst'" in result.stderr
