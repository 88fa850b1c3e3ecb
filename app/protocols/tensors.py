"""Tensors of the Open Inference Protocol V2: JSON `data` (nested or flat, row-major) and the binary extension, as plain Python lists.

Source: Open Inference Protocol (KServe V2), "Tensor Data", and Triton's "Binary Tensor Data Extension". Sizes are checked against
what is really there before anything is built, so a shape that lies costs nothing. No numpy: a worker loads this for privacy.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from dataclasses import dataclass
from typing import Any

from app.protocols.features import MAX_DEPTH, bytes_value, flat
from app.protocols.record import Reason, UnreadableError

_FORMATS = {
    "BOOL": ("?", 1),
    "UINT8": ("B", 1),
    "UINT16": ("H", 2),
    "UINT32": ("I", 4),
    "UINT64": ("Q", 8),
    "INT8": ("b", 1),
    "INT16": ("h", 2),
    "INT32": ("i", 4),
    "INT64": ("q", 8),
    "FP16": ("e", 2),
    "FP32": ("f", 4),
    "FP64": ("d", 8),
}
DATATYPES = frozenset((*_FORMATS, "BF16", "BYTES"))


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named tensor: `data` is flat, row-major, `rows` × `width` elements."""

    name: str
    rows: int
    width: int
    data: list[Any]

    def row(self, number: int) -> Any:
        """One row's elements: the element itself when a row has one, else a list."""
        if self.width == 1:
            return self.data[number]
        return self.data[number * self.width : (number + 1) * self.width]


def read_tensors(document: Any, member: str, binary: bytes) -> list[Tensor]:
    """The tensors of `inputs` or `outputs`, their binary data taken from `binary` in order.

    Raises `UnreadableError` for a missing list, an unknown datatype, or data that does not fit its shape.
    """
    listed = document.get(member) if type(document) is dict else None
    if type(listed) is not list:
        raise UnreadableError(Reason.UNEXPECTED_SHAPE, f"no list of {member}")
    tensors: list[Tensor] = []
    offset = 0
    for item in listed:
        if type(item) is not dict or type(item.get("name")) is not str:
            raise UnreadableError(Reason.UNEXPECTED_SHAPE, f"one of {member} has no name")
        size = binary_size(item)
        if size is None:
            tensors.append(_from_json(item))
        else:
            tensors.append(_from_binary(item, binary[offset : offset + size], size))
            offset += size
    return tensors


def binary_size(tensor: dict[str, Any]) -> int | None:
    """`parameters.binary_data_size`, None for a tensor whose data stands in the JSON."""
    parameters = tensor.get("parameters")
    size = parameters.get("binary_data_size") if type(parameters) is dict else None
    return size if type(size) is int and size >= 0 else None


