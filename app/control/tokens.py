"""The first admin token: made when none is configured, so that the admin API is never open and never
unusable.
"""

from __future__ import annotations

import os
import re
import secrets
from hashlib import sha256
from pathlib import Path

from app.domain.policy import AuthPolicy, Token
from app.errors import ConfigurationError

FILE_NAME = "admin-token"
_SHAPE = re.compile(r"[A-Za-z0-9_-]{32,128}")


def with_first_token(policy: AuthPolicy, data_dir: Path) -> AuthPolicy:
    """The policy itself when it has tokens; else one with the token in `data_dir/admin-token`, made (mode
    0600) at the first start.

    `ConfigurationError` when that file is damaged, readable by others or cannot be made.
    """
    if policy.tokens:
        return policy
    path = data_dir / FILE_NAME
    try:
        token = _read(path) if path.exists() else _make(path)
    except OSError as error:
        raise ConfigurationError(
            [f"{path}: {error.strerror}; make it writable or configure auth.tokens"]
        ) from error
    return AuthPolicy((Token("admin-token", sha256(token.encode()).hexdigest(), ("admin",)),))


def _read(path: Path) -> str:
    if path.stat().st_mode & 0o077:
        raise ConfigurationError(
            [f"{path}: others can read it; chmod 600, or delete it and a new one is made"]
        )
    token = path.read_text("ascii", "replace").strip()
    if not _SHAPE.fullmatch(token):
        raise ConfigurationError([f"{path}: holds no token; delete it and a new one is made"])
    return token


def _make(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    token = secrets.token_urlsafe(32)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, f"{token}\n".encode())
        os.fsync(file)
    finally:
        os.close(file)
    try:
        # does not replace: of two processes that start at once the first one's token holds
        os.link(temporary, path)
    except FileExistsError:
        return _read(path)
    finally:
        temporary.unlink()
    return token
