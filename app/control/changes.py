"""What changed, told to whoever listens: small notices with numbers, so that a listener who comes back misses none unknowingly.

The facts of this moment are looked at once for all listeners, from memory alone, and only while somebody listens. A
listener that does not read is dropped: it must never hold up others, nor make this process grow.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.errors import UnavailableError
from app.link.messages import Series

MAX_LISTENERS = 64
MAX_WAITING = 256  # notices that a listener has not read
KEPT = 256  # notices for those who come back
LOOK_S = 1.0
GATHER_S = 0.05  # what changes together is told together

# By kind and name: what is so at this moment. A notice is made of each that differs from the look before.
Facts = Callable[[], Mapping[tuple[str, str], Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Change:
    """A notice: `number` counts within this process; `kind` is flag, rollout, health or gateway."""

    number: int
    kind: str
    data: Mapping[str, Any]


@dataclass(eq=False, slots=True)
class Listener:
    """One who listens. `resumed` is false when notices may have been missed: then everything is to be read anew."""

    resumed: bool
    number: int  # of the newest notice when it began
    waiting: deque[Change]
    ended: bool = False
    woken: asyncio.Event = field(default_factory=asyncio.Event)

    async def next(self, within_s: float) -> Change | None:
        """The next notice; None when nothing happened for so long, or when `ended`."""
        if not self.waiting and not self.ended:
            self.woken.clear()
            try:
                async with asyncio.timeout(within_s):
                    await self.woken.wait()
            except TimeoutError:
                return None
        return self.waiting.popleft() if self.waiting else None

    def end(self) -> None:
        self.ended = True
        self.woken.set()


class Changes:
    """`run` as a task; `touch` makes it look at once."""

    def __init__(self, *, heartbeat_s: float = 15.0, give_up_s: float = 15.0) -> None:
        self.heartbeat_s = heartbeat_s
        self.give_up_s = give_up_s  # a listener whose connection takes nothing for so long is dropped
        self.dropped: Counter[str] = Counter()
        self._process = secrets.token_hex(4)
        self._number = 0
        self._kept: deque[Change] = deque(maxlen=KEPT)
        self._listeners: set[Listener] = set()
        self._known: dict[tuple[str, str], Mapping[str, Any]] | None = None
        self._wake = asyncio.Event()
        self._closed = False

    # ---- telling

    def touch(self, _: Hashable = None) -> None:
        """Something changed: look soon."""
        self._wake.set()

    async def run(self, facts: Facts) -> None:
        """The owner runs this as a task: looks every second, and at once when touched, while somebody listens."""
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._wake.wait()
                await asyncio.sleep(GATHER_S)
            except TimeoutError:
                pass
            self._wake.clear()
            if self._listeners:
                self.look(facts())

    def look(self, now: Mapping[tuple[str, str], Mapping[str, Any]]) -> None:
        """Tell what differs from the look before; the first look has nothing to differ from."""
        if self._known is not None:
            for key, data in now.items():
                if self._known.get(key) != data:
                    self.publish(key[0], data)
        self._known = dict(now)

    def publish(self, kind: str, data: Mapping[str, Any]) -> None:
        """Tell all listeners. Never waits: who has not read the last notices is dropped."""
        self._number += 1
        change = Change(self._number, kind, data)
        self._kept.append(change)
        for listener in list(self._listeners):
            if len(listener.waiting) >= MAX_WAITING:
                self.drop(listener, "slow")
                continue
            listener.waiting.append(change)
            listener.woken.set()

    # ---- listening

    def name_of(self, number: int) -> str:
        """The notice's id, for `Last-Event-ID`."""
        return f"{self._process}-{number}"

    def listen(self, last: str | None = None) -> Listener:
        """Begin after the notice with this id. `UnavailableError` when too many listen already."""
        if self._closed:
            raise UnavailableError("the gateway stops")
        if len(self._listeners) >= MAX_LISTENERS:
            self.dropped["limit"] += 1
            raise UnavailableError(
                f"{MAX_LISTENERS} clients follow the changes already; poll, or try again later"
            )
        since = self._since(last)
        missed = [] if since is None else [change for change in self._kept if change.number > since]
        listener = Listener(since is not None, self._number, deque(missed))
        if not self._listeners:
            self.touch()
        self._listeners.add(listener)
        return listener

    def _since(self, last: str | None) -> int | None:
        """The number of a notice of ours after which every one is still kept."""
        process, _, number = (last or "").partition("-")
        if process != self._process or not (number.isascii() and number.isdigit()) or len(number) > 18:
            return None
        oldest = self._kept[0].number if self._kept else self._number + 1
        return int(number) if oldest - 1 <= int(number) <= self._number else None

    def leave(self, listener: Listener) -> None:
        self._listeners.discard(listener)

    def drop(self, listener: Listener, reason: str) -> None:
        """End it, once, and count why."""
        if not listener.ended:
            self.dropped[reason] += 1
            listener.waiting.clear()
            listener.end()
        self._listeners.discard(listener)

    def close(self) -> None:
        """End all, so that nothing waits for them: the gateway stops."""
        self._closed = True
        for listener in list(self._listeners):
            listener.end()

    def series(self) -> Iterator[Series]:
        yield Series("gateway_event_clients", (), len(self._listeners))
        for reason, count in self.dropped.items():
            yield Series("gateway_event_clients_dropped_total", (reason,), count)