def _from_json(item: dict[str, Any]) -> Tensor:
    name = item["name"]
    data = flat(item.get("data"))
    if type(data) is not list:
        raise UnreadableError(Reason.INVALID_TENSOR, f"tensor {name[:80]!r} has no data")
    rows, elements = _extent(item.get("shape"), len(data))
    if elements != len(data):
        raise UnreadableError(
            Reason.INVALID_TENSOR, f"tensor {name[:80]!r} has {len(data)} elements, its shape {elements}"
        )
    parameters = item.get("parameters")
    if (
        item.get("datatype") == "BYTES"
        and type(parameters) is dict
        and parameters.get("content_type") == "base64"
    ):
        data = [_base64_value(value) for value in data]
    return Tensor(name, rows, elements // rows if rows else 0, data)


def _from_binary(item: dict[str, Any], raw: bytes, size: int) -> Tensor:
    name, datatype = item["name"], item.get("datatype")
    if len(raw) != size:
        raise UnreadableError(
            Reason.INVALID_TENSOR, f"tensor {name[:80]!r} ends after {len(raw)} of {size} bytes"
        )
    data = decode_elements(datatype, raw)
    rows, elements = _extent(item.get("shape"), len(data))
    if elements != len(data):
        raise UnreadableError(
            Reason.INVALID_TENSOR, f"tensor {name[:80]!r} has {len(data)} elements, its shape {elements}"
        )
    return Tensor(name, rows, elements // rows if rows else 0, data)


def _extent(shape: Any, present: int) -> tuple[int, int]:
    """Rows (the leading dimension) and elements of a shape; a scalar's shape `[]` is one row, an empty tensor has none."""
    if type(shape) is not list:
        return present, present
    if len(shape) > MAX_DEPTH or not all(type(size) is int and size >= 0 for size in shape):
        raise UnreadableError(Reason.INVALID_TENSOR, f"a shape is a list of at most {MAX_DEPTH} sizes")
    elements = math.prod(shape)
    return (shape[0] if shape and elements else min(elements, 1)), elements


def decode_elements(datatype: object, raw: bytes) -> list[Any]:
    """Little-endian elements of a binary tensor as Python values; BYTES elements as `features.bytes_value`."""
    if datatype == "BYTES":
        return [bytes_value(element) for element in bytes_elements(raw)]
    if datatype == "BF16":
        if len(raw) % 2:
            raise UnreadableError(
                Reason.INVALID_TENSOR, f"{len(raw)} bytes are no whole number of BF16 elements"
            )
        halves = struct.unpack(f"<{len(raw) // 2}H", raw)
        widened = struct.pack(f"<{len(halves)}I", *[half << 16 for half in halves])
        return list(struct.unpack(f"<{len(halves)}f", widened))
    if not isinstance(datatype, str) or datatype not in _FORMATS:
        raise UnreadableError(Reason.INVALID_TENSOR, f"unknown datatype {str(datatype)[:40]!r}")
    code, size = _FORMATS[datatype]
    if len(raw) % size:
        raise UnreadableError(
            Reason.INVALID_TENSOR, f"{len(raw)} bytes are no whole number of {datatype} elements"
        )
    return list(struct.unpack(f"<{len(raw) // size}{code}", raw))


def bytes_elements(raw: bytes) -> list[bytes]:
    """Split a BYTES tensor: each element is preceded by its length, 4 bytes, little-endian."""
    elements: list[bytes] = []
    at = 0
    while at < len(raw):
        if at + 4 > len(raw):
            raise UnreadableError(Reason.INVALID_TENSOR, "a BYTES tensor ends inside a length")
        (length,) = struct.unpack_from("<I", raw, at)
        at += 4
        if at + length > len(raw):
            raise UnreadableError(Reason.INVALID_TENSOR, "a BYTES tensor ends inside an element")
        elements.append(raw[at : at + length])
        at += length
    return elements


def _base64_value(value: Any) -> Any:
    """Text that stands for bytes, as bytes are shown everywhere; anything else as it is."""
    if type(value) is not str:
        return value
    try:
        return bytes_value(base64.b64decode(value, validate=True))
    except (binascii.Error, ValueError):
        return value


def split_binary(body: bytes, header_length: int | None, content_type: str) -> tuple[bytes, bytes]:
    """JSON header and binary part of a body, by `Inference-Header-Content-Length`; without it the body is all JSON.

    Raises `UnreadableError` when the header is longer than the body, or for raw bytes without any header.
    """
    if header_length is None:
        if "octet-stream" in content_type.lower():
            raise UnreadableError(
                Reason.UNSUPPORTED_CONTENT_TYPE, "binary data without Inference-Header-Content-Length"
            )
        return body, b""
    if header_length == 0:
        raise UnreadableError(Reason.UNSUPPORTED_CONTENT_TYPE, "a raw binary request has no names")
    if not 0 < header_length <= len(body):
        raise UnreadableError(
            Reason.INVALID_TENSOR, f"a header of {header_length} bytes in a body of {len(body)}"
        )
    return body[:header_length], body[header_length:]
