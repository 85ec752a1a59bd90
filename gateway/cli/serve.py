"""`sluiceway serve`: run the gateway until it is told to stop."""

import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

import click
import uvloop

from gateway import clock, logs, server
from gateway.config.loading import builtin, load
from gateway.config.mistakes import ConfigError
from gateway.config.settings import Settings
from gateway.store.door import StoreDown
from gateway.store.embedded import DataDirLocked
from gateway.store.preconditions import UnfitStore
from gateway.tls import CertificateError

NOTHING = """\
Nothing to serve: no backend is configured and no local engine answers on its usual port.
Do one of these:
  - set NVIDIA_API_KEY to use the hosted NVIDIA endpoint;
  - start an engine (vLLM on 8000, SGLang on 30000, llama.cpp on 8080, LM Studio on 1234);
  - write a file that names your backends and pass it with --config."""


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help="The configuration file; without one: see README.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the embedded store lives.  [default: data]")
def command(config: Path | None, data_dir: Path | None) -> None:
    """Run the gateway until SIGTERM or SIGINT; the second one cuts calls that are still open."""
    if config is not None and data_dir is not None:
        raise click.UsageError("--data-dir goes without --config; in a file it is `store: {data_dir: DIR}`.")
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to renew
    logs.configure()
    settings = _settings(config, data_dir or Path("data"))
    try:
        uvloop.run(_serve(settings, discover=config is None))
    except server.NothingToServeError:
        _fail(NOTHING)
    except (OSError, StoreDown, UnfitStore, DataDirLocked, CertificateError) as error:
        _fail(f"sluiceway cannot start: {error}")


def _settings(config: Path | None, data_dir: Path) -> Settings:
    if config is None:
        return builtin(os.environ, data_dir)
    try:
        return load(config, os.environ)
    except ConfigError as error:
        _fail("\n".join(map(str, error.mistakes)))
    except OSError as error:
        _fail(f"{config} cannot be read: {error.strerror}")


async def _serve(settings: Settings, *, discover: bool) -> None:
    signals = server.Signals()
    running = await server.start(settings, discover=discover)
    signals.on_hangup(running.renew)
    services = running.gateway.services
    click.echo(f"Sluiceway listens on {running.url} (operations: {running.operations_url})")
    click.echo(f"  backends: {', '.join(services.fleet.homes) or 'none'}")
    click.echo(f"  models:   {', '.join(model.name for model in services.catalog.models[:12]) or 'none listed yet'}")
    if settings.admin_key is None:
        click.echo(f"  admin key: {server.admin_key_path(settings.store.data_dir)}")
    sys.stdout.flush()
    await signals.first.wait()
    open_calls = services.intake.open_calls
    if open_calls:
        click.echo(
            f"Stopping: {open_calls} open calls get up to {server.GRACE} s; a second signal cuts them.", err=True
        )
    cutting = clock.spawn(signals.when_again(running.cut), "cut-on-second-signal")
    await running.stop()
    cutting.cancel()


def _fail(message: str) -> NoReturn:
    click.echo(message, err=True)
    raise SystemExit(2)
