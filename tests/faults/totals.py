"""What a worker counts, asked for over its link as the control process asks: for tests of a worker that has none."""

from __future__ import annotations

import itertools
import socket
import time
from types import TracebackType

from app.link.messages import Ask, Frames, Series, Totals, decode_upward, frame
from tests.worker import RunningWorker, eventually


class WorkerTotals:
    """Listens where the control process would, for as long as the block lasts. Blocks; a worker answers within milliseconds."""

    def __init__(self, worker: RunningWorker) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(worker.runtime / "link.sock"))
        self._listener.listen(1)
        self._listener.settimeout(10)
        self._nonces = itertools.count(1)
        self._frames = Frames()
        self._link: socket.socket | None = None

    def __enter__(self) -> WorkerTotals:
        self._link, _ = self._listener.accept()
        self._link.settimeout(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in (self._link, self._listener):
            if one is not None:
                one.close()

    def series(self) -> list[Series]:
        """All of them, as they are now."""
        assert self._link is not None
        nonce = next(self._nonces)
        self._link.sendall(frame(Ask(nonce)))
        deadline = time.monotonic() + 10  # of the answer: other messages keep coming, each second
        while data := self._link.recv(1 << 20):
            for body in self._frames.feed(data):
                message = decode_upward(body)
                if isinstance(message, Totals) and message.nonce == nonce:
                    return message.series
            assert time.monotonic() < deadline, "the worker does not answer a question"
        raise AssertionError("the worker closed its link")

    def value(self, name: str, *labels: str) -> float:
        """The sum of the series of this name that bear all of these labels."""
        return sum(one.value for one in self.series() if one.name == name and set(labels) <= set(one.labels))

    def inflight(self) -> float:
        """Requests that the worker serves now, each in one of `max_inflight` places."""
        return self.value("gateway_inflight_requests")

    def all_places_free(self, within_s: float = 5.0) -> None:
        """Wait until nothing is being served."""
        eventually(lambda: self.inflight() == 0, within_s, "the end of all requests under way")
