"""The shape of the configuration: every key with its type, default, bounds and description.

`docs/configuration.md` is generated from the descriptions. No key is added here without one.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from app.config.masking import masked
from app.errors import InvalidError
from app.protocols.json_paths import compile_key_path, compile_path

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_TOKEN = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"  # noqa: S105  # a field name, RFC 9110 section 5.6.2

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Seconds = Annotated[float, Field(ge=0.0)]
Timeout = Annotated[float, Field(gt=0.0)]
Bytes = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(pattern=NAME)]
FieldName = Annotated[str, Field(pattern=_TOKEN)]
Digest = Annotated[str, Field(pattern=r"^[0-9A-Fa-f]{64}$")]
Port = Annotated[int, Field(ge=0, le=65535)]


def _fault(what: str) -> PydanticCustomError:
    return PydanticCustomError("fault", "{what}", {"what": what})


def _listed(value: object) -> object:
    """A single value stands for a list of one; YAML knows lists, frozen settings hold tuples."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _upstream_url(url: str) -> str:
    """RFC 3986: http, https, or unix with an absolute path; no credentials, query or fragment."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _fault(f"is no URL ({error}); write one such as http://127.0.0.1:9001") from None
    if not url.isascii() or not url.isprintable() or " " in url:
        raise _fault("has characters that no URL has; percent-encode them")
    if parts.scheme == "unix":
        if parts.netloc or not parts.path.strip("/"):
            raise _fault("names no socket; write unix:///absolute/path/to.sock")
        return url
    if parts.scheme not in ("http", "https"):
        raise _fault(f"has the scheme {parts.scheme or 'none'!r}; use http, https or unix")
    if not parts.hostname:
        raise _fault("has no host; write one such as http://127.0.0.1:9001")
    if port == 0:
        raise _fault("has port 0, which cannot be connected to; name the model server's port")
    if "@" in parts.netloc:
        raise _fault("holds a user or password, which is not sent on; remove it")
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        raise _fault("has a query or a fragment; only a path prefix can be given")
    return url


def _store_url(url: str) -> str:
    scheme, found, rest = url.partition("://")
    if scheme == "postgres" and found:
        raise _fault("has the scheme 'postgres'; write postgresql://")
    if scheme not in ("sqlite", "postgresql") or not found:
        raise _fault(
            f"has the scheme {scheme if found else 'none'!r}; use sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DB"
        )
    if scheme == "sqlite" and (not rest.startswith("/") or len(rest) < 2):
        raise _fault("names no file; write sqlite:///relative/file.db or sqlite:////absolute/file.db")
    if scheme == "postgresql":
        _network_url(url, database=True)
    return url


def _flags_url(url: str) -> str:
    scheme, found, rest = url.partition("://")
    if scheme not in ("local", "redis", "rediss") or not found:
        raise _fault(f"has the scheme {scheme if found else 'none'!r}; use local:// or redis://HOST:6379/0")
    if scheme == "local" and rest:
        raise _fault("has something after local://; remove it")
    if scheme != "local":
        _network_url(url, database=False)
    return url


def _network_url(url: str, *, database: bool) -> None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise _fault(
            f"is no URL ({masked(str(error))}); percent-encode special characters of the password"
        ) from None
    if not parts.hostname and not (database and "host=" in parts.query):
        raise _fault("has no host; name the server")
    if database and not parts.path.strip("/"):
        raise _fault("names no database; add it after the host, as in postgresql://HOST/gateway")


def _webhook_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise _fault(
            f"is no URL ({masked(str(error))}); write one such as https://example.org/hook"
        ) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _fault("is no http or https URL; write one such as https://example.org/hook")
    return url


def _json_path(path: str) -> str:
    try:
        compile_path(path)
    except InvalidError as error:
        raise _fault(f"cannot be used ({error}); write one such as $.features") from None
    return path


def _key_path(path: str) -> str:
    try:
        compile_key_path(path)
    except InvalidError as error:
        raise _fault(f"cannot be used ({error}); write one such as $.user_id") from None
    return path


def _ascending(stages: tuple[float, ...]) -> tuple[float, ...]:
    if not stages:
        raise _fault("has no stage; give at least one, such as [5, 25, 100]")
    for before, after in pairwise(stages):
        if after <= before:
            raise _fault(
                f"is not ascending: {after:g} follows {before:g}; list each percentage once, in rising order"
            )
    return stages


JsonPathText = Annotated[str, AfterValidator(_json_path)]
UpstreamUrl = Annotated[str, AfterValidator(_upstream_url)]
Names = Annotated[tuple[Name, ...], BeforeValidator(_listed)]
Texts = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_listed)]


class Section(BaseModel):
    """Strict types, no unknown key, no change after it was read; credentials never show in a repr."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        validate_default=False,
    )

    def __repr_args__(self) -> Any:
        for name, value in super().__repr_args__():
            yield name, masked(value) if isinstance(value, str) else value


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
        description="A port of its own for the API and dashboard; then `port` serves model traffic only.",
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
    url: Annotated[str, AfterValidator(_store_url)] = Field(
        default="sqlite:///data/gateway.db",
        description="`sqlite:///FILE` (default: `gateway.db` in `data_dir`; relative paths: to where it starts), "
        "or `postgresql://USER:PASSWORD@HOST/DB`.",
    )


