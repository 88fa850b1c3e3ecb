"""Who calls, and may they: bearer tokens with scopes, compared in constant time, and a limit on failed
attempts by origin, which holds up wrong tokens only.

A token itself is never kept, logged or echoed: only its SHA-256 is known here.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

from fastapi import Request

from app.control.clock import Clock
from app.domain.attempts import FailureLimit
from app.domain.policy import AuthPolicy
from app.errors import GatewayError

Scope = Literal["read", "feedback", "operate", "admin"]
_INCLUDES: dict[str, frozenset[str]] = {
    "read": frozenset({"read"}),
    "feedback": frozenset({"feedback"}),
    "operate": frozenset({"read", "operate"}),
    "admin": frozenset({"read", "feedback", "operate", "admin"}),
}
MAX_TOKEN = 512


class UnauthenticatedError(GatewayError):
    """No bearer token was given, or none that is known (401)."""


class ForbiddenError(GatewayError):
    """The token is known but its scopes do not allow this (403)."""


class TooManyFailuresError(GatewayError):
    """Too many failed attempts came from this origin (429)."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"too many failed attempts from this address; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller: the token's name, what it may do, and the address it came from."""

    name: str
    scopes: frozenset[str]
    origin: str


class Authenticator:
    """Knows the tokens. `trusted_proxies` are the peers whose part of X-Forwarded-For is not the client
    itself.
    """

    def __init__(self, policy: AuthPolicy, clock: Clock, trusted_proxies: Sequence[str] = ()) -> None:
        self._clock = clock
        self._limit = FailureLimit()
        self.know(policy)
        self._trusted = [ipaddress.ip_network(network, strict=False) for network in trusted_proxies]

    def know(self, policy: AuthPolicy) -> None:
        """From now on these tokens and no others."""
        self._tokens = [
            (
                token.name,
                bytes.fromhex(token.sha256),
                frozenset().union(*(_INCLUDES[scope] for scope in token.scopes)),
            )
            for token in policy.tokens
        ]

    def origin(self, request: Request) -> str:
        """The client's address as the worker saw it: the last one that is no trusted proxy; "local" for a
        caller on the socket itself.
        """
        forwarded = [
            part.strip() for part in request.headers.get("x-forwarded-for", "").split(",") if part.strip()
        ]
        for address in reversed(forwarded):
            if not self._is_trusted(address):
                return address[:64]
        return forwarded[0][:64] if forwarded else "local"

    def _is_trusted(self, address: str) -> bool:
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(ip in network for network in self._trusted)

    def identify(self, request: Request, scope: str) -> Identity:
        """The caller, when they may do what `scope` stands for.

        `UnauthenticatedError`, `ForbiddenError`, or `TooManyFailuresError` for a wrong token from an origin
        that has sent too many. A right one is never refused for what others did from the same address.
        """
        origin = self.origin(request)
        digest = sha256(_bearer(request)).digest()
        found: tuple[str, frozenset[str]] | None = None
        for name, expected, scopes in self._tokens:  # all of them, always: the time taken says nothing
            if hmac.compare_digest(digest, expected):
                found = (name, scopes)
        wait = self._limit.settle(origin, self._clock.monotonic(), right=found is not None)
        if wait:
            raise TooManyFailuresError(wait)
        if found is None:
            raise UnauthenticatedError("give a valid token as Authorization: Bearer <token>")
        if scope not in found[1]:
            raise ForbiddenError(f"token {found[0]!r} lacks the scope {scope!r}")
        return Identity(found[0], found[1], origin)


def _bearer(request: Request) -> bytes:
    values = request.headers.getlist("authorization")
    if len(values) != 1 or len(values[0]) > MAX_TOKEN:
        return b""
    scheme, _, token = values[0].partition(" ")
    # not every space that Unicode knows: a token with a no-break space behind it is another token
    return token.strip(" \t").encode("latin-1") if scheme.lower() == "bearer" else b""
