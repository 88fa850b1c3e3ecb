"""Loaded by each process of a gateway whose journal lies on a failing disk: fsync of it says EIO while a file is there.

Nothing less than a broken disk makes the kernel say so.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

_failing = Path(os.environ["FAILING_FSYNC"])
_fsync = os.fsync


def _fails(file: int) -> None:
    if _failing.exists() and os.readlink(f"/proc/self/fd/{file}").endswith(".seg"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    _fsync(file)


os.fsync = _fails
