"""The composition root: picks adapters, wires the parts, runs one process of the gateway.

`python -m app.main worker` and `python -m app.main control` are started by `app.supervisor`, with their specification on standard input.
Imports stand inside the functions: a worker must not load what only the control process needs.
"""

from __future__ import annotations

import struct
import sys
from typing import BinaryIO, TypeVar

import msgspec

_LENGTH = struct.Struct("<I")
T = TypeVar("T")


def send_specification(pipe: BinaryIO, specification: object) -> None:
    """Hand a child its specification; the pipe then stays open as a sign of life."""
    data = msgspec.msgpack.encode(specification)
    pipe.write(_LENGTH.pack(len(data)) + data)
    pipe.flush()


def read_specification(kind: type[T]) -> T:
    """The other end, from standard input."""
    stdin = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115  # unbuffered and never closed: it is watched afterwards
    data = b""
    wanted = _LENGTH.size
    while len(data) < wanted:
        piece = stdin.read(wanted - len(data))
        if not piece:
            raise SystemExit("no specification on standard input; start the gateway with `model-gateway serve`")
        data += piece
        if wanted == _LENGTH.size and len(data) == wanted:
            wanted += _LENGTH.unpack(data)[0]
    return msgspec.msgpack.decode(data[_LENGTH.size :], type=kind)


def worker() -> None:
    from app.proxy.worker import WorkerSpec, main

    main(read_specification(WorkerSpec))


def control() -> None:
    from app.compose import ControlSpec, main

    main(read_specification(ControlSpec))


if __name__ == "__main__":
    {"worker": worker, "control": control}[sys.argv[1]]()
