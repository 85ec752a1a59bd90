"""The configuration file of a command: `FILE`, or `--config FILE`.

Law: it is named in one way at a time, so that nobody has to guess which of two counts.
"""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def config_file(text: str) -> Callable[[Command], Command]:
    """Add the argument and the option to a command, which gets `config`, None for none; `text`: the option's help."""

    def decorate(command: Command) -> Command:
        @wraps(command)
        def run(*, file: Path | None, config: Path | None, **values: Any) -> Any:  # noqa: ANN401 - any command's
            if file is not None and config is not None:
                raise click.UsageError("FILE and --config name one file in two ways: give one of them.")
            return command(**values, config=config or file)

        option = click.option("--config", type=click.Path(path_type=Path), help=text)
        argument = click.argument("file", required=False, type=click.Path(path_type=Path))
        return argument(option(cast(Command, run)))

    return decorate
