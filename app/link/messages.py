"""What crosses the link, and the frames it crosses in. The worker opens the connection and lives on without it."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec

from app.domain.flags import Flags
from app.domain.model import Model

# ---- worker -> control process


class Hello(msgspec.Struct, frozen=True, tag=True):
    worker: str  # slot name, w0, w1, …
    pid: int
    writer: str  # journal writer of this process


class VersionTick(msgspec.Struct, frozen=True, array_like=True):
    """One second of one version in one role, as this worker saw it. Latency buckets: `app.domain.evidence.tick.latency_bucket`."""

    model: str
    version: str
    role: str  # production | canary | shadow | control
    percent: float  # canary percent in force
    flags_revision: int
    rollout_id: str
    requests: int
    errors: int
    shared_errors: int  # canary failed and production failed on the same request too
    latency: dict[int, int]  # bucket -> count


class Tick(msgspec.Struct, frozen=True, tag=True):
    tick: int  # whole second since the epoch
    versions: list[VersionTick]


class Series(msgspec.Struct, frozen=True, array_like=True):
    """One series, cumulative since the worker started. A counter has no buckets."""

    name: str  # metric name as in the contract
    labels: tuple[str, ...]
    value: float  # counter or gauge value; sum of a histogram
    buckets: tuple[int, ...] = ()  # histogram counts by upper bound, not cumulative, the last is +Inf


class Totals(msgspec.Struct, frozen=True, tag=True):
    series: list[Series]
    nonce: int = 0  # of the Ask that this answers; 0 when unasked


class GuardTrip(msgspec.Struct, frozen=True, tag=True):
    model: str
    version: str
    rollout_id: str
    flags_revision: int
    reason: str
    requests: int
    errors: int
    at_ns: int
    log_e: float = 0.0  # of the worker's own bet; 0 where thresholds are enforced as they are


class Pair(msgspec.Struct, frozen=True, array_like=True):
    """One canary request and its control mirror, or production and its A/A mirror: the same input answered twice."""

    model: str
    version: str  # who answered the client: the canary, or production for an A/A pair
    rollout_id: str
    error: bool
    control_error: bool
    latency_us: int
    control_latency_us: int
    second: str = ""  # who answered the copy; empty: production


class Pairs(msgspec.Struct, frozen=True, tag=True):
    tick: int
    pairs: list[Pair]


# ---- control process -> worker


class Snapshot(msgspec.Struct, frozen=True, tag=True):
    """All models with their flags. Replaces what the worker had."""

    models: list[Model]
    flags: list[Flags]


class ModelChanged(msgspec.Struct, frozen=True, tag=True):
    model: Model
    flags: Flags


class Dependencies(msgspec.Struct, frozen=True, tag=True):
    down: list[str]


class Ask(msgspec.Struct, frozen=True, tag=True):
    nonce: int


Upward = Hello | Tick | Totals | GuardTrip | Pairs
Downward = Snapshot | ModelChanged | Dependencies | Ask

SIGN_OF_LIFE_S = 1.0  # at least so often the control process sends its workers something
MAX_FRAME = 64 * 1024 * 1024
_length = struct.Struct("<I")
_encoder = msgspec.msgpack.Encoder()
_upward = msgspec.msgpack.Decoder(Upward)
_downward = msgspec.msgpack.Decoder(Downward)


def frame(message: Upward | Downward) -> bytes:
    """The message with its length in front."""
    body = _encoder.encode(message)
    return _length.pack(len(body)) + body


def encode_upward(message: Upward) -> bytes:
    """The message alone, for another carrier than the link."""
    return _encoder.encode(message)


def decode_upward(body: bytes) -> Upward:
    """`msgspec.DecodeError` when it is none."""
    message: Upward = _upward.decode(body)
    return message


def decode_downward(body: bytes) -> Downward:
    """`msgspec.DecodeError` when it is none."""
    message: Downward = _downward.decode(body)
    return message


class Frames:
    """Cuts a byte stream into frames. `ValueError` for a frame beyond `MAX_FRAME`: the connection is to be closed."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        buffer = self._buffer
        buffer += data
        while len(buffer) >= 4:
            (size,) = _length.unpack_from(buffer)
            if size > MAX_FRAME:
                raise ValueError(f"frame of {size} bytes")
            if len(buffer) < 4 + size:
                return
            body = bytes(buffer[4 : 4 + size])
            del buffer[: 4 + size]
            yield body
