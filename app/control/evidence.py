"""The evidence of one rollout as it comes in from the workers: counts of the candidate, and the e-values
of the domain's engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.domain.model import EvidencePolicy
from app.domain.rollout import Evidence
from app.link.messages import Pairs, Tick


class TrialEvidence:
    """Takes in the workers' ticks of one rollout; `figures` is what a step looks at."""

    def __init__(self, candidate: str, policy: EvidencePolicy) -> None:
        self._candidate = candidate
        self._policy = policy
        self._requests = {"canary": 0, "shadow": 0}
        self._errors = {"canary": 0, "shadow": 0}
        self._last_at: float | None = None

    def add(self, writer: str, tick: Tick, rollout_id: str, now: float) -> None:
        """What a worker saw in a second under this rollout."""
        for one in tick.versions:
            if one.rollout_id == rollout_id and one.version == self._candidate and one.role in self._requests:
                self._requests[one.role] += one.requests
                self._errors[one.role] += one.errors
                if one.requests:
                    self._last_at = now

    def add_pairs(self, pairs: Pairs, rollout_id: str) -> None:
        """Requests answered by candidate and production alike."""

    def figures(self, *, shadowing: bool) -> Evidence:
        return Evidence(
            requests=self._requests["shadow" if shadowing else "canary"], last_request_at=self._last_at
        )

    def state(self) -> dict[str, Any]:
        return {"requests": self._requests, "errors": self._errors, "last_at": self._last_at}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], candidate: str, policy: EvidencePolicy) -> TrialEvidence:
        made = cls(candidate, policy)
        made._requests = {role: int(state["requests"][role]) for role in made._requests}
        made._errors = {role: int(state["errors"][role]) for role in made._errors}
        made._last_at = state["last_at"]
        return made
