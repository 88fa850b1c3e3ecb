"""The control process's end of the link, over its real Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.control import link_server
from app.link.buckets import DURATION_BOUNDS
from app.link.messages import (
    MAX_FRAME,
    Ask,
    Dependencies,
    Downward,
    Frames,
    GuardTrip,
    Hello,
    ModelChanged,
    Series,
    Snapshot,
    Totals,
    decode_downward,
    frame,
)
from tests.control_parts import Control, control, until


class FakeWorker:
    """A worker's end of the socket, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer
        self._frames = Frames()
        self._waiting: list[bytes] = []

    async def next(self) -> Downward | None:
        """The next message; None when the connection has ended."""
        async with asyncio.timeout(5):
            while not self._waiting:
                data = await self._reader.read(65_536)
                if not data:
                    return None
                self._waiting += self._frames.feed(data)
        return decode_downward(self._waiting.pop(0))

    async def ended(self) -> bool:
        with contextlib.suppress(ConnectionError):
            while await self.next() is not None:
                pass
        return True


@contextlib.asynccontextmanager
async def worker(
    parts: Control, slot: str | None = "w0", writer: str = "w0-1-1"
) -> AsyncIterator[FakeWorker]:
    reader, stream = await asyncio.open_unix_connection(str(parts.directory / "link.sock"))
    try:
        made = FakeWorker(reader, stream)
        if slot is not None:
            stream.write(frame(Hello(slot, 1, writer)))
            assert isinstance(await made.next(), Snapshot)
            assert isinstance(await made.next(), Dependencies)
        yield made
    finally:
        stream.close()
        with contextlib.suppress(ConnectionError):
            await stream.wait_closed()


async def test_a_worker_hears_from_the_control_process_also_when_nothing_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_server, "SIGN_OF_LIFE_S", 0.01)
    async with control(tmp_path) as parts, worker(parts) as one:
        living = asyncio.create_task(parts.link.run())
        assert [await one.next(), await one.next()] == [Dependencies([]), Dependencies([])]
        parts.link.set_down(["store"])
        while await one.next() != Dependencies(["store"]):
            pass
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)


def requests(count: float, version: str = "v1") -> Series:
    return Series("gateway_requests_total", ("credit", version, "production", "200"), count)


