"""`sluiceway serve`: run the gateway until it is told to stop."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

import click
import uvloop

from gateway import clock, logs, server
from gateway.cli.config_file import config_file
from gateway.config.loading import builtin, load
from gateway.config.mistakes import ConfigError
from gateway.config.settings import Settings, Shutdown
from gateway.store.door import StoreDown
from gateway.store.embedded import DataDirLocked
from gateway.store.preconditions import UnfitStore
from gateway.tls import CertificateError
from gateway.upstream.scanning import local_engines
from gateway.workers.crew import CannotStart
from gateway.workers.supervisor import Supervisor, supervise

NOTHING = """\
Nothing to serve: no backend is configured and no local engine answers on its usual port.
Do one of these:
  - set NVIDIA_API_KEY to use the hosted NVIDIA endpoint;
  - start an engine (vLLM on 8000, SGLang on 30000, llama.cpp on 8080, LM Studio on 1234);
  - write a file that names your backends and pass it with --config."""


@click.command()
@config_file("The configuration file, in place of FILE; without one: see README.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the embedded store lives.  [default: data]")
@click.option(
    "--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes at one address, a core each."
)
def command(*, config: Path | None, data_dir: Path | None, workers: int) -> None:
    """Run the gateway until SIGTERM or SIGINT; the second one cuts calls that are still open."""
    if config is not None and data_dir is not None:
        raise click.UsageError("--data-dir goes without --config; in a file it is `store: {data_dir: DIR}`.")
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to renew
    logs.configure()
    settings = _settings(config, data_dir or Path("data"))
    if config is None and not settings.backends and not uvloop.run(local_engines()):
        _fail(NOTHING)  # before there is a store, or a key to keep
    try:
        if workers == 1:
            uvloop.run(_serve(settings, config))
        else:
            uvloop.run(_supervise(settings, workers, config))
    except server.NothingToServeError:
        _fail(NOTHING)
    except (OSError, StoreDown, UnfitStore, DataDirLocked, CertificateError, CannotStart) as error:
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


async def _serve(settings: Settings, config: Path | None) -> None:
    signals = server.Signals()
    anew = None if config is None else partial(load, config, os.environ)
    running = await server.start(settings, discover=config is None, load=anew)
    signals.on_hangup(running.hang_up)
    services = running.gateway.services
    click.echo(f"Sluiceway listens on {running.url} (operations: {running.operations_url})")
    models = [model.name for model in services.catalog.models]
    _tell(settings, services.fleet.homes, models, running.gateway.joining.why)
    await signals.first.wait()
    open_calls, how = services.intake.open_calls, running.gateway.settings.shutdown
    if open_calls or how.pause:
        _tell_end(how, f"open ones ({open_calls} now)")
    cutting = clock.spawn(signals.when_again(running.cut), "cut-on-second-signal")
    await running.stop()
    cutting.cancel()


async def _supervise(settings: Settings, workers: int, config: Path | None) -> None:
    """Run several workers; ends the process with 1 where one of them did not end as it should."""
    signals = server.Signals()
    anew = None if config is None else partial(load, config, os.environ)
    starting = clock.spawn(supervise(settings, workers, discover=config is None, load=anew), "start the workers")
    supervisor = await _unless(signals.first, starting)
    if supervisor is None:
        return
    signals.on_hangup(supervisor.hang_up)
    where = f"{supervisor.url} (operations: {supervisor.operations_url})"
    click.echo(f"Sluiceway listens on {where} with {workers} workers")
    told = supervisor.told
    _tell(settings, told.backends, told.models, told.why)
    await signals.first.wait()
    _tell_end(supervisor.settings.shutdown, "open ones")
    cutting = clock.spawn(signals.when_again(supervisor.cut), "cut-on-second-signal")
    well = await supervisor.stop()
    cutting.cancel()
    if not well:
        raise SystemExit(1)


async def _unless(stop: asyncio.Event, starting: asyncio.Task[Supervisor]) -> Supervisor | None:
    """Return what is started; None where a stop was told before it was, which ends it."""
    stopped = clock.spawn(stop.wait(), "stop-during-the-start")
    await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not starting.done():
        click.echo("Stopping: the start had not come to its end.", err=True)
        starting.cancel()
        await asyncio.wait({starting})
    return None if starting.cancelled() else starting.result()


def _tell(settings: Settings, backends: Iterable[str], models: Sequence[str], why: str | None) -> None:
    """Print what is served; `why`: why it is not for now."""
    click.echo(f"  backends: {', '.join(backends) or 'none'}")
    click.echo(f"  models:   {', '.join(models[:12]) or 'none listed yet'}")
    if why is not None:
        click.echo(f"  not ready: {why.removesuffix('.')}; until it is, calls get 503")
    if settings.admin_key is None:
        click.echo(f"  admin key: {server.admin_key_path(settings.store.data_dir)}")
    sys.stdout.flush()


def _tell_end(how: Shutdown, calls: str) -> None:
    pause = f"calls are taken for {how.pause:g} s more, then " if how.pause else ""
    click.echo(f"Stopping: {pause}{calls} get up to {how.grace:g} s; a second signal cuts them.", err=True)


def _fail(message: str) -> NoReturn:
    click.echo(message, err=True)
    raise SystemExit(2)