class FlagsSection(Section):
    url: Annotated[str, AfterValidator(_flags_url)] = Field(
        default="local://",
        description="`local://` for one host; `redis://HOST:6379/0` or `rediss://` for several.",
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
    sha256: Annotated[tuple[Digest, ...], BeforeValidator(_listed)] = Field(
        min_length=1,
        max_length=8,
        repr=False,
        description='SHA-256 of the token, 64 hex digits: `printf %s "$TOKEN" | sha256sum`. '
        "A list while a token is being replaced: each is good. `model-gateway token new` makes one; "
        "SIGHUP makes a running gateway read `auth.tokens` again.",
    )
    scopes: Annotated[
        tuple[Literal["read", "feedback", "operate", "admin"], ...], BeforeValidator(_listed)
    ] = Field(
        min_length=1,
        description="What it allows: `read`, `feedback`, `operate` (implies read), `admin` (everything).",
    )


class Auth(Section):
    tokens: Annotated[tuple[TokenSection, ...], BeforeValidator(_listed)] = Field(
        default=(),
        description="Without any, one with scope admin is made at first start: `data_dir/admin-token`.",
    )


class MatchSection(Section):
    path_prefix: str = Field(
        default="/",
        description="Whole segments that begin the path; the longest wins, after the gateway's own.",
    )
    strip: bool = Field(default=False, description="Take the prefix off before forwarding.")
    host: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._:\[\]-]+$",
        description="Only requests to this host, with or without port.",
    )
    header: dict[FieldName, str] = Field(
        default={}, description="Only requests with these header fields, by name and exact value."
    )


class Extract(Section):
    features: JsonPathText | None = Field(
        default=None, description="Where the features stand in the request body, such as `$.features`."
    )
    prediction: JsonPathText | None = Field(
        default=None, description="Where the prediction stands in the response body."
    )
    confidence: JsonPathText | None = Field(
        default=None, description="Where the confidence (0..1) stands in the response body."
    )


class RoutingKeySection(Section):
    header: FieldName | None = Field(default=None, description="The value of this request header.")
    cookie: FieldName | None = Field(default=None, description="The value of this cookie.")
    query: str | None = Field(default=None, min_length=1, description="The value of this query parameter.")
    json_path: Annotated[str, AfterValidator(_key_path)] | None = Field(
        default=None,
        alias="json",
        description="The value at this path of the JSON request body, such as `$.user_id`.",
    )


class VersionSection(Section):
    url: Annotated[tuple[UpstreamUrl, ...], BeforeValidator(_listed)] = Field(
        min_length=1,
        description="Where it answers: `http://`, `https://`, `unix:///socket`; a list for equal replicas.",
    )
    timeout_s: Timeout = Field(default=30.0, description="Deadline of the whole exchange.")
    connect_timeout_s: Timeout = Field(default=0.5, description="Deadline of connecting.")
    metadata: dict[str, str] = Field(default={}, description="Free text shown with the version.")


class ShadowSection(Section):
    versions: Names = Field(
        default=(), description="Versions that receive a copy of each request after its answer has left."
    )
    sample: Share = Field(default=1.0, description="Share of requests that are copied.")
    max_concurrency: int = Field(
        default=64,
        ge=1,
        description="Copies under way in one worker; beyond it a copy is dropped and counted.",
    )
    timeout_s: Timeout = Field(default=5.0, description="Deadline of a copy.")
    agreement_threshold: float = Field(
        default=0.05, ge=0.0, description="Two numeric predictions that differ by no more agree."
    )
    noise_sample: Share = Field(
        default=0.01,
        description="Share of requests that production answers twice while it is compared with a shadow or a canary: "
        "how much it differs from itself.",
    )


