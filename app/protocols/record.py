"""What a protocol reader is given and what it gives back.

Values only. This module must never import numpy, do I/O or log: the proxy workers load it together with `privacy` and `json_paths`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeAlias

import msgspec

Scalar: TypeAlias = float | int | str | bool | None
Feature: TypeAlias = "Scalar | list[Any]"
Features: TypeAlias = dict[str, Any]
"""Feature name to a scalar, or to a list of JSON values (a vector that belongs to one name)."""

Output: TypeAlias = "tuple[float | str | bool | None, float | None, tuple[float, ...] | None]"
"""One row of a reply: prediction, confidence, scores."""

MAX_ROWS = 10_000
"""Rows read from one exchange; a longer batch is cut there, with `Reason.ROW_LIMIT`."""

MAX_FEATURES = 4_096
"""Features of one row; further ones are left out, with `Reason.FEATURE_LIMIT`."""


class Reason(StrEnum):
    """Why an exchange was read in part or not at all. A closed set, since it becomes a metric label."""

    ERROR_STATUS = "error_status"
    """The reply is no success, so it holds no prediction; the request was still read."""
    NOT_INFERENCE = "not_inference"
    """The path is not an inference call of this protocol (health, metadata, …)."""
    TRUNCATED_REQUEST = "truncated_request"
    TRUNCATED_RESPONSE = "truncated_response"
    EMPTY_BODY = "empty_body"
    INVALID_JSON = "invalid_json"
    TOO_DEEP = "too_deep"
    UNSUPPORTED_CONTENT_TYPE = "unsupported_content_type"
    UNSUPPORTED_ENCODING = "unsupported_encoding"
    INVALID_ENCODING = "invalid_encoding"
    DECODED_SIZE = "decoded_size"
    """The body decompresses to more than the bound: a large answer, or a bomb."""
    PATH_NOT_FOUND = "path_not_found"
    UNEXPECTED_SHAPE = "unexpected_shape"
    """Well-formed, but not what the protocol says."""
    ROW_COUNT_MISMATCH = "row_count_mismatch"
    INVALID_TENSOR = "invalid_tensor"
    INVALID_CSV = "invalid_csv"
    INVALID_EVENT_STREAM = "invalid_event_stream"
    ROW_LIMIT = "row_limit"
    FEATURE_LIMIT = "feature_limit"
    INTERNAL = "internal"
    """A fault of the reader itself; `Extraction.detail` names it. Worth a bug report."""


class UnreadableError(Exception):
    """A body, or a part of it, cannot be read; raised and caught inside this package only."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(detail or reason.value)
        self.reason = reason
        self.detail = detail


class Exchange(msgspec.Struct, frozen=True, gc=False):
    """A captured request and its reply, as they crossed the wire.

    Bodies are raw bytes, still content-encoded, possibly cut off at the capture limit (`*_truncated`).
    """

    request_body: bytes = b""
    response_body: bytes = b""
    status: int = 200
    path: str = ""
    """The path that the upstream saw, with or without the query; empty counts as an inference call."""
    request_content_type: str = ""
    response_content_type: str = ""
    request_content_encoding: str = ""
    response_content_encoding: str = ""
    request_header_length: int | None = None
    """`Inference-Header-Content-Length` of the request (Open Inference Protocol, binary extension)."""
    response_header_length: int | None = None
    request_truncated: bool = False
    response_truncated: bool = False
    expected_rows: int | None = None
    """Rows of the request when it is known from elsewhere, e.g. for a shadow answer stored without its request."""
    redacted: bool = False
    """The bodies went through `privacy.redact_body` already: names are still dropped, but nothing is hashed twice, and `*_truncated`
    does not count, since a redacted body is whole or empty, whatever the size of the original was."""

    @property
    def is_answer_only(self) -> bool:
        """Whether there is no request to read: an answer stored without it."""
        return self.expected_rows is not None and not self.request_body


class Row(msgspec.Struct, frozen=True, gc=False):
    """One prediction: what went in, what came out. All values are finite and of plain Python types.

    `prediction` is a number (value, probability or class index) or a label. `confidence` is the probability of the predicted
    class, in 0..1. `scores` is the vector that the prediction came from (class probabilities, or the values of a multi-output model).
    """

    features: Features | None = None
    prediction: float | str | bool | None = None
    confidence: float | None = None
    scores: tuple[float, ...] | None = None


BARE_ROW = Row()
"""What a recorder stores for an exchange of which nothing could be read."""


class Extraction(msgspec.Struct, frozen=True, gc=False):
    """What could be read of one exchange. `rows` may be empty; `reason` is None when everything was read."""

    rows: tuple[Row, ...]
    reason: Reason | None = None
    facts: dict[str, Any] = {}
    """Bounded JSON values beside the rows: `nonfinite` (names), `model`, `finish_reason`, token counts, …"""
    detail: str | None = None
    """The reason for people: unbounded wording, never a metric label."""


Reader: TypeAlias = Callable[[Exchange], Extraction]
