"""Loaded by the interpreter of a worker whose live objects a test counts: SIGUSR1 has them written, by type, to a file."""

from __future__ import annotations

import gc
import json
import os
import signal
from collections import Counter
from pathlib import Path
from types import FrameType

_file = Path(os.environ["LIVING"])


def _count(number: int, frame: FrameType | None) -> None:
    gc.collect()
    objects = gc.get_objects()
    found = Counter(type(one).__name__ for one in objects)
    new = _file.with_suffix(".new")
    new.write_text(json.dumps({"all": len(objects), **found}))
    new.rename(_file)


signal.signal(signal.SIGUSR1, _count)
