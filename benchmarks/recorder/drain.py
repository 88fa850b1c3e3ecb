"""The recorder alone, in a process of its own: moves a journal into PostgreSQL and says how it went, one JSON line at each tenth."""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import time
from pathlib import Path

import uvloop

from app.adapters.stores import open_store
from app.control.clock import SystemClock
from app.control.recorder import Recorder
from app.control.registry import Registry
from app.journal.reader import Journal
from benchmarks.recorder.material import MODEL

_PAGE = os.sysconf("SC_PAGE_SIZE")


def _rss_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE / 2**20


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def drain(journal: Path, url: str, records: int) -> None:
    store = await open_store(url)
    try:
        registry = Registry((MODEL,), store)
        recorder = Recorder(Journal(journal), store, registry.by_name, SystemClock(), "benchmark")
        done, told = 0, 0
        begun, cpu = time.perf_counter(), _cpu_s()
        while done < records:
            moved = await recorder.step()
            if not moved:
                raise SystemExit(f"the journal ended after {done} of {records} records")
            done += moved
            if done * 10 // records > told:
                told = done * 10 // records
                figures = {"records": done, "seconds": time.perf_counter() - begun, "rss_mb": _rss_mb()}
                print(json.dumps({**figures, "cpu_s": _cpu_s() - cpu}), flush=True)
    finally:
        await store.close()


if __name__ == "__main__":
    # As the control process has it (app.main).
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    uvloop.run(drain(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
