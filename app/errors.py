"""The one error tree. Adapters translate foreign exceptions into it at their border; `app.api.problems` maps it to RFC 9457 answers.

The docstring of an error says when it is raised; its message says what to do.
"""

from __future__ import annotations

from dataclasses import dataclass


class GatewayError(Exception):
    """Anything this project raises on purpose."""


class ConfigurationError(GatewayError):
    """The configuration cannot be used. `faults` holds one line a fault, each with file, path and remedy."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class NotFoundError(GatewayError):
    """The named model, version, rollout or prediction does not exist."""


class InvalidError(GatewayError):
    """A value given by a caller cannot be accepted (422)."""


class ConflictError(GatewayError):
    """The request contradicts the current state, such as a second open rollout (409)."""


class StaleRevisionError(GatewayError):
    """A compare-and-set named a revision that is no longer the current one (412)."""

    def __init__(self, expected: int, current: int) -> None:
        super().__init__(
            f"revision {expected} is not the current one ({current}); read the flags again and retry"
        )
        self.expected = expected
        self.current = current


class UnavailableError(GatewayError):
    """A dependency cannot be reached in time; trying again later may succeed (503)."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A row of a batch that the store will not take: kind (prediction, shadow, outcome), place among its kind, and why."""

    kind: str
    index: int
    reason: str


class RefusedRowError(GatewayError):
    """The store refuses rows for what they hold; they belong into quarantine with their reason.

    `refusals` names them; when it is empty, some row of the batch is refused and the caller has to find out which.
    """

    def __init__(self, message: str, refusals: tuple[Refusal, ...] = ()) -> None:
        super().__init__(message)
        self.refusals = refusals


class JournalFullError(GatewayError):
    """The journal cannot take another record: the disk is full, or `journal.max_bytes` is reached."""
