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

    __slots__ = ("_features_path", "_key_action", "_protocol", "_redaction", "_request_id_action")

    def __init__(self, model: Model, secret: bytes) -> None:
        self._redaction = Redaction(model.privacy.drop, model.privacy.hash, secret)
        self._protocol = model.protocol
        self._features_path = dict(model.extract).get("features", "$.features")
        self._key_action = _action_on(model.routing_key, self._redaction)
        self._request_id_action = self._redaction.of_field("x-request-id")

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
        return self._taken(value, self._key_action)

    def request_id(self, value: str) -> str | None:
        """The client's X-Request-Id: hashed or dropped when it is named. No outcome can name the prediction by it then."""
        return self._taken(value, self._request_id_action)

    def _taken(self, value: str, action: Action) -> str | None:
        if action is None:
            return value
        return None if action == "drop" else str(self._redaction.digest(value))


def _action_on(key: RoutingKey, redaction: Redaction) -> Action:
    """What privacy does to the field that the key comes from."""
    if (
        key.source == "header"
    ):  # whatever its case (RFC 9110, section 5.1), unlike that of cookies, queries and members
        return redaction.of_field(key.name)
    if key.source == "json":
        return redaction.of_place(compile_path(key.name).steps)
    return redaction.of_feature(key.name)
