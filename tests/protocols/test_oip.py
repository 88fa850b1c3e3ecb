"""Protocol `oip`: bodies as MLServer, Triton and their clients write them, JSON and binary."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from app.protocols.record import Exchange, Reason, Row
from app.protocols.registry import build_reader


def tensor(name: str, shape: list[int], datatype: str, data: Any, **parameters: Any) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data} | (
        {"parameters": parameters} if parameters else {}
    )


# name, task, inputs, outputs, rows
READ: list[tuple[str, str, list[dict[str, Any]], list[dict[str, Any]], list[Row]]] = [
    (
        "one matrix of four features, flat data",
        "none",
        [tensor("x", [2, 4], "FP32", [1, 2, 3, 4, 5, 6, 7, 8])],
        [tensor("predict", [2, 1], "INT64", [0, 1])],
        [
            Row({"x[0]": 1, "x[1]": 2, "x[2]": 3, "x[3]": 4}, 0),
            Row({"x[0]": 5, "x[1]": 6, "x[2]": 7, "x[3]": 8}, 1),
        ],
    ),
    (
        "the same nested",
        "none",
        [tensor("x", [2, 2], "FP32", [[1.5, 2.5], [3.5, 4.5]])],
        [tensor("predict", [2], "INT64", [0, 1])],
        [Row({"x[0]": 1.5, "x[1]": 2.5}, 0), Row({"x[0]": 3.5, "x[1]": 4.5}, 1)],
    ),
    (
        "a column a tensor, as a pandas client sends them",
        "none",
        [
            tensor("age", [2, 1], "INT64", [41, 27]),
            tensor("city", [2, 1], "BYTES", ["Bern", "Basel"], content_type="str"),
        ],
        [tensor("output-1", [2, 1], "FP64", [0.5, 0.25])],
        [Row({"age": 41, "city": "Bern"}, 0.5), Row({"age": 27, "city": "Basel"}, 0.25)],
    ),
    (
        "label and probabilities",
        "multiclass",
        [tensor("x", [2], "FP32", [1.5, 2.5])],
        [
            tensor("predict", [2], "INT64", [1, 0]),
            tensor("predict_proba", [2, 2], "FP64", [0.25, 0.75, 0.875, 0.125]),
        ],
        [Row({"x": 1.5}, 1, 0.75, (0.25, 0.75)), Row({"x": 2.5}, 0, 0.875, (0.875, 0.125))],
    ),
    (
        "only probabilities of a binary task",
        "binary",
        [tensor("x", [1, 1], "FP32", [1.5])],
        [tensor("predict_proba", [1, 2], "FP64", [[0.25, 0.75]])],
        [Row({"x": 1.5}, 0.75, 0.75, (0.25, 0.75))],
    ),
    (
        "base64 text in a BYTES tensor",
        "none",
        [tensor("t", [1], "BYTES", [base64.b64encode(b"hello").decode()], content_type="base64")],
        [tensor("o", [1], "BYTES", ["yes"])],
        [Row({"t": "hello"}, "yes")],
    ),
    (
        "a reply without a batch dimension",
        "multiclass",
        [tensor("x", [1, 2], "FP32", [1, 2])],
        [tensor("o", [3], "FP32", [0.25, 0.5, 0.25])],
        [Row({"x[0]": 1, "x[1]": 2}, 1, 0.5, (0.25, 0.5, 0.25))],
    ),
]


@pytest.mark.parametrize(
    ("task", "inputs", "outputs", "rows"), [r[1:] for r in READ], ids=[r[0] for r in READ]
)
def test_json_tensors_become_rows(
    task: Any, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]], rows: list[Row]
) -> None:
    reply = {"model_name": "m", "model_version": "3", "outputs": outputs}
    extraction = build_reader("oip", task=task)(
        Exchange(
            json.dumps({"id": "1", "inputs": inputs}).encode(),
            json.dumps(reply).encode(),
            path="/v2/models/m/infer",
        )
    )
    assert list(extraction.rows) == rows
    assert extraction.reason is None, extraction.detail
    assert extraction.facts == {"model_name": "m", "model_version": "3"}


def binary(member: str, *tensors: tuple[str, list[int], str, bytes]) -> tuple[bytes, int]:
    """A body of the binary extension, and the length of its JSON header."""
    header = json.dumps(
        {
            member: [
                {"name": name, "shape": shape, "datatype": kind, "parameters": {"binary_data_size": len(raw)}}
                for name, shape, kind, raw in tensors
            ]
        }
    ).encode()
    return header + b"".join(raw for *_, raw in tensors), len(header)


def bytes_tensor(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


@pytest.mark.parametrize(
    ("datatype", "raw", "value"),
    [
        ("BOOL", b"\x01", True),
        ("UINT8", b"\xff", 255),
        ("INT8", b"\xff", -1),
        ("UINT16", struct.pack("<H", 65535), 65535),
        ("INT16", struct.pack("<h", -2), -2),
        ("UINT32", struct.pack("<I", 2**32 - 1), 2**32 - 1),
        ("INT32", struct.pack("<i", -3), -3),
        ("UINT64", struct.pack("<Q", 2**64 - 1), float(2**64 - 1)),
        ("INT64", struct.pack("<q", -4), -4),
        ("FP16", struct.pack("<e", 1.5), 1.5),
        ("BF16", struct.pack("<f", -2.5)[2:], -2.5),
        ("FP32", struct.pack("<f", 0.25), 0.25),
        ("FP64", struct.pack("<d", 1e-300), 1e-300),
        ("BYTES", bytes_tensor("Zürich".encode()), "Zürich"),
    ],
)
def test_each_binary_datatype_is_read(datatype: str, raw: bytes, value: Any) -> None:
    body, header = binary("inputs", ("x", [1], datatype, raw))
    reply, reply_header = binary("outputs", ("y", [1], "FP32", struct.pack("<f", 7.5)))
    extraction = build_reader("oip")(
        Exchange(
            body,
            reply,
            request_content_type="application/octet-stream",
            request_header_length=header,
            response_header_length=reply_header,
        )
    )
    assert extraction.rows == (Row({"x": value}, 7.5),)
    assert extraction.reason is None


def test_binary_tensors_are_cut_from_the_body_in_order() -> None:
    body, header = binary(
        "inputs",
        ("a", [2, 2], "FP32", struct.pack("<4f", 1, 2, 3, 4)),
        ("b", [2], "BYTES", bytes_tensor(b"left", b"\xff\x00")),
    )
    extraction = build_reader("oip")(
        Exchange(
            body,
            json.dumps({"outputs": [tensor("y", [2], "INT64", [5, 6])]}).encode(),
            request_header_length=header,
        )
    )
    first, second = extraction.rows
    assert first == Row({"a[0]": 1.0, "a[1]": 2.0, "b": "left"}, 5)
    assert second.features is not None
    assert second.features["b"].startswith("bytes:2:sha256:")


def test_a_picture_is_not_stored_element_by_element() -> None:
    raw = bytes(3 * 64 * 64)
    body, header = binary("inputs", ("image", [1, 3, 64, 64], "UINT8", raw), ("k", [1], "INT8", b"\x02"))
    extraction = build_reader("oip")(Exchange(body, b'{"outputs":[]}', request_header_length=header))
    assert extraction.rows[0].features == {"k": 2}
    assert extraction.facts["too_large"] == {"image": 3 * 64 * 64}


GOOD_REPLY = json.dumps({"outputs": [tensor("y", [1], "INT64", [5])]}).encode()


@pytest.mark.parametrize(
    ("request_", "fields", "reason"),
    [
        (b'{"inputs":[{"name":"x","shape":[3],"datatype":"FP32","data":[1,2]}]}', {}, Reason.INVALID_TENSOR),
        (b'{"inputs":[{"name":"x","shape":[-1],"datatype":"FP32","data":[1]}]}', {}, Reason.INVALID_TENSOR),
        (b'{"inputs":[{"name":"x","shape":[99999999999999999999,9],"data":[1]}]}', {}, Reason.INVALID_TENSOR),
        (b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32"}]}', {}, Reason.INVALID_TENSOR),
        (b'{"inputs":{"x":1}}', {}, Reason.UNEXPECTED_SHAPE),
        (b"[]", {}, Reason.UNEXPECTED_SHAPE),
        (
            b'{"inputs":[{"name":"x","shape":[1],"data":[1]},{"name":"z","shape":[2],"data":[1,2]}]}',
            {},
            Reason.ROW_COUNT_MISMATCH,
        ),
        (b"\x00\x01", {"request_content_type": "application/octet-stream"}, Reason.UNSUPPORTED_CONTENT_TYPE),
        (b"\x00\x01", {"request_header_length": 0}, Reason.UNSUPPORTED_CONTENT_TYPE),
        (b"{}", {"request_header_length": 3}, Reason.INVALID_TENSOR),
    ],
)
def test_tensors_that_lie_are_named_and_the_prediction_is_kept(
    request_: bytes, fields: dict[str, Any], reason: Reason
) -> None:
    extraction = build_reader("oip")(Exchange(request_, GOOD_REPLY, **fields))
    assert (extraction.reason, extraction.rows) == (reason, (Row(None, 5),)), extraction.detail


def test_metadata_and_health_are_no_inference() -> None:
    reader = build_reader("oip")
    for path in ("/v2", "/v2/health/ready", "/v2/models/m", "/v2/models/m/versions/1/ready?x=/infer"):
        assert reader(Exchange(b"", b"{}", path=path)).reason is Reason.NOT_INFERENCE
    assert (
        reader(Exchange(b"", b"{}", path="/v2/models/m/versions/1/infer?a=b")).reason
        is not Reason.NOT_INFERENCE
    )


@pytest.mark.parametrize(
    ("datatype", "raw", "cut"),
    [
        ("FP32", b"\x00\x01\x02", 0),
        ("BF16", b"\x00", 0),
        ("FP99", b"\x00", 0),
        ("BYTES", b"\xff\xff\xff\xff!", 0),
        ("BYTES", b"\x01\x00", 0),
        ("FP32", b"1234", 1),
        ("FP32", b"12345678", 0),
    ],
)
def test_binary_data_that_does_not_fit_is_named(datatype: str, raw: bytes, cut: int) -> None:
    body, header = binary("inputs", ("x", [1], datatype, raw))
    extraction = build_reader("oip")(
        Exchange(body[: len(body) - cut], GOOD_REPLY, request_header_length=header)
    )
    assert (extraction.reason, extraction.rows) == (Reason.INVALID_TENSOR, (Row(None, 5),)), extraction.detail
