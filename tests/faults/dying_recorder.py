"""A recorder that kills itself at a chosen point, as `kill -9` would: `python -m tests.faults.dying_recorder URL DIRECTORY`.

Each line `NUMBER POINT` on standard input is one recorder, a fork of this process, which has loaded everything; it is answered with
how that ended: the exit status, negative for a signal. NUMBER says at which visit of the point. At `never` it runs until the journal
is empty.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from app.adapters.stores import open_store
from app.control.clock import SystemClock
from app.control.ports import Batch, Store
from app.control.recorder import Recorder
from app.domain.model import Model, Version
from app.journal.reader import Journal, ReadResult, SegmentInfo

POINTS = ("read", "before commit", "during commit", "after commit", "before delete", "after delete")
MODEL = Model("credit", "v1", (Version("v1", ("http://127.0.0.1:1",)),), protocol="json", task="binary")


class Fate:
    def __init__(self, point: str, number: int) -> None:
        self._point = point
        self._left = number

    def reached(self, point: str) -> bool:
        """Whether the end has come."""
        if point != self._point:
            return False
        self._left -= 1
        return self._left == 0

    def at(self, point: str) -> None:
        if self.reached(point):
            os.kill(os.getpid(), signal.SIGKILL)


class DyingStore:
    def __init__(self, store: Store, fate: Fate) -> None:
        self._store = store
        self._fate = fate

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def load(self, batch: Batch) -> None:
        self._fate.at("before commit")
        if self._fate.reached("during commit"):
            asyncio.get_running_loop().call_later(0.01, os.kill, os.getpid(), signal.SIGKILL)
        await self._store.load(batch)
        self._fate.at("after commit")


class DyingJournal(Journal):
    def __init__(self, directory: Path, fate: Fate) -> None:
        super().__init__(directory)
        self._fate = fate

    def read(self, info: SegmentInfo, offset: int, limit_bytes: int) -> ReadResult:
        result = super().read(info, offset, limit_bytes)
        self._fate.at("read")
        return result

    def delete(self, info: SegmentInfo) -> None:
        self._fate.at("before delete")
        super().delete(info)
        self._fate.at("after delete")


async def main(url: str, directory: Path, fate: Fate) -> None:
    store = await open_store(url)
    journal = DyingJournal(directory, fate)
    recorder = Recorder(
        journal, DyingStore(store, fate), lambda: {MODEL.name: MODEL}, SystemClock(), "test-host"
    )
    running = asyncio.create_task(recorder.run())
    while journal.segments() or journal.counts():
        await asyncio.sleep(0.05)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await store.close()


def fork(url: str, directory: Path, fate: Fate) -> int:
    child = os.fork()
    if child == 0:
        try:
            asyncio.run(main(url, directory, fate))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    for line in sys.stdin:
        visit, _, where = line.strip().partition(" ")
        print(fork(sys.argv[1], Path(sys.argv[2]), Fate(where, int(visit))), flush=True)
