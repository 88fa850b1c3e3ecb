"""The worker's end of the link, in the loop that a worker runs in."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop

from app.domain.policy import AuthPolicy, JournalPolicy, ServerPolicy
from app.journal.writer import Writer
from app.link.messages import Ask, Frames, GuardTrip, Hello, Totals, decode_upward, frame
from app.proxy.link import TRIPS, Link
from app.proxy.plane import Plane
from app.proxy.shadow import Shadows
from app.proxy.upstream import Upstream


def linked(loop: asyncio.AbstractEventLoop, directory: Path, journal: Writer) -> Link:
    link = Link(str(directory / "link.sock"), Hello("w0", os.getpid(), journal.name), journal, time.time)
    plane = Plane(
        loop,
        ServerPolicy(),
        AuthPolicy(),
        journal,
        capture_bytes=1000,
        control=Upstream(loop, (f"unix://{directory}/api.sock",), timeout_s=1.0, connect_timeout_s=1.0),
        privacy_secret=b"test",
        guard_listener=link,
        wall_ns=time.time_ns,
    )
    link.plane, link.shadows = plane, Shadows(plane)
    return link


async def _answers_to_a_question_that_is_there_first(directory: Path) -> list[int]:
    """The nonces of the totals that a link sends when the question stands in its socket before it first looks there."""
    loop = asyncio.get_running_loop()
    journal = Writer(JournalPolicy(str(directory / "journal")), "w0")
    with socket.socket(socket.AF_UNIX) as listener, contextlib.closing(journal):
        listener.bind(str(directory / "link.sock"))
        listener.listen(1)
        link = linked(loop, directory, journal)
        running = loop.create_task(link.run())
        await asyncio.sleep(0)  # it has called connect() by now, and not yet waited for anything
        listener.settimeout(10)
        control, _ = listener.accept()
        control.sendall(frame(Ask(7)))
        reader, writer = await asyncio.open_unix_connection(sock=control)
        frames = Frames()
        nonces: list[int] = []
        try:
            async with asyncio.timeout(5):
                while len(nonces) < 2:
                    messages = [decode_upward(body) for body in frames.feed(await reader.read(65536))]
                    nonces += [message.nonce for message in messages if isinstance(message, Totals)]
        except TimeoutError:
            pass  # what came is told
        finally:
            writer.close()
            running.cancel()
            await asyncio.gather(running, writer.wait_closed(), return_exceptions=True)
            link.plane.close()
        return nonces


def test_a_question_that_is_asked_at_once_is_answered() -> None:
    with TemporaryDirectory(prefix="mgw") as directory:
        found = uvloop.run(_answers_to_a_question_that_is_there_first(Path(directory)))
    assert found == [0, 7]


async def test_trips_that_nobody_takes_are_kept_up_to_a_bound_and_the_others_counted(tmp_path: Path) -> None:
    with contextlib.closing(Writer(JournalPolicy(str(tmp_path / "journal")), "w0")) as journal:
        link = linked(asyncio.get_running_loop(), tmp_path, journal)
        for number in range(TRIPS + 3):
            link.guard_tripped(GuardTrip(f"m{number}", "v2", "", 1, "errors", 20, 20, 0))
        counted = {
            one.labels: one.value
            for one in link.plane.statistics.series()
            if one.name == "gateway_guard_trips_dropped_total"
        }
        assert counted == {("unsent",): 3}
        link.plane.close()