class ControlSection(Section):
    sample: Share = Field(
        default=1.0,
        description="Share of canary requests also sent to production, to compare both on the same input.",
    )
    max_share: Share = Field(default=0.1, description="Most of production's load that this may add.")
    mode: Literal["after", "concurrent"] = Field(
        default="after",
        description="After the canary's answer, or together with the request (makes a fallback instant).",
    )


class CanarySection(Section):
    stages: Annotated[
        tuple[Annotated[float, Field(gt=0.0, le=100.0)], ...],
        BeforeValidator(_listed),
        AfterValidator(_ascending),
    ] = Field(
        default=(5.0, 10.0, 25.0, 50.0, 100.0),
        description="Percentages of the traffic, ascending; after the last one the candidate is promoted.",
    )
    dwell_s: Seconds = Field(default=3600.0, description="Least time in a stage.")
    min_requests: int = Field(
        default=500, ge=0, description="Least number of the candidate's requests in a stage."
    )
    fallback: Literal["production", "none"] = Field(
        default="production", description="Who answers when the canary fails: production, or nobody else."
    )
    watch_s: Seconds = Field(
        default=3600.0, description="How long a promoted version can still be rolled back automatically."
    )
    control: ControlSection = Field(default_factory=ControlSection, description="The control mirror.")


class GuardSection(Section):
    error_rate: Share = Field(
        default=0.05, description="Above this share of errors in the window the candidate stops."
    )
    latency_p99_ms: float = Field(
        default=500.0, gt=0.0, description="Above this 99th percentile in the window the candidate stops."
    )
    window: int = Field(default=100, ge=1, le=1_000_000, description="Requests in the window.")
    min_requests: int = Field(default=20, ge=1, description="The guard says nothing before this many.")
    mode: Literal["off", "advisory", "enforce_if_worse", "enforce"] = Field(
        default="enforce_if_worse",
        description="Say nothing; say it; act if the candidate is also worse than production; always act.",
    )


class EvidenceSection(Section):
    alpha: float = Field(
        default=1e-4,
        gt=0.0,
        lt=1.0,
        description="Bound on the probability that a candidate no worse than production is ever rolled back.",
    )
    margin: float = Field(
        default=1.0, ge=1.0, description="How many times worse than production is accepted."
    )
    unit: Literal["request", "key"] = Field(
        default="request", description="One vote a request, or one a routing key an epoch."
    )
    floor: Share = Field(default=0.0, description="Error rate that is always accepted.")
    labels: tuple[Literal["accuracy", "brier", "log_loss", "absolute_error", "auc", "f1"], ...] = Field(
        default=(),
        description="What mature labels are compared by; empty: accuracy, or the absolute error of a regression.",
    )
    f1_goal: float | None = Field(
        default=None, gt=0.0, lt=1.0, description="Least F1 of a candidate, for `labels: [f1]`."
    )
    min_labels: int = Field(
        default=0,
        ge=0,
        description="Mature labels of the candidate before it leaves its shadow, and before it is promoted.",
    )
    same_answers: bool = Field(
        default=False,
        description="The candidate is meant to answer as production does: severe differences count against it.",
    )


class LabelsSection(Section):
    horizon_s: Seconds = Field(
        default=2_592_000.0, description="Age after which a prediction's outcome is taken as known."
    )
    min_coverage: Share = Field(
        default=0.95, description="Least share of outcomes known before a figure is given."
    )


class RetrainingSection(Section):
    strategy: Literal["schedule", "drift", "performance", "combined"] = Field(
        default="combined", description="What may ask for retraining."
    )
    metric: str | None = Field(
        default=None, min_length=1, description="The metric that is compared with the baseline, such as `f1`."
    )
    baseline: float | None = Field(default=None, description="That metric's value at training time.")
    performance_threshold: float = Field(
        default=0.05, gt=0.0, lt=1.0, description="Relative drop that confirms drift."
    )
    critical_threshold: float = Field(
        default=0.10, gt=0.0, le=1.0, description="Relative drop that asks for retraining by itself."
    )
    psi_threshold: float = Field(
        default=0.25, gt=0.0, description="Population stability index from which a feature has drifted."
    )
    every_s: Timeout | None = Field(
        default=None, description="For `strategy: schedule`: time between two trainings."
    )
    webhook: Annotated[str, AfterValidator(_webhook_url)] | None = Field(
        default=None, description="Called with each decision to retrain."
    )


class PrivacySection(Section):
    drop: Texts = Field(default=(), description="Features that are never stored.")
    hash: Texts = Field(default=(), description="Features of which only a keyed hash is stored.")
    retention_days: int = Field(default=400, ge=1, description="Predictions older than this are deleted.")


