"""The parts of the control process that the API speaks to, as `app.main` put them together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Request

from app.api.auth import Authenticator
from app.control.changes import Changes
from app.control.clock import Clock
from app.control.controller import Controller
from app.control.flags import FlagsService
from app.control.link_server import LinkServer
from app.control.monitor import Monitor
from app.control.outcomes import OutcomeIntake
from app.control.ports import Store
from app.control.registry import Registry
from app.link.messages import Series


@dataclass(frozen=True, slots=True)
class Services:
    registry: Registry
    flags: FlagsService
    store: Store
    link: LinkServer
    controller: Controller
    monitor: Monitor
    outcomes: OutcomeIntake
    auth: Authenticator
    accounting: Callable[[], Awaitable[Any]]  # {received, stored, pending, dropped, quarantined}
    clock: Clock
    data_dir: Path
    changes: Changes = field(default_factory=Changes)
    # further series for /metrics, names as in the catalogue
    series: tuple[Callable[[], Iterable[Series]], ...] = ()


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Parts = Annotated[Services, Depends(_services)]
