"""The parts of the configuration that reach beyond a model, each a small frozen value for the part that needs it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ServerTls:
    """Files (PEM) that the gateway shows its clients; with `client_ca` a client must show a certificate of that authority."""

    certificate: str  # with its chain
    key: str
    client_ca: str | None = None


@dataclass(frozen=True, slots=True)
class ServerPolicy:
    host: str = "127.0.0.1"
    port: int = 8080
    admin_port: int | None = None  # None: API and model traffic share the port
    workers: int = 1
    max_body_bytes: int = 16_777_216
    max_header_bytes: int = 65_536
    receive_timeout_s: float = 10.0
    drain_s: float = 20.0
    max_inflight: int = 1024
    trusted_proxies: tuple[str, ...] = ()  # addresses or networks whose X-Forwarded-* are believed
    replay_bytes: int = 1_048_576  # largest request body kept for a shadow or a fallback
    tls: ServerTls | None = None  # None: plain HTTP


@dataclass(frozen=True, slots=True)
class JournalPolicy:
    directory: str
    fsync: str = "interval"  # interval | always (group commit) | never
    fsync_interval_ms: int = 100
    on_full: str = "serve"  # serve (drop the record, count it) | refuse (503)
    capture_bytes: int = 65_536  # of each body
    max_bytes: int = 1_073_741_824
    segment_bytes: int = 16_777_216


@dataclass(frozen=True, slots=True)
class Token:
    name: str
    sha256: str  # 64 hex digits
    scopes: tuple[str, ...]  # read, feedback, operate, admin


@dataclass(frozen=True, slots=True)
class AuthPolicy:
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True, slots=True)
class RegistryPolicy:
    """An MLflow tracking server whose aliases follow production and bring challengers."""

    mlflow_uri: str | None = None  # None: no registry
    mlflow_token: str | None = field(default=None, repr=False)
    poll_s: float = 30.0
    timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class TelemetryPolicy:
    """Where spans go (OTLP over HTTP)."""

    otlp_endpoint: str | None = None  # None: no spans
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    sample: float = 1.0  # of traces begun here


@dataclass(frozen=True, slots=True)
class WebhookPolicy:
    """What signs events for other systems."""

    secret_file: str | None = None  # None: one that this host makes for itself
