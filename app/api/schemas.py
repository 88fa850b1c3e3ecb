"""The bodies of the API, for checking and for OpenAPI. Strict: no unknown keys, no silent conversion."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

Reason = Annotated[str, Field(max_length=1000, pattern=r"^[^\x00]*$", description="why, for the audit log")]
Name = Annotated[str, Field(min_length=1, max_length=64)]
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]

_FIRST, _LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


def _bounded(at: datetime) -> datetime:
    if not _FIRST <= at <= _LAST:
        raise PydanticCustomError(
            "instant", "must lie between 1970 and 2200; write a time such as 2026-01-31T12:00:00Z"
        )
    return at.astimezone(UTC)


# Every time that a caller gives. Arithmetic with it, and any database's types, have room on both sides.
Instant = Annotated[
    AwareDatetime,
    AfterValidator(_bounded),
    Field(description="between 1970 and 2200, with its offset, such as 2026-01-31T12:00:00Z"),
]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class FlagsPatch(Strict):
    """The flags to change; those left out stay as they are."""

    production: Name = ""
    candidate: Name | None = Field(None, description="null takes the candidate out")
    canary_percent: Percent = 0.0
    canary_enabled: bool = False
    shadow_enabled: bool = False
    shadow_versions: Annotated[list[Name], Field(max_length=50)] = []
    disabled_versions: Annotated[list[Name], Field(max_length=50)] = []
    reason: Reason = ""

    def patch(self) -> dict[str, Any]:
        """Only what was given."""
        given = {name: getattr(self, name) for name in self.model_fields_set - {"reason"}}
        return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


class FlagsView(BaseModel):
    """A model's flags. `durable` is false while a change is in force that the store has not seen yet."""

    model: str
    revision: int
    production: str
    candidate: str | None
    canary_percent: float
    canary_enabled: bool
    shadow_enabled: bool
    shadow_versions: list[str]
    disabled_versions: list[str]
    salt: str
    rollout_id: str
    durable: bool


class GuardView(BaseModel):
    """What the window rule says of the last minute; `tripped` is null below its `min_requests`."""

    tripped: bool | None
    reason: str


class VerdictView(BaseModel):
    """The open rollout's verdict on its candidate."""

    rollout: str
    health: str
    reason: str


class VersionHealthView(BaseModel):
    """One version in one role over the last minute. `guard_tripped` and `guard_reason` repeat `guard`."""

    version: str
    role: str
    requests: int
    errors: int
    error_rate: float | None
    latency_ms: dict[str, float | None]
    window_s: int
    guard: GuardView
    guard_tripped: bool | None
    guard_reason: str
    verdict: VerdictView | None


class HealthView(BaseModel):
    """A model's versions that were asked anything in the last minute, and the open rollout's verdict."""

    model: str
    versions: list[VersionHealthView]
    verdict: VerdictView | None


class VersionBody(Strict):
    """A version to register. Several URLs are replicas that answer alike."""

    url: str | Annotated[list[str], Field(min_length=1, max_length=32)]
    metadata: Annotated[dict[str, str], Field(max_length=50)] = {}
    timeout_s: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] = 30.0
    connect_timeout_s: Annotated[float, Field(gt=0, le=60, allow_inf_nan=False)] = 0.5
    reason: Reason = ""


class Rejected(BaseModel):
    index: int
    reason: str


class FeedbackReceipt(BaseModel):
    """`rejected` names the first 1,000 in the order they were sent; `rejected_more` counts the others."""

    accepted: int
    duplicates: int
    rejected: list[Rejected]
    rejected_more: int = 0


class AccountingView(BaseModel):
    """received = stored + pending + dropped. Those in quarantine count as stored, too."""

    received: int
    stored: int
    pending: int
    dropped: dict[str, int]
    quarantined: int


class RolloutStart(Strict):
    """What is not given is as configured. Stages are percentages, rising."""

    candidate: Name
    stages: Annotated[list[Percent], Field(min_length=1, max_length=50)] | None = None
    dwell_s: Annotated[float, Field(ge=0, le=31_536_000, allow_inf_nan=False)] | None = None
    min_requests: Annotated[int, Field(ge=0, le=10**9)] | None = None
    shadow_dwell_s: Annotated[float, Field(ge=0, le=31_536_000, allow_inf_nan=False)] = 0.0
    shadow_min_requests: Annotated[int, Field(ge=0, le=10**9)] = 0
    min_labels: Annotated[int, Field(ge=0, le=10**9)] | None = None
    reason: Reason = ""


class Because(Strict):
    reason: Reason = ""


class BaselineBody(Strict):
    """A reference for drift: `rows`, or the newest stored rows of a version; and the metrics measured at
    training time.
    """

    rows: Annotated[list[dict[str, Any]], Field(max_length=200_000)] | None = None
    version: Name | None = None
    since: Instant | None = Field(None, strict=False)
    metrics: Annotated[dict[str, Annotated[float, Field(allow_inf_nan=False)]], Field(max_length=50)] = {}
    trained_at: Instant | None = Field(None, strict=False)
    reason: Reason = ""


class LabelBody(Strict):
    label: float | bool | Annotated[str, Field(min_length=1, max_length=256)]


class ErasureBody(Strict):
    """Whose data is to go."""

    routing_key: Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]
    reason: Reason = ""


class ErasureView(BaseModel):
    """`erased` predictions; `pending` records of this host that the store did not have yet."""

    erased: int
    pending: int
