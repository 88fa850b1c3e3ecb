"""Who may call what: tokens, scopes, guessing, and that nothing is open by accident."""

from __future__ import annotations

import contextlib
import hmac
from hashlib import sha256
from pathlib import Path

import httpx2
import pytest
from starlette.requests import Request

from app.api.auth import Authenticator, TooManyFailuresError, UnauthenticatedError
from app.control.tokens import FILE_NAME, with_first_token
from app.domain.attempts import FAILURES, REFILL_S
from app.domain.policy import AuthPolicy
from app.errors import ConfigurationError
from tests.control_parts import ADMIN, Control, TurnedClock, control, token

OPEN = {
    ("GET", "/metrics"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/"),
    ("GET", "/ui/{path:path}"),
}


async def get(parts: Control, path: str = "/admin/models", **headers: str) -> httpx2.Response:
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=parts.application), base_url="http://gateway", headers=headers
    ) as client:
        return await client.get(path)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Basic admin-secret",
        "admin-secret",
        "Bearer admin-secret x",
        "bearer\tadmin-secret",
        "Bearer " + "x" * 5000,
    ],
)
async def test_without_a_valid_token_nothing_is_told(tmp_path: Path, header: str | None) -> None:
    async with control(tmp_path) as parts:
        reply = await get(parts, **({} if header is None else {"Authorization": header}))
        assert reply.status_code == 401
        assert reply.headers["www-authenticate"].startswith("Bearer")
        assert reply.json()["code"] == "unauthenticated"
        assert "secret" not in reply.text


async def test_two_authorization_headers_are_none(tmp_path: Path) -> None:
    async with control(tmp_path) as parts, parts.client() as client:
        both = [("Authorization", ADMIN["Authorization"]), ("Authorization", "Bearer other")]
        assert (await client.get("/admin/models", headers=both)).status_code == 401


async def test_every_route_but_the_open_ones_needs_a_token(tmp_path: Path) -> None:
    async with (
        control(tmp_path) as parts,
        httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=parts.application), base_url="http://gateway"
        ) as client,
    ):
        seen = 0
        for path, operations in parts.application.openapi()["paths"].items():
            for method in operations:
                if (method.upper(), path) in OPEN:
                    continue
                seen += 1
                reply = await client.request(
                    method,
                    path.format_map(_Any()),
                    content=b"{not json",
                    headers={"X-Forwarded-For": f"10.0.0.{seen}"},
                )
                assert reply.status_code == 401, (method, path)
        assert seen >= 20