async def test_a_worker_that_says_hello_gets_all_models_with_their_flags(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, worker(parts, None) as one:
        one.writer.write(frame(Hello("w0", 1, "w0-1-1")))
        snapshot = await one.next()
        assert isinstance(snapshot, Snapshot)
        assert ([model.name for model in snapshot.models], snapshot.flags) == (["credit"], parts.flags.all())
        await until(lambda: [hello.worker for hello in parts.link.workers] == ["w0"])


async def test_a_change_of_flags_reaches_every_worker_at_once_also_while_the_store_is_down(
    tmp_path: Path,
) -> None:
    async with control(tmp_path) as parts, worker(parts) as one, worker(parts, "w1", "w1-1-2") as two:
        parts.store.down = True
        await parts.flags.change("credit", {"disabled_versions": ("v3",)}, actor="ops", origin="", reason="")
        for each in (one, two):
            changed = await each.next()
            assert isinstance(changed, ModelChanged)
            assert changed.flags.disabled_versions == ("v3",)


async def test_a_registered_version_reaches_the_workers(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, worker(parts) as one, parts.client() as client:
        await client.put("/admin/models/credit/versions/v4", json={"url": "http://127.0.0.1:9004"})
        changed = await one.next()
        assert isinstance(changed, ModelChanged)
        assert changed.model.version("v4") is not None


async def test_dependencies_that_are_down_are_told_once_and_to_newcomers(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, worker(parts) as one:
        parts.link.set_down(["store"])
        parts.link.set_down(["store"])
        parts.link.set_down([])
        assert [await one.next(), await one.next()] == [Dependencies(["store"]), Dependencies([])]


async def test_totals_of_all_workers_are_asked_for_and_added_up(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, worker(parts) as one, worker(parts, "w1", "w1-1-2") as two:
        collecting = asyncio.create_task(parts.link.collect(5.0))
        for each, count in ((one, 3.0), (two, 4.0)):
            ask = await each.next()
            assert isinstance(ask, Ask)
            each.writer.write(frame(Totals([requests(count)], ask.nonce)))
        sums = await collecting
        assert [value.value for value in sums.values()] == [7.0]


async def test_of_a_worker_that_does_not_answer_the_last_totals_count_and_nobody_waits_long(
    tmp_path: Path,
) -> None:
    async with control(tmp_path) as parts, worker(parts) as one:
        one.writer.write(frame(Totals([requests(3)])))
        await until(lambda: parts.link.totals.total())
        sums = await parts.link.collect(0.05)
        assert [value.value for value in sums.values()] == [3.0]


async def test_counters_never_go_back_when_a_worker_dies_and_another_takes_its_slot(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        gauge = Series("gateway_inflight_requests", (), 5)
        slots = (1,) * (len(DURATION_BOUNDS) + 1)
        histogram = Series("gateway_overhead_seconds", ("credit",), 2.0, slots)
        async with worker(parts) as one:
            one.writer.write(frame(Totals([requests(10), gauge, histogram])))
            await until(lambda: len(parts.link.totals.total()) == 3)
        assert (await parts.link.collect())[requests(0).name, requests(0).labels].value == 10
        async with worker(parts, "w0", "w0-2-2") as two:
            two.writer.write(frame(Totals([requests(1), histogram])))
            await until(lambda: parts.link.totals.total()[requests(0).name, requests(0).labels].value == 11)
            sums = parts.link.totals.total()
            assert ("gateway_inflight_requests", ()) not in sums
            assert sums["gateway_overhead_seconds", ("credit",)].buckets == tuple(2 * one for one in slots)


async def test_a_worker_that_reconnects_is_not_counted_twice(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        for _ in range(3):
            async with worker(parts) as one:
                one.writer.write(frame(Totals([requests(10)])))
                await until(lambda: parts.link.totals.total())
        assert [value.value for value in (await parts.link.collect()).values()] == [10]


@pytest.mark.parametrize(
    "nonsense",
    [
        struct.pack("<I", 3) + b"\xc1\xc1\xc1",
        struct.pack("<I", MAX_FRAME + 1),
        struct.pack("<I", 1000) + b"\x91" * 1000,
        frame(Hello("w0", 1, "w0-1-1")),
        frame(Ask(1)),
    ],
    ids=["no msgpack", "too large", "nested deeply", "a second hello", "a downward message"],
)
async def test_nonsense_closes_that_connection_and_no_other(tmp_path: Path, nonsense: bytes) -> None:
    async with control(tmp_path) as parts, worker(parts, "w1", "w1-1-2") as good, worker(parts) as bad:
        bad.writer.write(nonsense)
        assert await bad.ended()
        parts.link.set_down(["flags"])
        assert await good.next() == Dependencies(["flags"])
        assert parts.link.misbehaved == 1


async def test_who_does_not_say_hello_first_is_not_listened_to(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, worker(parts, None) as silent:
        silent.writer.write(frame(GuardTrip("credit", "v2", "", 1, "because", 20, 20, 0)))
        assert await silent.ended()


async def test_who_never_says_hello_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_server, "HELLO_S", 0.05)
    async with control(tmp_path) as parts, worker(parts, None) as silent:
        assert await silent.ended()


async def test_a_worker_that_does_not_read_is_cut_off_instead_of_filling_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_server, "BACKLOG_BYTES", 100_000)
    async with control(tmp_path) as parts, worker(parts):
        for number in range(20_000):
            parts.link.set_down([f"dependency {number}"])
        await until(lambda: not parts.link.workers)


async def test_series_that_nobody_knows_or_that_are_too_many_are_refused(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, worker(parts) as one:
        strange = [
            Series("gateway_invented_total", (), 1),
            Series("gateway_requests_total", ("too", "few"), 1),
            Series("gateway_requests_total", ("credit", "v" * 1000, "production", "200"), 1),
            Series("gateway_overhead_seconds", ("credit",), 1.0, (1, 2)),
        ]
        one.writer.write(frame(Totals([*strange, requests(1)])))
        await until(lambda: parts.link.totals.total())
        assert len(parts.link.totals.total()) == 1
        assert parts.link.totals.refused == 4


async def test_the_socket_is_the_owners_alone_and_a_left_over_one_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(tmp_path / "link.sock"))
    async with control(tmp_path) as parts, worker(parts):
        assert parts.directory.joinpath("link.sock").stat().st_mode & 0o777 == 0o600
