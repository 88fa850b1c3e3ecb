"""The command line's view of a running gateway: its HTTP API, with a token found where it lies. Never the store, never files."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self
from urllib.parse import quote, urlsplit

import typer

from app.commands import output
from app.errors import GatewayError

if TYPE_CHECKING:
    from httpx2 import Client, Response

Answer = dict[str, Any]

DEFAULT_URL = "http://127.0.0.1:8080"
TIMEOUT_S = 30.0
BUSY = frozenset((429, 502, 503, 504))  # answers that another attempt may better: a part restarts, or is full
FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 10.0
TOKEN_FILE = "admin-token"  # noqa: S105  # a file's name
LARGEST_PROBLEM = 65_536

Url = Annotated[
    str | None,
    typer.Option("--url", help=f"Where the gateway answers [default: GATEWAY_URL, else {DEFAULT_URL}]"),
]
TokenText = Annotated[
    str | None,
    typer.Option(
        "--token", help="Bearer token [default: GATEWAY_TOKEN, else the file admin-token in --data-dir]"
    ),
]
DataDir = Annotated[
    Path, typer.Option("--data-dir", help="Where a gateway on this host keeps its data", show_default=True)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON")]
DATA_DIR = Path("data")


class UsageError(GatewayError):
    """What was asked for cannot be asked for: exit status 2."""


class RefusedError(GatewayError):
    """The gateway's answer is no: exit status 1; 2 when it is about who is asking."""

    def __init__(self, status: int, detail: str, body: Answer) -> None:
        super().__init__(detail)
        self.status = status
        self.body = body


class UnreachableError(GatewayError):
    """No answer came."""


class Gateway:
    """A connection to one gateway. Over https its certificate is checked, against the authorities in GATEWAY_CA when that is set."""

    def __init__(self, client: Client, url: str) -> None:
        self._client = client
        self.url = url

    @classmethod
    def at(cls, url: str | None, token: str | None, data_dir: Path, timeout_s: float = TIMEOUT_S) -> Self:
        """Connects when first used. `UsageError` for a URL that is none."""
        import ssl

        import httpx2

        from app import config

        known = config.client()
        base = (url or known.url or DEFAULT_URL).rstrip("/")
        if urlsplit(base).scheme not in ("http", "https") or not urlsplit(base).hostname:
            raise UsageError(f"--url: {base!r} is no http or https URL; write one such as {DEFAULT_URL}")
        found = token or known.token or _token_on_disk(base, data_dir)
        headers = {"Authorization": f"Bearer {found}"} if found else {}
        try:
            # Plain http trusts nobody, and does without reading the system's authorities.
            trusted = (
                ssl.create_default_context(cafile=known.ca)
                if base.startswith("https")
                else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            )
            # trust_env: a proxy set for the internet must not get to see the token
            return cls(
                httpx2.Client(
                    base_url=base, headers=headers, timeout=timeout_s, trust_env=False, verify=trusted
                ),
                base,
            )
        except OSError as error:
            raise UsageError(f"GATEWAY_CA: {known.ca}: {error.strerror or error}") from None
        except (httpx2.InvalidURL, UnicodeEncodeError, ValueError) as error:
            raise UsageError(f"--url or --token cannot be used: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def get(self, path: str, **parameters: object) -> Answer:
        return self._answer(self._exchange("GET", path, parameters))

    def look(self, path: str) -> tuple[int, Answer]:
        """Status and body of a path that needs no token, whatever the status."""
        reply = self._exchange("GET", path, {})
        return reply.status_code, _json(reply)

    def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        return self._answer(self._exchange(method, path, {}, json=body, headers=headers))

    def post_lines(self, path: str, lines: bytes) -> Answer:
        """NDJSON."""
        reply = self._exchange(
            "POST", path, {}, content=lines, headers={"Content-Type": "application/x-ndjson"}
        )
        return self._answer(reply)

    @contextmanager
    def stream(self, path: str, **parameters: object) -> Iterator[Response]:
        """A long answer, to be read piece by piece. `UnreachableError` also when it breaks off."""
        import httpx2

        try:
            with self._client.stream("GET", path, params=_given(parameters)) as reply:
                if reply.is_error:
                    reply.read()
                    self._answer(reply)
                yield reply
        except httpx2.HTTPError as error:
            raise self._unreachable(error) from None

    def _exchange(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, object],
        *,
        json: object = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        import httpx2

        try:
            return self._client.request(
                method,
                path,
                params=_given(parameters),
                json=json,
                content=content,
                headers=dict(headers or {}),
            )
        except httpx2.HTTPError as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> UnreachableError:
        what = str(error) or type(error).__name__
        return UnreachableError(
            f"no answer from {self.url} ({what}); is the gateway running there? Name it with --url"
        )

    def _answer(self, reply: Response) -> Answer:
        body = _json(reply)
        if not reply.is_error:
            return body
        detail = str(body.get("detail") or body.get("title") or f"{reply.status_code} {reply.reason_phrase}")
        if reply.status_code == 401:
            detail += "; give a token with --token or GATEWAY_TOKEN, or name the gateway's --data-dir"
        raise RefusedError(reply.status_code, detail, body)


def patiently(
    ask: Callable[[], Answer], patience_s: float, longest_delay_s: float = LONGEST_DELAY_S
) -> Answer:
    """What the gateway answers, asked again while it is away or busy, as when its control process restarts: so often that an
    answer within `patience_s` is had. Says once, on standard error, that it waits. `UnreachableError` with the last reason."""
    delay, end = min(FIRST_DELAY_S, longest_delay_s), time.monotonic() + patience_s
    told = False
    while True:
        try:
            return ask()
        except (UnreachableError, RefusedError) as error:
            if isinstance(error, RefusedError) and error.status not in BUSY:
                raise
            if time.monotonic() + delay > end:
                raise UnreachableError(str(error)) from None
            if not told:
                output.say(f"{error}; trying again for up to {patience_s:g} s")
            told = True
        time.sleep(delay)
        delay = min(delay * 2, longest_delay_s)


def model_path(model: str, *parts: str) -> str:
    """`/admin/models/{model}/…`, each part percent-encoded."""
    return "/".join(("/admin/models", *(quote(part, safe="") for part in (model, *parts))))


def listed(answer: Answer, name: str) -> list[Answer]:
    """The list under this name; empty when the answer has none."""
    found = answer.get(name)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _json(reply: Response) -> Answer:
    try:
        body = reply.json()
    except (ValueError, RecursionError):
        return {
            "detail": f"{reply.status_code} {reply.text[:200]!r}, which is no JSON; is this a model gateway?"
        }
    return body if isinstance(body, dict) else {"items": body}


def _given(parameters: Mapping[str, object]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value is not None}


def _token_on_disk(url: str, data_dir: Path) -> str | None:
    """The first admin token, but only for a gateway on this host: it opens nothing elsewhere, and must not leak there."""
    if not _is_this_host(urlsplit(url).hostname or ""):
        return None
    try:
        return (data_dir / TOKEN_FILE).read_text("ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _is_this_host(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
