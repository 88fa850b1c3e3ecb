"""What privacy takes out of bodies before they reach the journal. Only models with `privacy: drop` or `hash` pay for it.

Runs after the answer is known and never raises; where a body cannot be taken apart, none of it is kept.
"""

from __future__ import annotations

from app.domain.model import Model
from app.protocols.privacy import Redacted, Redaction, redact_body


class Redactor:
    """The names of one model, compiled."""

    __slots__ = ("_features_path", "_key_name", "_protocol", "_redaction")

    def __init__(self, model: Model, secret: bytes) -> None:
        self._redaction = Redaction(model.privacy.drop, model.privacy.hash, secret)
        self._protocol = model.protocol
        self._features_path = dict(model.extract).get("features", "$.features")
        key = model.routing_key
        self._key_name = key.name.rpartition(".")[2].strip("$[]'\"") if key.source == "json" else key.name

    def body(
        self, body: bytes, content_type: str, encoding: str, header_length: int, truncated: bool
    ) -> Redacted:
        """A request's or an answer's body as it may be written down."""
        return redact_body(
            body,
            content_type,
            self._protocol,
            self._redaction,
            content_encoding=encoding,
            header_length=header_length if header_length >= 0 else None,
            truncated=truncated,
            features_path=self._features_path,
        )

    def key(self, value: str) -> str | None:
        """A routing key: hashed or dropped when the field it comes from is."""
        action = self._redaction.of_feature(self._key_name)
        if action is None:
            return value
        return None if action == "drop" else str(self._redaction.digest(value))