class _Any(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return "x"


async def test_variants_of_a_path_do_not_get_around_the_token(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        for number, path in enumerate(
            (
                "/admin/models/",
                "//admin/models",
                "/%61dmin/models",
                "/admin%2fmodels",
                "/admin/./models",
                "/ADMIN/models",
                "/admin/models;x=1",
            )
        ):
            reply = await get(parts, path, **{"X-Forwarded-For": f"10.0.0.{number}"})
            assert reply.status_code in (401, 404), path


@pytest.mark.parametrize(
    ("scope", "status"),
    [("read", {"read": 200, "operate": 403, "feedback": 403}), ("operate", {"read": 200, "operate": 200, "feedback": 403}),
     ("feedback", {"read": 403, "operate": 403, "feedback": 422}), ("admin", {"read": 200, "operate": 200, "feedback": 422})],
)  # fmt: skip
async def test_scopes_allow_what_they_say(tmp_path: Path, scope: str, status: dict[str, int]) -> None:
    tokens = (token("t", "t-secret", scope),)
    async with (
        control(tmp_path, tokens=tokens) as parts,
        parts.client(Authorization="Bearer t-secret") as client,
    ):
        assert (await client.get("/admin/models")).status_code == status["read"]
        changed = await client.patch("/admin/models/credit/flags", json={})
        assert changed.status_code == status["operate"]
        assert (await client.post("/feedback", json={"outcomes": []})).status_code == status["feedback"]


async def test_an_unknown_token_is_refused_before_its_body_is_read(tmp_path: Path) -> None:
    async def never() -> object:
        raise AssertionError("the body was asked for")
        yield b""

    async with control(tmp_path) as parts, parts.client(Authorization="Bearer wrong") as client:
        assert (await client.post("/feedback", content=b"x" * 100)).status_code == 401


async def test_wrong_tokens_are_told_to_wait_by_origin_and_valid_ones_never_are(tmp_path: Path) -> None:
    tokens = (token("ops", "admin-secret", "admin"), token("new", "new-secret", "read"))
    async with control(tmp_path, tokens=tokens) as parts:
        here, there = {"X-Forwarded-For": "192.0.2.1"}, {"X-Forwarded-For": "192.0.2.2"}
        for _ in range(int(FAILURES)):
            assert (await get(parts, Authorization="Bearer guess", **here)).status_code == 401
        slowed = await get(parts, Authorization="Bearer guess", **here)
        assert (slowed.status_code, slowed.json()["code"]) == (429, "too_many_failures")
        assert int(slowed.headers["retry-after"]) >= 1
        # Whoever shares the address, behind a load balancer for one, used before from there or not.
        assert (await get(parts, **ADMIN, **here)).status_code == 200
        assert (await get(parts, Authorization="Bearer new-secret", **here)).status_code == 200
        assert (await get(parts, Authorization="Bearer guess", **here)).status_code == 429
        assert (await get(parts, Authorization="Bearer guess", **there)).status_code == 401
        parts.clock.turn(REFILL_S)
        assert (await get(parts, Authorization="Bearer guess", **here)).status_code == 401
        assert (await get(parts, Authorization="Bearer guess", **here)).status_code == 429


def asking(bearer: str) -> Request:
    fields = [(b"x-forwarded-for", b"192.0.2.1"), (b"authorization", b"Bearer " + bearer.encode())]
    return Request({"type": "http", "headers": fields})


def test_tokens_read_anew_while_an_address_has_to_wait_are_good_at_once() -> None:
    old, new = token("ops", "old-secret", "admin"), token("ops", "new-secret", "admin")
    authenticator = Authenticator(AuthPolicy((old,)), TurnedClock())
    for _ in range(2 * int(FAILURES)):
        with pytest.raises((UnauthenticatedError, TooManyFailuresError)):
            authenticator.identify(asking("guess"), "read")
    authenticator.know(AuthPolicy((new,)))
    assert authenticator.identify(asking("new-secret"), "read").name == "ops"
    with pytest.raises(TooManyFailuresError):
        authenticator.identify(asking("old-secret"), "read")


def test_each_token_is_compared_in_constant_time_whichever_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ("first-secret", "second-secret", "third-secret")
    authenticator = Authenticator(AuthPolicy(tuple(token(s, s, "read") for s in secrets)), TurnedClock())
    compared: list[bytes] = []
    real = hmac.compare_digest

    def counted(one: bytes, other: bytes) -> bool:
        compared.append(other)
        return real(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    for bearer in (*secrets, "guess", ""):
        compared.clear()
        with contextlib.suppress(UnauthenticatedError):
            authenticator.identify(asking(bearer), "read")
        assert compared == [sha256(secret.encode()).digest() for secret in secrets]


@pytest.mark.parametrize(
    ("forwarded", "origin"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("spoofed, 192.0.2.1", "192.0.2.1"),
        ("192.0.2.1, 10.1.2.3", "192.0.2.1"),
        ("10.0.0.1, 10.0.0.2", "10.0.0.1"),
        ("", "local"),
        ("2001:db8::1", "2001:db8::1"),
    ],
)
async def test_the_origin_is_the_last_address_that_is_no_trusted_proxy(
    tmp_path: Path, forwarded: str, origin: str
) -> None:
    headers = [(b"x-forwarded-for", forwarded.encode())] if forwarded else []
    request = Request({"type": "http", "headers": headers})
    assert Authenticator(AuthPolicy(), TurnedClock(), ("10.0.0.0/8",)).origin(request) == origin


def test_the_first_token_is_made_once_with_the_right_mode_and_then_kept(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    made = with_first_token(AuthPolicy(), directory)
    path = directory / FILE_NAME
    assert path.stat().st_mode & 0o777 == 0o600
    assert made.tokens[0].scopes == ("admin",)
    assert with_first_token(AuthPolicy(), directory) == made
    assert path.read_text().strip() not in repr(made)
    configured = AuthPolicy((token("ops", "x", "read"),))
    assert with_first_token(configured, tmp_path / "other") is configured
    assert not (tmp_path / "other").exists()


def test_a_token_file_that_others_can_read_or_that_is_damaged_is_refused(tmp_path: Path) -> None:
    with_first_token(AuthPolicy(), tmp_path)
    path = tmp_path / FILE_NAME
    path.chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        with_first_token(AuthPolicy(), tmp_path)
    path.chmod(0o600)
    path.write_text("x")
    with pytest.raises(ConfigurationError, match="holds no token"):
        with_first_token(AuthPolicy(), tmp_path)


def test_a_directory_that_cannot_be_made_is_a_configuration_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"auth\.tokens"):
        with_first_token(AuthPolicy(), tmp_path / "file" / "data")
