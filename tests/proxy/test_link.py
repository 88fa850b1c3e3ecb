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
from app.link.messages import Ask, Frames, Hello, Totals, decode_upward, frame
from app.proxy.link import Link
from app.proxy.plane import Plane
from app.proxy.shadow import Shadows
from app.proxy.upstream import Upstream


async def _answers_to_a_question_that_is_there_first(directory: Path) -> list[int]:
    """The nonces of the totals that a link sends when the question stands in its socket before it first looks there."""
    loop = asyncio.get_running_loop()
    journal = Writer(JournalPolicy(str(directory / "journal")), "w0")
    with socket.socket(socket.AF_UNIX) as listener, contextlib.closing(journal):
        listener.bind(str(directory / "link.sock"))
        listener.listen(1)
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
            plane.close()
        return nonces


def test_a_question_that_is_asked_at_once_is_answered() -> None:
    with TemporaryDirectory(prefix="mgw") as directory:
        found = uvloop.run(_answers_to_a_question_that_is_there_first(Path(directory)))
    assert found == [0, 7]
