"""The shape of `models.NAME`: every key with its type, default, bounds and description.

`docs/configuration.md` is generated from the descriptions. No key is added here without one.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from app.config.kinds import (
    FieldName,
    JsonPathText,
    Name,
    Names,
    Seconds,
    Section,
    Share,
    Texts,
    Timeout,
    UpstreamUrl,
    ascending,
    key_path,
    listed,
    webhook_url,
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
    json_path: Annotated[str, AfterValidator(key_path)] | None = Field(
        default=None,
        alias="json",
        description="The value at this path of the JSON request body, such as `$.user_id`.",
    )


class VersionSection(Section):
    url: Annotated[tuple[UpstreamUrl, ...], BeforeValidator(listed)] = Field(
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
        default=0.05,
        ge=0.0,
        description="Two numeric predictions that differ by less agree; equal ones always do.",
    )
    noise_sample: Share = Field(
        default=0.01,
        description="Share of requests that production answers twice while it is compared with a shadow or a canary: "
        "how much it differs from itself. More at the beginning of a canary, up to its control's max_share; 0: none, and then pairs say "
        "nothing of latency.",
    )


class ControlSection(Section):
    sample: Share = Field(
        default=1.0,
        description="Share of canary requests also sent to production, to compare both on the same input. With 0 nothing "
        "compares a candidate at 100 % and after its promotion.",
    )
    max_share: Share = Field(default=0.1, description="Most of production's load that this may add.")
    mode: Literal["after", "concurrent"] = Field(
        default="after",
        description="Production is asked after the canary has answered, or at the same time: then its answer is at hand should the "
        "canary fail, and it is asked once.",
    )


class CanarySection(Section):
    stages: Annotated[
        tuple[Annotated[float, Field(gt=0.0, le=100.0)], ...],
        BeforeValidator(listed),
        AfterValidator(ascending),
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
        description="Requests that the candidate answered and that have mature labels, before it leaves its shadow, and "
        "before it is promoted.",
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


class DriftSection(Section):
    daily_false_alarm_rate: float = Field(
        default=0.01,
        gt=0.0,
        lt=1.0,
        description="Probability that anything is called drift in a day without any: over all features and windows together.",
    )
    numeric_test: Literal["psi", "ks"] = Field(
        default="psi",
        description="How numbers are compared with the baseline: population stability index on quantile bins, "
        "or Kolmogorov-Smirnov.",
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
    schema_threshold: float = Field(
        default=0.1,
        gt=0.0,
        le=1.0,
        description="Share of rows, beyond the baseline's, from which a feature that is missing, of another type or of a new "
        "category has drifted.",
    )
    every_s: Timeout | None = Field(
        default=None, description="For `strategy: schedule`: time between two trainings."
    )
    cooldown_s: Timeout = Field(
        default=86_400.0,
        description="After a call to retrain, the next one comes no sooner than this, unless it is more urgent.",
    )
    webhook: Annotated[str, AfterValidator(webhook_url)] | None = Field(
        default=None,
        repr=False,
        description="Sent what happens to the model as signed CloudEvents: a call to retrain, a rollback, a promotion, drift "
        "that begins or ends. See `docs/loop.md`.",
    )


class ReviewSection(Section):
    lease_s: Timeout = Field(
        default=900.0, description="How long an item that was given to a reviewer is kept from the others."
    )
    daily_budget: int | None = Field(
        default=None,
        ge=0,
        description="Labels that people may be asked for in any 24 hours: those given, and those out on lease. "
        "null: as many as reviewers ask for.",
    )
    near_duplicate: float = Field(
        default=0.1,
        ge=0.0,
        le=10.0,
        description="Rows whose numbers fall into the same cell of this size, in standard deviations of each number, "
        "are reviewed once for all. 0: only equal rows.",
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
    drift: DriftSection = Field(
        default_factory=DriftSection, description="How what comes in is compared with the baseline."
    )
    retraining: RetrainingSection = Field(
        default_factory=RetrainingSection, description="When to say that it is time to retrain."
    )
    review: ReviewSection = Field(
        default_factory=ReviewSection, description="Which predictions people are asked to label."
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
