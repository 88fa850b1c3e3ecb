"""A model as this worker serves it: its flags, its versions' connections, its counters and windows.

Replaced whole when the model or its flags change.
"""

from __future__ import annotations

from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from app.domain.evidence.tick import KeyVotes
from app.domain.flags import Flags
from app.domain.model import Model
from app.protocols.json_paths import compile_key_path
from app.proxy.fields import VIA
from app.proxy.guard import LocalGuard
from app.proxy.redaction import Redactor
from app.proxy.request import Request
from app.proxy.statistics import Track
from app.proxy.upstream import Upstream

if TYPE_CHECKING:
    from app.proxy.plane import Plane


OWN_PAIRS = 100  # by each worker, twice what the evidence needs for a first margin


class Served:
    """A model as this worker serves it under one set of flags. Connections, counters and windows live on from one to the next."""

    def __init__(self, plane: Plane, model: Model, flags: Flags, before: Served | None) -> None:
        self.plane = plane
        self.model = model
        self.flags = flags
        self.name = model.name
        same = before is not None and before.model.name == model.name
        self.upstreams = self._upstreams(before, shadow=False)
        self.shadow_upstreams = self._upstreams(before, shadow=True)
        self.overhead = plane.statistics.overhead_of(model.name)
        keep = (
            before is not None
            and same
            and (before.flags.rollout_id, before.flags.candidate) == (flags.rollout_id, flags.candidate)
        )
        self.guard: LocalGuard = (
            before.guard
            if keep and before is not None and before.model.guard == model.guard
            else LocalGuard(
                model.guard,
                flags.candidate,
                flags.production,
                sticky=model.routing_key.source != "prediction_id",
            )
        )
        self.strip = len(model.match.path_prefix.rstrip("/")) if model.match.strip else 0
        self.shadow_versions = (
            tuple(
                v
                for v in flags.shadow_versions
                if v in self.shadow_upstreams and v not in flags.disabled_versions
            )
            if flags.shadow_enabled and model.shadow.sample > 0
            else ()
        )
        self.canary = flags.candidate if flags.canary_enabled and flags.canary_percent > 0 else None
        self.json_key = (
            compile_key_path(model.routing_key.name) if model.routing_key.source == "json" else None
        )
        self.key_header = (
            model.routing_key.name.lower().encode("latin-1") if model.routing_key.source == "header" else None
        )
        self.redactor = (
            Redactor(model, plane.privacy_secret) if model.privacy.drop or model.privacy.hash else None
        )
        control = model.canary.control
        # Whether canary requests are compared with production's answer to the same request.
        self.compares: bool = self.canary is not None and control.sample > 0.0 and control.max_share > 0.0
        self.concurrent: bool = self.compares and control.mode == "concurrent"
        # Under a rollout without a share: it shadows, or its promoted candidate is being watched.
        self.watched: bool = self.canary is None and flags.rollout_id != ""
        # How often production is asked twice while it is compared with anything.
        compared = bool(self.shadow_versions) or self.compares
        self.noise: float = model.shadow.noise_sample if compared else 0.0
        # Pairs of production with itself still to be made at the beginning of a canary: without them its pairs cannot be judged.
        self.own_pairs_due: int = OWN_PAIRS if self.compares and self.noise > 0.0 else 0
        if before is not None and keep and before.compares:
            self.own_pairs_due = before.own_pairs_due
        if self.own_pairs_due:
            self.noise = max(self.noise, control.max_share)
        self.votes: KeyVotes | None = before.votes if before is not None else None
        if model.evidence.unit != "key" or model.routing_key.source == "prediction_id":
            self.votes = None
        elif self.votes is None:
            self.votes = KeyVotes()
        self._labels: dict[tuple[str, str], bytes] = {}
        self._tracks: dict[tuple[str, str, bool], Track] = {}

    def asked_twice(self) -> None:
        """One more request was answered by production twice."""
        if self.own_pairs_due:
            self.own_pairs_due -= 1
            if not self.own_pairs_due:
                self.noise = self.model.shadow.noise_sample

    def _upstreams(self, before: Served | None, *, shadow: bool) -> dict[str, Upstream]:
        old = {} if before is None else before.shadow_upstreams if shadow else before.upstreams
        if before is not None and before.model.tls != self.model.tls:
            old = {}
        made: dict[str, Upstream] = {}
        for version in self.model.versions:
            timeout = self.model.shadow.timeout_s if shadow else version.timeout_s
            kept = old.get(version.name)
            if kept is not None and (kept.urls, kept.timeout_s, kept.connect_timeout_s) == (
                version.urls,
                timeout,
                version.connect_timeout_s,
            ):
                made[version.name] = kept
            else:
                made[version.name] = self.plane.upstream(self.model, version, timeout, shadow=shadow)
        return made

    def retire(self, successor: Served | None) -> None:
        """Let go of the connections that the successor does not use."""
        for mine, theirs in (
            (self.upstreams, successor.upstreams if successor else {}),
            (self.shadow_upstreams, successor.shadow_upstreams if successor else {}),
        ):
            for name, upstream in mine.items():
                if theirs.get(name) is not upstream:
                    upstream.close()

    def track(self, version: str, role: str, forced: bool) -> Track:
        key = (version, role, forced)
        track = self._tracks.get(key)
        if track is None:
            track = self._tracks[key] = self.plane.statistics.track(self.name, version, role, forced=forced)
        return track

    def reply_fields(self, version: str, role: str) -> bytes:
        """The gateway's own reply fields but for the prediction id."""
        key = (version, role)
        lines = self._labels.get(key)
        if lines is None:
            lines = self._labels[key] = b"\r\nX-Model-Version: %s\r\nX-Model-Role: %s\r\nVia: %s\r\n" % (
                version.encode(),
                role.encode(),
                VIA,
            )
        return lines

    def routing_key(self, request: Request) -> str | None:
        """The sticky key, or None when the request has none (the prediction id then serves)."""
        if self.key_header is not None:
            value = request.named.get(self.key_header)
            return value.decode("latin-1") if value else None
        if self.json_key is not None:
            return self.json_key(request.body()) if request.complete and request.retained else None
        key = self.model.routing_key
        if key.source == "query":
            found = parse_qs(request.query.decode("latin-1")).get(key.name)
            return found[0] if found else None
        if key.source == "cookie":
            try:
                morsel = SimpleCookie(request.text(b"cookie")).get(key.name)
            except CookieError:
                return None
            return morsel.value if morsel is not None else None
        return None

    @property
    def needs_body_for_key(self) -> bool:
        return self.json_key is not None and self.canary is not None

    # ---- the local guard

    def observe(self, version: str, is_error: bool, latency_ms: float, now: float, *, fair: bool) -> None:
        trip = self.guard.observe(version, is_error, latency_ms, now, fair=fair)
        if trip is not None:
            self.plane.guard_tripped(self, trip)

    def within_control_budget(self, place: float) -> bool:
        """Whether the request at this place (0..1, by its id) is compared with production.

        `max_share` bounds control calls to a share of all requests, so that production's load grows by no more than that.
        """
        control = self.model.canary.control
        if self.canary is None or place >= control.sample:
            return False
        percent = self.flags.canary_percent / 100.0
        return percent <= control.max_share or place < control.max_share / percent
