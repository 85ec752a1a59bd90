from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from gateway.cli.config_file import config_file


@click.command()
@config_file("Which.")
@click.option("--other")
def command(*, config, other):
    click.echo(repr((config, other)))


@pytest.mark.parametrize(
    ("arguments", "config"),
    [([], None), (["a.yaml"], Path("a.yaml")), (["--config", "a.yaml"], Path("a.yaml"))],
)
def test_a_file_is_named_with_the_option_or_without(arguments, config):
    """Or not at all; other options are as they were."""
    done = CliRunner().invoke(command, [*arguments, "--other", "x"])

    assert (done.exit_code, done.stdout) == (0, f"{(config, 'x')!r}\n")


def test_a_file_that_is_named_in_two_ways_is_refused():
    """One of them would be ignored."""
    done = CliRunner().invoke(command, ["a.yaml", "--config", "b.yaml"])

    assert done.exit_code == 2
    assert "FILE and --config name one file in two ways" in done.stderr
