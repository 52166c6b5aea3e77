"""Settings: defaults, then `misstep.toml`, then the environment, then flags; unknown keys are refused.

A key ``[agent] interval`` is ``MISSTEP_AGENT_INTERVAL`` in the environment. Each field's docstring gives unit and reason.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

from misstep.core.client import default_data
from misstep.core.errors import SettingsError


@dataclass(frozen=True)
class AgentSettings:
    """The agent on each node."""

    interval: float = 1.0
    """Seconds between samples of host and known processes."""
    process_table_interval: float = 5.0
    """Seconds between walks of the whole process table."""
    receiver_port: int = 7664
    """Loopback port for Ray's events and for the reports of local applications. Outside 10002-19999, which Ray's workers use."""
    spool_bytes: int = 256 * 1024 * 1024
    """What may wait on disk while no collector answers; metrics are dropped first, events last."""
    spool_age: float = 24 * 3600.0
    """Seconds after which what waits is dropped."""
    kernel_log: str = "/dev/kmsg"
    """Where kernel records are read; a file of recorded lines serves for tests."""
    nvml_library: str = "libnvidia-ml.so.1"
    """NVIDIA's management library: a name for the loader, or a path."""
    kubelet_socket: str = "/var/lib/kubelet/pod-resources/kubelet.sock"
    """Where kubelet says which GPU it gave to which container; empty means that it is not asked."""
    ray_folder: str = ""
    """Only Ray sessions below this folder are watched; empty means every Ray of this machine."""
    torch_folder: str = ""
    """Where ranks of torch put their sockets, and the only folder that is looked into; empty means this user's own, for root everybody's. It is short: a socket's path ends at 107 bytes."""
    nccl_ras_interval: float = 60.0
    """Seconds between questions to NCCL's RAS about a job, 10 while it stands still; asked from NCCL 2.28.7 on. 0 never asks."""
    ray_scrape_interval: float = 10.0
    """Seconds between scrapes; Ray itself refreshes its metrics each 10 s."""
    ray_poll_interval: float = 2.0
    """Seconds between questions to a Ray dashboard whose cluster sends no events, and for the status of jobs."""


@dataclass(frozen=True)
class CollectorSettings:
    """The collector."""

    host: str = "127.0.0.1"
    """Address to listen on. Anything off loopback needs a token and TLS."""
    port: int = 7663
    """Our API; OTLP is taken here too."""
    otlp_port: int = 4318
    """OTLP over HTTP, where SDKs look for it."""
    grpc_port: int = 4317
    """OTLP over gRPC, where SDKs look for it."""
    body_limit: int = 64 * 1024 * 1024
    """Bytes of one request after decompression, as the OTLP specification recommends."""
    series_limit: int = 1_000_000
    """Live series; a request's series beyond it are rejected, counted and reported to the sender."""
    items_per_request: int = 1_000_000
    """Points (with their buckets), records or spans of one request: two bytes of a hostile one can be a point of a hundred in memory."""
    series_per_tenant: int = 0
    """Live series of one token, or of one local user without one; 0 for any number."""
    series_per_request: int = 50_000
    """New series that one request may bring."""
    labels_per_series: int = 40
    """Labels of one series, name excluded."""
    label_length: int = 4096
    """Bytes of one label value."""
    requests_per_second: float = 0.0
    """Requests with telemetry that one token, or one local user without one, may send, ten seconds' worth at once; beyond it they are told to wait. 0 for any number."""
    trust_user: tuple[str, ...] = ()
    """Local users besides the owner and root whose loopback connections need no token."""
    allow_host: tuple[str, ...] = ()
    """Names under which the collector may be addressed, besides loopback and its own address (against DNS rebinding)."""
    sql_seconds: float = 30.0
    """Seconds that one SQL statement of a user may take; then its process is killed."""
    sql_memory: int = 1024 * 1024 * 1024
    """Bytes of memory that it may take."""
    sql_rows: int = 10_000
    """Rows of its answer; the answer says whether there were more."""
    tls_certificate: str = ""
    """PEM file with the certificate and its chain; empty means plain HTTP, which stays on loopback."""
    tls_key: str = ""
    """PEM file with the certificate's key."""


