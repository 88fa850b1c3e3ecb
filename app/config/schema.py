"""The shape of the configuration: every key with its type, default, bounds and description. `model_schema` has those of a model.

`docs/configuration.md` is generated from the descriptions. No key is added here without one.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from app.config.kinds import (
    Bytes,
    Digest,
    FieldName,
    Name,
    Port,
    Seconds,
    Section,
    Share,
    Texts,
    Timeout,
    flags_url,
    listed,
    store_url,
    webhook_url,
)
from app.config.model_schema import ModelSection


class ServerTlsSection(Section):
    certificate: str = Field(
        min_length=1, description="File (PEM) with the certificate, its chain behind it. Read anew at SIGHUP."
    )
    key: str = Field(min_length=1, description="File (PEM) with its private key, without a passphrase.")
    client_ca: str | None = Field(
        default=None,
        min_length=1,
        description="File (PEM) of the authorities whose client certificates are accepted; "
        "then no connection is taken without one.",
    )


class Server(Section):
    host: str = Field(
        default="127.0.0.1", min_length=1, description="Address to listen on; 0.0.0.0 or :: for all."
    )
    port: Port = Field(
        default=8080, description="Port for clients, operators and Prometheus; 0 takes a free one."
    )
    admin_port: Port | None = Field(
        default=None,
        description="A port of its own for API, feedback, metrics and dashboard; then `port` serves model traffic and the probes only. "
        "The command line is told of it with `--url` or `GATEWAY_URL`.",
    )
    workers: int = Field(default=1, ge=1, le=256, description="Proxy processes, about one a core.")
    max_body_bytes: int = Field(
        default=16_777_216, ge=1, description="Largest request body; a larger one is answered 413."
    )
    max_header_bytes: int = Field(
        default=65_536,
        ge=1024,
        description="Largest request or response head; a larger request is answered 431.",
    )
    receive_timeout_s: Timeout = Field(
        default=10.0,
        description="How long a client may take to send its head, and between pieces of its body.",
    )
    drain_s: Seconds = Field(
        default=20.0, description="How long a stopping gateway finishes the requests under way."
    )
    max_inflight: int = Field(
        default=1024, ge=1, description="Requests under way in one worker; beyond it 503 with Retry-After."
    )
    trusted_proxies: Texts = Field(
        default=(), description="Addresses or networks whose X-Forwarded-* fields are believed."
    )
    replay_bytes: Bytes = Field(
        default=1_048_576, description="Largest request body kept for a shadow or a fallback."
    )
    tls: ServerTlsSection | None = Field(
        default=None,
        description="Speak HTTPS (TLS 1.2 or newer) on `port` and `admin_port`; null: plain HTTP.",
    )


class Store(Section):
    url: Annotated[str, AfterValidator(store_url)] = Field(
        default="sqlite:///data/gateway.db",
        description="`sqlite:///FILE` (default: `gateway.db` in `data_dir`; relative paths: to where it starts), "
        "or `postgresql://USER:PASSWORD@HOST/DB`.",
    )


class FlagsSection(Section):
    url: Annotated[str, AfterValidator(flags_url)] = Field(
        default="local://",
        description="`local://` for one host; `redis://HOST:6379/0` or `rediss://` for several; with Sentinel "
        "`redis+sentinel://HOST:26379,HOST:26379/MASTER/0` (or `rediss+sentinel://`).",
    )


class Journal(Section):
    fsync: Literal["interval", "always", "never"] = Field(
        default="interval",
        description="When records are forced to disk: each `fsync_interval_ms`; before each answer; "
        "or when the kernel likes.",
    )
    fsync_interval_ms: int = Field(
        default=100, ge=1, description="For `fsync: interval`: what a power failure may cost."
    )
    on_full: Literal["serve", "refuse"] = Field(
        default="serve",
        description="When the disk is full: serve and count the dropped record, or answer 503.",
    )
    capture_bytes: Bytes = Field(default=65_536, description="How much of each body is kept.")
    max_bytes: int = Field(
        default=1_073_741_824,
        ge=65_536,
        description="Most that records waiting for the store may take on disk.",
    )
    segment_bytes: int = Field(
        default=16_777_216, ge=4096, description="Size at which a new journal file is begun."
    )


class TokenSection(Section):
    name: Name = Field(description="Who it is; stands in the audit log.")
    sha256: Annotated[tuple[Digest, ...], BeforeValidator(listed)] = Field(
        min_length=1,
        max_length=8,
        repr=False,
        description='SHA-256 of the token, 64 hex digits: `printf %s "$TOKEN" | sha256sum`. '
        "A list while a token is being replaced: each is good. `model-gateway token new` makes one; "
        "SIGHUP makes a running gateway read `auth.tokens` again.",
    )
    scopes: Annotated[
        tuple[Literal["read", "feedback", "operate", "admin"], ...], BeforeValidator(listed)
    ] = Field(
        min_length=1,
        description="What it allows: `read`, `feedback`, `operate` (implies read), `admin` (everything).",
    )


class Auth(Section):
    tokens: Annotated[tuple[TokenSection, ...], BeforeValidator(listed)] = Field(
        default=(),
        description="Without any, one with scope admin is made at first start: `data_dir/admin-token`.",
    )


class RegistrySection(Section):
    mlflow_uri: Annotated[str, AfterValidator(webhook_url)] | None = Field(
        default=None, description="An MLflow tracking server, such as http://mlflow:5000; null: none."
    )
    mlflow_token: str | None = Field(
        default=None, min_length=1, repr=False, description="Sent to it as `Authorization: Bearer`."
    )
    poll_s: Timeout = Field(
        default=30.0,
        description="How often its aliases are compared with what is served; a promotion is told at once.",
    )
    timeout_s: Timeout = Field(default=5.0, description="Deadline of a call.")


class TelemetrySection(Section):
    otlp_endpoint: Annotated[str, AfterValidator(webhook_url)] | None = Field(
        default=None,
        description="An OpenTelemetry collector's HTTP address, such as http://otel:4318; null: no spans. "
        "Needs `pip install 'model-gateway[otel]'`.",
    )
    headers: dict[FieldName, str] = Field(
        default={}, repr=False, description="Sent with each export, for a collector that wants a key."
    )
    sample: Share = Field(
        default=1.0,
        description="Share of the traces begun here that are kept; a caller's own decision is followed.",
    )


class WebhooksSection(Section):
    secret_file: str | None = Field(
        default=None,
        min_length=1,
        description="File with the key that signs events for `retraining.webhook`, the same on each host; read anew for each "
        "event. null: each host makes its own at its start, `data_dir/outbox/webhook-secret`.",
    )


class Settings(Section):
    """The whole configuration. Stops at `app.main`: each part receives its own policy."""

    server: Server = Field(default_factory=Server, description="Listening and limits.")
    data_dir: str = Field(
        default="./data",
        min_length=1,
        description="Journal, SQLite file, admin token; relative to the working directory.",
    )
    store: Store = Field(
        default_factory=Store, description="Where predictions, outcomes, flags and the audit log are kept."
    )
    flags: FlagsSection = Field(default_factory=FlagsSection, description="How flags travel between hosts.")
    journal: Journal = Field(default_factory=Journal, description="The append-only log on local disk.")
    auth: Auth = Field(default_factory=Auth, description="Who may use the API.")
    registry: RegistrySection = Field(
        default_factory=RegistrySection, description="A model registry that follows promotions."
    )
    telemetry: TelemetrySection = Field(
        default_factory=TelemetrySection, description="Spans for OpenTelemetry."
    )
    webhooks: WebhooksSection = Field(
        default_factory=WebhooksSection, description="How events for other systems are signed."
    )
    models: dict[Name, ModelSection] = Field(default={}, description="What is served, by name.")

    @model_validator(mode="after")
    def _keep_the_file_in_data_dir(self) -> Self:
        """Without `store.url` the SQLite file follows `data_dir`."""
        if "url" not in self.store.model_fields_set:
            default = Store(url=f"sqlite:///{self.data_dir.removeprefix('./').rstrip('/')}/gateway.db")
            object.__setattr__(self, "store", default)
        return self
