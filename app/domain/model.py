"""What a model is, as the file and the admin API describe it. Frozen values; whoever reads a configuration makes them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Match:
    """Which requests are a model's. All given conditions must hold; the longest path prefix wins."""

    path_prefix: str = "/"  # whole segments: /a matches /a and /a/b, not /ab
    strip: bool = False  # take the prefix off before forwarding
    host: str | None = None
    headers: tuple[tuple[str, str], ...] = ()  # lower-case name, exact value


@dataclass(frozen=True, slots=True)
class RoutingKey:
    """Where the sticky key stands. `source` is header, cookie, query, json or prediction_id."""

    source: str = "prediction_id"
    name: str = ""


@dataclass(frozen=True, slots=True)
class Version:
    """One deployment. Several URLs are replicas that answer alike."""

    name: str
    urls: tuple[str, ...]
    timeout_s: float = 30.0  # whole exchange, from the first request byte
    connect_timeout_s: float = 0.5
    metadata: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Shadow:
    """Bounds of mirroring; which versions are shadows is a flag."""

    sample: float = 1.0  # share of requests, 0..1
    max_concurrency: int = 64
    timeout_s: float = 5.0
    agreement_threshold: float = 0.05
    noise_sample: float = 0.01  # share of requests that production answers twice while it is compared


@dataclass(frozen=True, slots=True)
class ControlMirror:
    """Canary requests that are also sent to production, for a comparison on the same inputs."""

    sample: float = 1.0
    max_share: float = 0.1  # of all requests
    mode: str = "after"  # after | concurrent


@dataclass(frozen=True, slots=True)
class Canary:
    stages: tuple[float, ...] = (5.0, 10.0, 25.0, 50.0, 100.0)  # percent
    dwell_s: float = 3600.0
    min_requests: int = 500
    fallback: str = "production"  # production | none
    control: ControlMirror = field(default_factory=ControlMirror)
    watch_s: float = 3600.0  # after promotion


@dataclass(frozen=True, slots=True)
class Guard:
    error_rate: float = 0.05
    latency_p99_ms: float = 500.0
    window: int = 100
    min_requests: int = 20
    mode: str = "enforce_if_worse"  # off | advisory | enforce_if_worse | enforce


@dataclass(frozen=True, slots=True)
class EvidencePolicy:
    alpha: float = 1e-4
    margin: float = 1.0
    unit: str = "request"  # request | key
    floor: float = 0.0  # absolute error rate that is always accepted
    labels: tuple[
        str, ...
    ] = ()  # accuracy, brier, log_loss, absolute_error, auc, f1; none given: by the task
    f1_goal: float | None = None
    min_labels: int = 0  # mature ones, before a candidate leaves its shadow and before it is promoted
    same_answers: bool = False  # the candidate is meant to answer as production does


@dataclass(frozen=True, slots=True)
class Labels:
    horizon_s: float = 2_592_000.0
    min_coverage: float = 0.95


@dataclass(frozen=True, slots=True)
class Drift:
    """How drift is tested: see `app.domain.drift.report.DriftPolicy`."""

    daily_false_alarm_rate: float = 0.01
    numeric_test: str = "psi"  # psi | ks


@dataclass(frozen=True, slots=True)
class Retraining:
    strategy: str = "combined"  # schedule | drift | performance | combined
    metric: str | None = None
    baseline: float | None = None
    performance_threshold: float = 0.05
    critical_threshold: float = 0.10
    psi_threshold: float = 0.25
    schema_threshold: float = 0.1  # share of rows
    every_s: float | None = None
    cooldown_s: float = 86_400.0
    webhook: str | None = None


@dataclass(frozen=True, slots=True)
class Review:
    lease_s: float = 900.0
    daily_budget: int | None = None  # None: as many as reviewers ask for
    near_duplicate: float = 0.1  # standard deviations; 0: only equal rows


@dataclass(frozen=True, slots=True)
class Privacy:
    drop: tuple[str, ...] = ()
    hash: tuple[str, ...] = ()
    retention_days: int = 400


@dataclass(frozen=True, slots=True)
class UpstreamTls:
    """How a model's https URLs are trusted, and what the gateway shows them. Files are PEM."""

    ca: str | None = None  # None: the system's authorities
    certificate: str | None = None  # the gateway's own, for servers that ask for one
    key: str | None = None
    server_name: str | None = None  # the name in the server's certificate, when it is not the URL's host
    insecure_skip_verify: bool = False


@dataclass(frozen=True, slots=True)
class Registered:
    """What a model is called in the model registry."""

    name: str | None = None
    shadow: bool = False  # a new challenger becomes a shadow at once


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    production: str  # the file's production version; the flags may name another later
    versions: tuple[Version, ...]
    match: Match = field(default_factory=Match)
    protocol: str = "json"  # json | oip | tfserving | mlflow | openai | opaque
    extract: tuple[tuple[str, str], ...] = ()  # features, prediction, confidence -> path
    task: str = "none"  # binary | multiclass | regression | none
    routing_key: RoutingKey = field(default_factory=RoutingKey)
    shadow_versions: tuple[str, ...] = ()  # the file's shadows; the flags may name others later
    shadow: Shadow = field(default_factory=Shadow)
    canary: Canary = field(default_factory=Canary)
    guard: Guard = field(default_factory=Guard)
    evidence: EvidencePolicy = field(default_factory=EvidencePolicy)
    labels: Labels = field(default_factory=Labels)
    drift: Drift = field(default_factory=Drift)
    retraining: Retraining = field(default_factory=Retraining)
    review: Review = field(default_factory=Review)
    privacy: Privacy = field(default_factory=Privacy)
    tls: UpstreamTls = field(default_factory=UpstreamTls)
    registry: Registered = field(default_factory=Registered)

    def version(self, name: str) -> Version | None:
        """The version of that name, or None."""
        return next((v for v in self.versions if v.name == name), None)
