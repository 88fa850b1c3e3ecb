"""The worker's end of the link: takes snapshots in, sends statistics and guard trips out, reconnects for ever, and is never waited for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import msgspec

from app.domain.flags import Flags
from app.journal.writer import Writer
from app.link.messages import (
    SIGN_OF_LIFE_S,
    Ask,
    Dependencies,
    Frames,
    GuardTrip,
    Hello,
    ModelChanged,
    Pairs,
    Series,
    Snapshot,
    Tick,
    Totals,
    Upward,
    decode_downward,
    frame,
)
from app.proxy.plane import Plane
from app.proxy.shadow import Shadows

RECONNECT_S = 0.2
BACKLOG_BYTES = 4 * 1024 * 1024  # unsent frames beyond this are dropped: the control process does not read
TRIPS = 64
SILENCE_S = 5 * SIGN_OF_LIFE_S  # after so long the control process hangs, though its socket is open


class _Wire(asyncio.Protocol):
    def __init__(self, link: Link) -> None:
        self._link = link
        self._frames = Frames()
        self.transport: asyncio.Transport | None = None
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # a stream transport by construction
        self._link.opened(self)

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._frames.feed(data):
                self._link.received(body)
        except (ValueError, msgspec.DecodeError):
            self._link.plane.statistics.count("gateway_link_errors_total")
            if self.transport is not None:
                self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._link.ended(self)
        if not self.lost.done():
            self.lost.set_result(None)


class Link:
    """Owned by the worker, which runs `run` and `publish_forever` as its tasks."""

    def __init__(self, path: str, hello: Hello, journal: Writer, wall_s: Callable[[], float]) -> None:
        self._path = path
        self._hello = hello
        self._journal = journal
        self._wall_s = wall_s
        self._wire: _Wire | None = None
        self._unsent_trips: list[GuardTrip] = []
        self._last_tick = 0
        self._heard_at = 0.0  # the loop's time
        self.plane: Plane
        self.shadows: Shadows

    async def run(self) -> None:
        """Connect, stay connected, connect again."""
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(2.0):
                    _, wire = await loop.create_unix_connection(lambda: _Wire(self), self._path)
                await wire.lost
            await asyncio.sleep(RECONNECT_S)

    def opened(self, wire: _Wire) -> None:
        """Before anything is read from it, so that a question asked at once has where to be answered."""
        self._wire = wire
        self._heard_at = self.plane.loop.time()
        self._send(self._hello)
        self._send_totals(0)
        trips, self._unsent_trips = self._unsent_trips, []
        for trip in trips:
            self._tell(trip)

    def ended(self, wire: _Wire) -> None:
        if self._wire is wire:
            self._wire = None
            self.plane.dependencies_down = ["control"]

    async def publish_forever(self) -> None:
        """Once a second, at the turn of the second: evidence and totals."""
        while True:
            await asyncio.sleep(1.0 - self._wall_s() % 1.0)
            self.publish()
            if self._wire is not None and self.plane.loop.time() - self._heard_at > SILENCE_S:
                self.plane.dependencies_down = ["control"]  # until its next sign of life says otherwise

    def publish(self) -> None:
        """Evidence of the time since the last call. Also called just before flags change, so that no tick mixes two of them."""
        plane = self.plane
        ticks = []
        for track in plane.statistics.tracks.values():
            served = plane.served.get(track.model)
            if served is not None:
                flags = served.flags
                tick = track.since_last(flags.canary_percent, flags.revision, flags.rollout_id)
                if tick is not None:
                    ticks.append(tick)
        # Each tick counts once, by its number: several within one second get numbers of their own.
        self._last_tick = second = max(self._last_tick + 1, int(self._wall_s()))
        if ticks:
            self._send(Tick(second, ticks))
        pairs = self.shadows.take_pairs()
        if pairs:
            self._send(Pairs(second, pairs))
        self._send_totals(0)

    def guard_tripped(self, trip: GuardTrip) -> None:
        self.publish()  # what it is about comes first
        self._tell(trip)

    def _tell(self, trip: GuardTrip) -> None:
        """Now, or when the control process is there again; beyond a bound not at all, which is counted."""
        if self._send(trip):
            return
        if len(self._unsent_trips) < TRIPS:
            self._unsent_trips.append(trip)
        else:
            self.plane.statistics.count("gateway_guard_trips_dropped_total", "unsent")

    def received(self, body: bytes) -> None:
        message = decode_downward(body)
        self._heard_at = self.plane.loop.time()
        plane = self.plane
        match message:
            case Snapshot(models, flags):
                self.publish()
                plane.apply(models, {one.model: one for one in flags})
            case ModelChanged(model, flags_now):
                self._changed(flags_now)
                plane.apply_one(model, flags_now)
            case Dependencies(down):
                plane.dependencies_down = down
            case Ask(nonce):
                self._send_totals(nonce)

    def _changed(self, flags: Flags) -> None:
        served = self.plane.served.get(flags.model)
        if served is not None and served.canary is not None:
            self.publish()

    def _send_totals(self, nonce: int) -> None:
        journal = self._journal
        series = list(self.plane.statistics.series())
        series += [
            Series("gateway_journal_records_total", (kind,), count) for kind, count in journal.records.items()
        ]
        series += [
            Series("gateway_journal_dropped_total", (reason,), count)
            for reason, count in journal.dropped.items()
        ]
        series.append(Series("gateway_journal_fsync_errors_total", (), journal.fsync_errors))
        series.append(Series("gateway_inflight_requests", (), self.plane.inflight))
        series += self.plane.ejected()
        self._send(Totals(series, nonce))

    def _send(self, message: Upward) -> bool:
        """False when it went nowhere: evidence lost is no data, never wrong data."""
        transport = self._wire.transport if self._wire is not None else None
        if transport is None or transport.is_closing():
            return False
        if transport.get_write_buffer_size() > BACKLOG_BYTES:
            transport.abort()
            return False
        transport.write(frame(message))
        return True
