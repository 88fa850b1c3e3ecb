"""What the control process is told at its start. Light to import: the supervisor makes it and must stay small."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field

from app.domain.model import Model
from app.domain.policy import (
    AuthPolicy,
    JournalPolicy,
    RegistryPolicy,
    ServerPolicy,
    TelemetryPolicy,
    WebhookPolicy,
)

# Sent to the control process before the workers drain: streams that never end by themselves end now. Ignored by a process that has
# not come so far as to handle it.
STOPPING_SOON = signal.SIGURG


@dataclass(frozen=True, slots=True)
class ControlSpec:
    """All that the control process needs to know; the supervisor hands it over on standard input."""

    roles: tuple[str, ...]  # recorder, controller
    host: str  # of this data directory, for accounting over several hosts
    server: ServerPolicy
    journal: JournalPolicy
    auth: AuthPolicy
    models: tuple[Model, ...]
    data_dir: str
    store_url: str
    flags_url: str
    api_socket: str
    link_socket: str
    last_known: str
    registry: RegistryPolicy = field(default_factory=RegistryPolicy)
    telemetry: TelemetryPolicy = field(default_factory=TelemetryPolicy)
    webhooks: WebhookPolicy = field(default_factory=WebhookPolicy)
    privacy_secret: bytes = b""
