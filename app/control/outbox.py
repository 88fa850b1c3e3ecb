"""News for other systems: CloudEvents kept on disk until they are delivered, at least once, in order for
each receiver.

Nothing waits for a receiver: a dead one costs a bounded number of files and is tried ever more slowly.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import structlog

from app.control.clock import Clock
from app.errors import UnavailableError

log = structlog.get_logger(__name__)

MAX_WAITING = 1000  # beyond it the oldest go
FIRST_RETRY_S = 1.0
LAST_RETRY_S = 300.0
GIVE_UP_S = 3 * 86_400.0
MEDIA_TYPE = "application/cloudevents+json"
_SECRET = "webhook-secret"  # noqa: S105 - the name of a file

Post = Callable[[str, bytes, Mapping[str, str]], Awaitable[int]]
"""Sends a body with headers to a URL; the status of the answer, `UnavailableError` when there was none."""


class Letter(msgspec.Struct, frozen=True):
    """One event on its way. The file's name is its age and its id."""

    url: str
    id: str
    written_at: float  # seconds since the epoch
    body: bytes


class Outbox:
    """`put`, and `run` as a task. The id of an event never changes, so that a receiver can tell a
    repetition.
    """

    def __init__(
        self, directory: Path, post: Post, clock: Clock, source: str, secret_file: Path | None = None
    ) -> None:
        """Without a `secret_file` a secret is made beside the events."""
        self._directory = directory
        self._secret_file = secret_file
        self._post = post
        self._clock = clock
        self._source = source
        self._wake = asyncio.Event()
        self._wait_s: dict[str, float] = {}  # by receiver, while it does not answer
        self._next_try: dict[str, float] = {}
        self._newest = 0  # place of the last event in the order, in microseconds unless several fell into one
        self.counts: Counter[str] = Counter()  # delivered, refused, given_up, dropped, failed

    def prepare(self) -> None:
        """Make the secret, so that a receiver can know it before the first event. What the disk does is logged and
        survived: each event tries again.
        """
        try:
            self._secret()
        except OSError as error:
            log.warning("the secret of webhooks cannot be made or read", error=str(error))

    async def put(self, url: str, kind: str, model: str, data: Mapping[str, Any]) -> None:
        """Keep an event (CloudEvents 1.0, structured JSON) for a receiver. A full disk is logged and
        survived.
        """
        now = self._clock.now()
        identity = secrets.token_hex(16)
        body = msgspec.json.encode(
            {
                "specversion": "1.0",
                "id": identity,
                "source": self._source,
                "type": f"model-gateway.{kind}",
                "subject": model,
                "time": now,
                "datacontenttype": "application/json",
                "data": data,
            }
        )
        try:
            await asyncio.to_thread(self._write, Letter(url, identity, now.timestamp(), body))
        except OSError as error:
            self.counts["dropped"] += 1
            log.warning(
                "an event could not be kept for its webhook", kind=kind, model=model, error=str(error)
            )
        self._wake.set()

    def _write(self, letter: Letter) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._newest = max(int(letter.written_at * 1e6), self._newest + 1)
        path = self._directory / f"{self._newest:020d}-{letter.id}.event"
        temporary = path.with_suffix(".new")
        with temporary.open("wb") as file:
            file.write(msgspec.msgpack.encode(letter))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        for old in self._files()[:-MAX_WAITING]:
            old.unlink(missing_ok=True)
            self.counts["dropped"] += 1

    def _files(self) -> list[Path]:
        """Oldest first."""
        return sorted(self._directory.glob("*.event")) if self._directory.is_dir() else []

    async def run(self) -> None:
        """The owner runs this as a task."""
        while True:
            wait_s = await self.deliver()
            self._wake.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def deliver(self) -> float | None:
        """Try what is due, oldest first; seconds until the next try, None when nothing waits."""
        held: set[str] = set()  # receivers that failed: what comes later must not overtake
        for path in await asyncio.to_thread(self._files):
            letter = await asyncio.to_thread(_read, path)
            if letter is None:
                self.counts["dropped"] += 1
            elif (
                letter.url in held
                or self._clock.monotonic() < self._next_try.get(letter.url, 0.0)
                or not await self._sent(letter)
            ):
                held.add(letter.url)
                continue
            path.unlink(missing_ok=True)
        if not held:
            return None
        return max(0.05, min(self._next_try[url] for url in held) - self._clock.monotonic())

    async def _sent(self, letter: Letter) -> bool:
        """True when the event is settled: delivered, refused for good, or too old."""
        try:
            status = await self._post(letter.url, letter.body, self._headers(letter))
        except (UnavailableError, OSError) as error:  # OSError: without its secret nothing is sent
            status, reason = 0, str(error)
        else:
            reason = f"answered {status}"
        if 200 <= status < 300:
            self.counts["delivered"] += 1
            self._wait_s.pop(letter.url, None)
            self._next_try.pop(letter.url, None)
            return True
        if status in (400, 404, 405, 410, 413, 415, 422):
            self.counts["refused"] += 1
            log.warning("a webhook refuses an event for good", reason=reason, event_id=letter.id)
            return True
        if self._clock.now().timestamp() - letter.written_at > GIVE_UP_S:
            self.counts["given_up"] += 1
            return True
        self.counts["failed"] += 1
        wait = min(self._wait_s.get(letter.url, FIRST_RETRY_S / 2) * 2, LAST_RETRY_S)
        self._wait_s[letter.url] = wait
        self._next_try[letter.url] = self._clock.monotonic() + wait
        log.info("a webhook does not answer; tried again later", reason=reason, wait_s=wait)
        return False

    def _headers(self, letter: Letter) -> dict[str, str]:
        """The signature is HMAC-SHA256 over `<time>.<body>`: a receiver can refuse what is forged and what
        is old.
        """
        at = str(int(self._clock.now().timestamp()))
        signature = hmac.new(self._secret(), f"{at}.".encode() + letter.body, hashlib.sha256).hexdigest()
        return {"Content-Type": MEDIA_TYPE, "X-Gateway-Signature": f"t={at},v1={signature}"}

    def _secret(self) -> bytes:
        """Read each time, so that a new one holds at once. Made when missing, mode 0600, beside the events; whoever runs the
        receiver copies it from there. `OSError` when it cannot be.
        """
        if self._secret_file is not None:
            return _signing_key(self._secret_file)
        path = self._directory / _SECRET
        if not path.exists() or not path.stat().st_size:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            whole = path.with_suffix(f".new-{os.getpid()}")  # a kill in between must not leave half a secret
            file = os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(file, "w") as stream:
                stream.write(secrets.token_hex(32) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            whole.replace(path)
        return _signing_key(path)


def _signing_key(path: Path) -> bytes:
    """The file without white space around it. `OSError` when there is nothing in it: anybody could sign with that."""
    key = path.read_bytes().strip()
    if not key:
        raise OSError(f"{path} is empty")
    return key


def _read(path: Path) -> Letter | None:
    """None for a damaged file."""
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=Letter)
    except (OSError, msgspec.DecodeError) as error:
        log.warning("a kept event cannot be read", path=str(path), error=str(error))
        return None
