"""How a segment lies on disk, and the names of its files. Shared by writer and reader; touches no file itself.

A segment is an eight-byte magic and then entries: little-endian u32 length, u32 CRC-32 of the payload, payload.
`<writer>.counts` holds the writer's own counters in one page that is mapped into memory, so that they outlive a killed process;
the writer keeps an exclusive flock on it for as long as it lives.
"""

from __future__ import annotations

import re
import struct
import zlib

MAGIC = b"mgjrnl1\n"
ENTRY = struct.Struct("<II")
MAX_PAYLOAD = 64 * 1024 * 1024

COUNTS_SIZE = 4096
COUNTER = struct.Struct("<Q")
RECEIVED, APPENDED = 0, 8
# Why a record was not kept. Fixed places: append only.
DROP_REASONS = ("full", "io_error", "too_large", "interrupted")
DROPPED = {reason: 16 + 8 * place for place, reason in enumerate(DROP_REASONS)}

_SEGMENT = re.compile(r"(?P<writer>[a-z0-9]+-[0-9a-f]+-[0-9]+)-(?P<segment>[0-9]{8})\.seg")
_COUNTS = re.compile(r"(?P<writer>[a-z0-9]+-[0-9a-f]+-[0-9]+)\.counts")


def writer_name(slot: str, started_ns: int, pid: int) -> str:
    """A name no other process on this host has had: slot, start and process id; sorts by age within a slot."""
    return f"{slot}-{started_ns:016x}-{pid}"


def segment_name(writer: str, segment: int) -> str:
    return f"{writer}-{segment:08d}.seg"


def counts_name(writer: str) -> str:
    return f"{writer}.counts"


def parse_segment_name(name: str) -> tuple[str, int] | None:
    """(writer, segment), or None for another file."""
    found = _SEGMENT.fullmatch(name)
    return (found["writer"], int(found["segment"])) if found else None


def parse_counts_name(name: str) -> str | None:
    """The writer, or None for another file."""
    found = _COUNTS.fullmatch(name)
    return found["writer"] if found else None


def entry(payload: bytes) -> bytes:
    """The payload with its length and checksum in front."""
    return ENTRY.pack(len(payload), zlib.crc32(payload)) + payload