class UpstreamTlsSection(Section):
    ca: str | None = Field(
        default=None,
        min_length=1,
        description="File (PEM) of the authorities that sign the model servers' certificates; "
        "null: the system's.",
    )
    certificate: str | None = Field(
        default=None,
        min_length=1,
        description="File (PEM) with the gateway's own certificate, for servers that ask for one.",
    )
    key: str | None = Field(default=None, min_length=1, description="File (PEM) with its private key.")
    server_name: str | None = Field(
        default=None,
        min_length=1,
        description="The name that the servers' certificates carry, when it is not the URL's host.",
    )
    insecure_skip_verify: bool = Field(
        default=False,
        description="Accept any certificate. Whoever is on the way can then read and change everything.",
    )


class ModelRegistrySection(Section):
    name: str | None = Field(
        default=None,
        min_length=1,
        max_length=255,
        pattern=r"^[^/:]+$",
        description="MLflow's registered model. `champion` follows production; the newest `challenger` becomes a version.",
    )
    shadow: bool = Field(default=False, description="A new challenger becomes a shadow at once.")


class ModelSection(Section):
    match: MatchSection = Field(default_factory=MatchSection, description="Which requests are this model's.")
    protocol: Literal["json", "oip", "tfserving", "mlflow", "openai", "opaque"] = Field(
        default="json", description="How bodies are read. Whatever it says, they are forwarded byte for byte."
    )
    extract: Extract = Field(default_factory=Extract, description="For `protocol: json`: where things stand.")
    task: Literal["binary", "multiclass", "regression", "none"] = Field(
        default="none", description="What is predicted; decides the metrics."
    )
    routing_key: RoutingKeySection | None = Field(
        default=None,
        description="What makes an assignment sticky: one of `header`, `cookie`, `query`, `json`. "
        "Without it each request is assigned by itself.",
    )
    production: Name = Field(description="The version that answers.")
    versions: dict[Name, VersionSection] = Field(min_length=1, description="The deployments.")
    shadow: ShadowSection = Field(default_factory=ShadowSection, description="Mirroring.")
    canary: CanarySection = Field(default_factory=CanarySection, description="How a candidate is let in.")
    guard: GuardSection = Field(
        default_factory=GuardSection, description="The window rule inside each worker."
    )
    evidence: EvidenceSection = Field(
        default_factory=EvidenceSection, description="When the evidence against a candidate suffices."
    )
    labels: LabelsSection = Field(default_factory=LabelsSection, description="When outcomes count.")
    retraining: RetrainingSection = Field(
        default_factory=RetrainingSection, description="When to say that it is time to retrain."
    )
    privacy: PrivacySection = Field(
        default_factory=PrivacySection, description="What is stored, and for how long."
    )
    registry: ModelRegistrySection = Field(
        default_factory=ModelRegistrySection, description="What the model is called in `registry`."
    )
    tls: UpstreamTlsSection = Field(
        default_factory=UpstreamTlsSection,
        description="Towards versions with https URLs, those registered later too.",
    )


class RegistrySection(Section):
    mlflow_uri: Annotated[str, AfterValidator(_webhook_url)] | None = Field(
        default=None, description="An MLflow tracking server, such as http://mlflow:5000; null: none."
    )
    mlflow_token: str | None = Field(
        default=None, min_length=1, repr=False, description="Sent to it as `Authorization: Bearer`."
    )
    poll_s: Timeout = Field(default=30.0, description="How often it is asked for new challengers.")
    timeout_s: Timeout = Field(default=5.0, description="Deadline of a call.")


class TelemetrySection(Section):
    otlp_endpoint: Annotated[str, AfterValidator(_webhook_url)] | None = Field(
        default=None,
        description="An OpenTelemetry collector's HTTP address, such as http://otel:4318; null: no spans.",
    )
    headers: dict[FieldName, str] = Field(
        default={}, repr=False, description="Sent with each export, for a collector that wants a key."
    )
    sample: Share = Field(
        default=1.0,
        description="Share of the traces begun here that are kept; a caller's own decision is followed.",
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
    models: dict[Name, ModelSection] = Field(default={}, description="What is served, by name.")

    @model_validator(mode="after")
    def _keep_the_file_in_data_dir(self) -> Self:
        """Without `store.url` the SQLite file follows `data_dir`."""
        if "url" not in self.store.model_fields_set:
            default = Store(url=f"sqlite:///{self.data_dir.removeprefix('./').rstrip('/')}/gateway.db")
            object.__setattr__(self, "store", default)
        return self
