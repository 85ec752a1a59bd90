"""`sluiceway check`: tell everything that is wrong with a file, before it is served.

Law: mistakes go to stdout, one a line; their count and other trouble to stderr. Exit 0: nothing is wrong; 1: the file
has mistakes; 2: there is no file to read.
"""

import os
import sys
from pathlib import Path

import click

from gateway.cli.config_file import config_file
from gateway.config import ConfigError, Settings, load


@click.command("check")
@config_file("The configuration file, in place of FILE.")
def command(*, config: Path | None) -> None:
    """Tell everything that is wrong with a configuration file."""
    if config is None:
        raise click.UsageError("name the file: `sluiceway check FILE`, or with --config FILE.")
    try:
        settings = load(config, os.environ)
    except OSError as error:
        click.echo(f"sluiceway: {config} cannot be read: {error.strerror}", err=True)
        sys.exit(2)
    except ConfigError as error:
        for mistake in error.mistakes:
            click.echo(str(mistake))
        click.echo(f"{_count(len(error.mistakes), 'mistake')} in {config}", err=True)
        sys.exit(1)
    click.echo(f"{config} is right: {_summary(settings)} (configuration {settings.digest})")


def _summary(settings: Settings) -> str:
    """Return what a file defines, in one line."""
    parts = [_count(len(settings.backends), "backend")]
    if settings.models is None:
        parts.append("every model that they list")
    else:
        deployments = sum(len(model.deployments) for model in settings.models)
        parts.append(f"{_count(len(settings.models), 'model')} with {_count(deployments, 'deployment')}")
    parts.append(_count(len(settings.plans), "plan"))
    parts.append(_count(len(settings.organizations), "organization"))
    return ", ".join(parts)


def _count(number: int, noun: str) -> str:
    """Return a number with its noun, plural where it should be."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
