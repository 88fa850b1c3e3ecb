"""What privacy takes out of bodies before they reach the journal. Only models with `privacy: drop` or `hash` pay for it.

Runs after the answer is known and never raises; where a body cannot be taken apart, none of it is kept.
"""

from __future__ import annotations

from app.domain.model import Model, RoutingKey
from app.protocols.json_paths import compile_path
from app.protocols.privacy import Redacted, Redaction, redact_body
from app.protocols.redaction import Action


class Redactor:
    """The names of one model, compiled."""

    __slots__ = ("_features_path", "_key_action", "_protocol", "_redaction")

    def __init__(self, model: Model, secret: bytes) -> None:
        self._redaction = Redaction(model.privacy.drop, model.privacy.hash, secret)
        self._protocol = model.protocol
        self._features_path = dict(model.extract).get("features", "$.features")
        self._key_action = _action_on(model.routing_key, self._redaction)

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
        if self._key_action is None:
            return value
        return None if self._key_action == "drop" else str(self._redaction.digest(value))


def _action_on(key: RoutingKey, redaction: Redaction) -> Action:
    """What privacy does to the field that the key comes from."""
    if (
        key.source == "header"
    ):  # whatever its case (RFC 9110, section 5.1), unlike that of cookies, queries and members
        return redaction.of_field(key.name)
    if key.source == "json":
        return redaction.of_place(compile_path(key.name).steps)
    return redaction.of_feature(key.name)
