"""The entries of the journal. A worker writes them without looking into a body; the recorder reads the bodies later.

Field order is the wire format (array-like structs): append new fields at the end, with a default, and never reorder.
"""

from __future__ import annotations

import msgspec


class PredictionRecord(msgspec.Struct, frozen=True, array_like=True, tag="p", gc=False):
    """One request that a client got an answer to (or left before), whoever answered it."""

    prediction_id: bytes  # 16 bytes, UUIDv7
    at_ns: int  # wall clock when the request head was complete, nanoseconds since the epoch
    model: str
    version: str  # the version whose answer the client got
    role: str  # production | canary | fallback
    status: int  # as sent to the client; 499 when the client left first
    latency_us: int  # head complete -> last upstream byte
    reason: str  # why this version: app.domain.routing.Assignment.reason
    bucket: int  # 0..9999; -1 when no bucket was needed
    canary_percent: float  # in force for this request
    flags_revision: int
    rollout_id: str  # "" outside a rollout
    forced: bool
    routing_key: str | None  # None: the prediction id served as key
    request_id: str | None  # the client's X-Request-Id
    method: str
    target: str  # as sent upstream
    request_type: str
    request_encoding: str
    request_size: int  # whole body, bytes
    request_body: bytes  # capped at journal.capture_bytes, redacted by privacy
    response_type: str
    response_encoding: str
    response_size: int
    response_body: bytes
    ended: (
        str  # complete | aborted (client left) | cut (upstream broke off) | error (the gateway's own answer)
    )
    error: str = ""  # X-Gateway-Error of the gateway's own answer
    request_inference_length: int = -1  # Inference-Header-Content-Length of the Open Inference Protocol
    response_inference_length: int = -1
    propensity: float = 1.0  # probability with which this version was assigned
    first_byte_us: int = -1  # of a streamed answer: of its body
    redacted: bool | None = None  # privacy was applied to the bodies; None: written before that was noted
    traceparent: str = ""  # as sent upstream (W3C Trace Context); only while spans are exported
    parent_span: str = ""  # 16 hex digits of the caller's span; "" when the trace began here


class ShadowRecord(msgspec.Struct, frozen=True, array_like=True, tag="s", gc=False):
    """Another version's answer to a request that a client got its answer to from elsewhere."""

    prediction_id: bytes
    at_ns: int
    model: str
    version: str
    role: str  # shadow | control (a canary's request mirrored to production) | failed (the canary's own failed try)
    status: int  # 0 when there was no answer
    latency_us: int
    response_type: str
    response_encoding: str
    response_size: int
    response_body: bytes
    error: str = ""  # timeout, unreachable, protocol, …
    response_inference_length: int = -1
    redacted: bool | None = None  # as in PredictionRecord
    traceparent: str = ""  # of the copy's own span
    parent_span: str = ""  # the span of the request that was copied


class OutcomeRecord(msgspec.Struct, frozen=True, array_like=True, tag="o", gc=False):
    """A ground truth as it was received by `POST /feedback`."""

    received_ns: int
    prediction_id: str  # canonical id, with `:row` for a row of an N-row body; "" when found by request_id
    model: str  # "" when not given
    request_id: str  # "" when not given
    ground_truth: float | str | bool
    observed_ns: int
    source: str
    actor: str  # the token's name
    outcome_id: str = ""  # app.domain.outcome.outcome_id; "": written before it was kept


Record = PredictionRecord | ShadowRecord | OutcomeRecord

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)


def encode(record: Record) -> bytes:
    """The record as msgpack."""
    return _encoder.encode(record)


def decode(data: bytes | memoryview) -> Record:
    """The record in `data`; `msgspec.DecodeError` when it is none (also for a field of the wrong type)."""
    record: Record = _decoder.decode(data)
    return record