@dataclass(frozen=True)
class StoreSettings:
    """Journal, hot tables and lake."""

    seal_interval: float = 30.0
    """Seconds between seals of hot chunks into the lake."""
    seal_bytes: int = 64 * 1024 * 1024
    """Journal bytes after which a seal comes early."""
    hot_bytes: int = 1024 * 1024 * 1024
    """Memory for sealed chunks that are kept because nearly every question asks about the last hour."""
    recent_bytes: int = 256 * 1024 * 1024
    """Memory for samples that queries asked for lately, laid out by series; 0 keeps none."""
    query_bytes: int = 0
    """Memory of the database in all, hot tables included; beyond it questions spill to disk. 0 means half of the machine's."""
    samples_days: float = 30.0
    """Days for which samples and exemplars are kept, counted from their receipt; 0 for ever."""
    logs_days: float = 90.0
    """Days for which log lines and events are kept; 0 for ever. Incidents are always kept."""
    spans_days: float = 14.0
    """Days for which spans are kept; 0 for ever."""
    samples_bytes: int = 0
    """Bytes that samples may take in the lake, oldest deleted first; 0 for any number."""
    logs_bytes: int = 0
    """The same for log lines and events."""
    spans_bytes: int = 0
    """The same for spans."""
    lake_bytes: int = 0
    """Bytes that the lake may take in all; beyond it the oldest samples go first, then spans, then logs. 0 means by `lake_share`."""
    lake_share: float = 0.5
    """Share of the disk that an embedded lake may take; a shared one is bounded by `lake_bytes` alone."""
    catalog: str = field(default="", repr=False)
    """Connection string of a PostgreSQL that several collectors share as catalog; empty means a SQLite file in the data folder."""
    data: str = ""
    """Where the lake's files lie: a folder, or `s3://bucket/prefix` with credentials in the `AWS_` variables; empty means in the data folder."""
    address: str = ""
    """URL at which the other collectors reach this one; by default where it listens."""


@dataclass(frozen=True)
class Settings:
    """All settings of one process."""

    data: Path = field(default_factory=default_data)
    """Folder for journal, lake, spool and endpoint file."""
    site: str = "local"
    """First part of every session's name: the place these machines stand."""
    collector_url: str = ""
    """Where agent and commands find the collector; empty means the endpoint file of this machine."""
    token: str = ""
    """Bearer token for the collector; needed off loopback."""
    agent: AgentSettings = field(default_factory=AgentSettings)
    collector: CollectorSettings = field(default_factory=CollectorSettings)
    store: StoreSettings = field(default_factory=StoreSettings)


def load(
    path: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> Settings:
    """Read the settings.

    Args:
        path: a settings file that must exist; without it ``./misstep.toml`` and then
            ``$XDG_CONFIG_HOME/misstep/misstep.toml`` are read if there.
        environ: the environment, by default this process's.
        overrides: flags, keyed ``data`` or ``collector.port``; None values are left out.

    Raises:
        SettingsError: a key is unknown (with the nearest valid one) or a value has the wrong type.
    """
    environ = os.environ if environ is None else environ
    settings = Settings()
    source = path or next((p for p in _default_paths(environ) if p.is_file()), None)
    if source is not None:
        for key, value in _flatten(_read(source)):
            settings = _set(settings, key, value, str(source))
    by_variable = {"MISSTEP_" + key.upper().replace(".", "_"): key for key in keys()}
    for variable, key in by_variable.items():
        if variable in environ:
            settings = _set(settings, key, environ[variable], variable)
    for key, value in (overrides or {}).items():
        if value is not None:
            settings = _set(settings, key, value, "command line")
    return settings


def keys() -> list[str]:
    """Every key as it is written with its table, for example ``collector.port``."""
    found: list[str] = []
    for top in fields(Settings):
        nested = getattr(Settings(), top.name)
        found += [f"{top.name}.{f.name}" for f in fields(nested)] if is_dataclass(nested) else [top.name]
    return found


def _default_paths(environ: Mapping[str, str]) -> list[Path]:
    home = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME", "/")) / ".config")
    return [Path("misstep.toml"), Path(home) / "misstep" / "misstep.toml"]


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not TOML: {error}") from error


def _flatten(table: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in table.items():
        found += _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return found


def _set(settings: Settings, key: str, value: object, source: str) -> Settings:
    known = keys()
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"
        raise SettingsError(f"{source}: unknown setting {key!r}{hint}")
    table, _, name = key.rpartition(".")
    if not table:
        return replace(settings, **{name: _convert(Settings, key, name, value, source)})
    part = getattr(settings, table)
    return replace(
        settings, **{table: replace(part, **{name: _convert(type(part), key, name, value, source)})}
    )


def _convert(owner: type, key: str, name: str, value: object, source: str) -> Any:
    kind = get_type_hints(owner)[name]
    try:
        if kind is bool:
            raise TypeError
        if kind in (int, float) and isinstance(value, (str, int, float)) and not isinstance(value, bool):
            number = kind(value)
            if number < 0:
                raise ValueError
            return number
        if kind is Path and isinstance(value, (str, Path)):
            return Path(value).expanduser()
        if kind is str and isinstance(value, str):
            return value
        if kind == tuple[str, ...] and isinstance(value, (str, list, tuple)):
            return tuple(value.split(",")) if isinstance(value, str) else tuple(str(v) for v in value)
    except (TypeError, ValueError):
        pass
    expected = "a number, 0 or more" if kind in (int, float) else getattr(kind, "__name__", str(kind))
    raise SettingsError(f"{source}: {key} = {value!r} is not {expected}")
