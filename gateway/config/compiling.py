"""From the file's rows to the run-time settings.

Law: rows come here only when nothing is wrong with them, so nothing is checked and nothing can fail. Every default that
depends on another setting is applied here, and names become the things they name.
"""

from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path

from msgspec.structs import replace

from gateway.config.checks import model_names
from gateway.config.schema import BackendRow, DeploymentRow, FileRow, ListenRow, ModelRow, PriceRow, StoreRow
from gateway.config.settings import (
    STANDARD,
    Backend,
    Limits,
    Listen,
    Organization,
    Settings,
    Shutdown,
    StoreSettings,
    Telemetry,
    Tls,
    default_price,
)
from policies.dialects import tokenizer_of
from policies.domain import Deadlines, Deployment, Model, Plan, Price

DEFAULT_DATA_DIR = Path("data")
"""Where a file without `store.data_dir` keeps its data, beside the file."""


def compile_file(
    file: FileRow, folder: Path, digest: str, files: tuple[Path, ...], held: Mapping[Path, str]
) -> Settings:
    """Return the settings of a faultless file; `folder` is the file's own.

    `files`: as in `Settings`; `held`: of those that it refers to, a digest of what they hold.
    """
    taken = model_names(file.models or {})
    plans = {STANDARD.name: STANDARD} | {name: row.plan(name, taken) for name, row in file.plans.items()}
    backends = {name: _backend(name, row, held) for name, row in file.backends.items()}
    return Settings(
        listen=_listen(file.listen),
        operations=Listen(host=file.operations.host, port=file.operations.port),
        admin_key=file.admin_key,
        admin_on=file.admin.on,
        store=_store(file.store, folder),
        limits=Limits(
            body=file.limits.body,
            buffered_total=file.limits.buffered_total,
            open_calls=file.limits.open_calls,
            body_deadline=file.limits.body_deadline,
            connections=file.limits.connections,
            connections_per_address=file.limits.connections_per_address,
            waiting_calls=file.limits.waiting_calls,
        ),
        shutdown=Shutdown(pause=file.shutdown.pause, grace=file.shutdown.grace),
        backends=tuple(backends.values()),
        models=None
        if file.models is None
        else tuple(_model(name, row, backends, taken) for name, row in file.models.items()),
        plans=plans,
        organizations={
            name: Organization(
                plan=_carried(row.plan, plans),
                teams={team: _carried(team_row.plan, plans) for team, team_row in row.teams.items()},
                time_zone=row.time_zone,
            )
            for name, row in file.organizations.items()
        },
        issuers=tuple(
            replace(row.compiled(name), ca_digest=_digest_of(row.ca, held)) for name, row in file.issuers.items()
        ),
        telemetry=Telemetry(otlp_endpoint=file.telemetry.otlp_endpoint, sample=file.telemetry.sample),
        digest=digest,
        files=files,
    )


def _listen(row: ListenRow) -> Listen:
    """Return the callers' address."""
    return Listen(
        host=row.host,
        port=row.port,
        tls=None if row.tls is None else Tls(cert=row.tls.cert, key=row.tls.key),
        trusted_proxies=tuple(ip_network(item.name) for item in row.trusted_proxies),
        cors=tuple(item.name for item in row.cors),
    )


def _store(row: StoreRow, folder: Path) -> StoreSettings:
    """Return where the ledger lives."""
    return StoreSettings(
        url=row.url,
        data_dir=row.data_dir or folder / DEFAULT_DATA_DIR,
        when_down=row.when_down,
        allow_eviction=row.allow_eviction,
        identity_grace=row.identity_grace,
        deadline=row.deadline,
    )


def _carried(name: str | None, plans: dict[str, Plan]) -> Plan | None:
    """Return the plan of a level, None where it has none."""
    return None if name is None else plans[name]


def _digest_of(ca: Path | None, held: Mapping[Path, str]) -> str:
    """Return the digest of authorities, empty where there are none."""
    return "" if ca is None else held.get(ca, "")


def _backend(name: str, row: BackendRow, held: Mapping[Path, str]) -> Backend:
    """Return one backend."""
    return Backend(
        name=name,
        kind=row.kind,
        base_url=row.base_url,
        api_key=row.api_key,
        transport=row.transport,
        ca=row.ca,
        max_connections=row.max_connections,
        max_in_flight=row.max_in_flight,
        requests_per_minute=row.requests_per_minute,
        probe_every=row.probe_every,
        discover=row.discover,
        list_file=row.list,
        told_hosted=row.hosted,
        ca_digest=_digest_of(row.ca, held),
    )


def _model(name: str, row: ModelRow, backends: dict[str, Backend], taken: dict[str, str]) -> Model:
    """Return one model; its fallbacks go by their models' own names."""
    return Model(
        name=name,
        aliases=tuple(alias.name for alias in row.aliases),
        deployments=tuple(_deployment(one, backends[one.backend]) for one in row.deployments),
        fallbacks=tuple(taken[fallback.name] for fallback in row.fallbacks),
        routing=row.routing.terms(),
        deadlines=Deadlines(
            total=row.deadlines.total,
            first_content=row.deadlines.first_content,
            stall=row.deadlines.stall,
            keep_alive=row.deadlines.keep_alive,
        ),
        on_stream_failure=row.on_stream_failure,
        told=frozenset(row.routing.lines),
    )


def _deployment(row: DeploymentRow, backend: Backend) -> Deployment:
    """Return one deployment; unpriced it costs nothing on own machines, and who knows what elsewhere."""
    return Deployment(
        backend=row.backend,
        kind=backend.kind,
        model=row.model,
        context_window=row.context_window,
        modalities=frozenset(item.name for item in row.modalities or ()) or frozenset({"text"}),
        price=default_price(backend.kind) if row.price is None else _price(row.price),
        tokenizer=row.tokenizer or tokenizer_of(backend.kind, row.model),
        hosted=backend.hosted,
        max_in_flight=backend.max_in_flight,
        weight=row.weight,
    )


def _price(row: PriceRow) -> Price:
    """Return what tokens cost."""
    return Price(input=row.input, output=row.output, cached_input=row.cached_input, reasoning=row.reasoning)
