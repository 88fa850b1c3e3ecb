"""The kinds of values that settings have, each with what is wrong with a bad one and what to write instead."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from app.config.masking import masked
from app.domain.sentinel_url import EXAMPLE as SENTINEL_EXAMPLE
from app.domain.sentinel_url import SCHEMES as SENTINEL_SCHEMES
from app.domain.sentinel_url import parse_sentinel_url
from app.errors import InvalidError
from app.protocols.json_paths import compile_key_path, compile_path

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_TOKEN = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"  # noqa: S105  # a field name, RFC 9110 section 5.6.2

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Seconds = Annotated[float, Field(ge=0.0)]
Timeout = Annotated[float, Field(gt=0.0)]
Bytes = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(pattern=NAME)]
FieldName = Annotated[str, Field(pattern=_TOKEN)]
Digest = Annotated[str, Field(pattern=r"^[0-9A-Fa-f]{64}$")]
Port = Annotated[int, Field(ge=0, le=65535)]


def fault(what: str) -> PydanticCustomError:
    return PydanticCustomError("fault", "{what}", {"what": what})


def listed(value: object) -> object:
    """A single value stands for a list of one; YAML knows lists, frozen settings hold tuples."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def upstream_url(url: str) -> str:
    """RFC 3986: http, https, or unix with an absolute path; no credentials, query or fragment."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # its text repeats what stands where the port is expected: part of a password, for one
        raise fault("is no URL; write one such as http://127.0.0.1:9001") from None
    if not url.isascii() or not url.isprintable() or " " in url:
        raise fault("has characters that no URL has; percent-encode them")
    if parts.scheme == "unix":
        if parts.netloc or not parts.path.strip("/"):
            raise fault("names no socket; write unix:///absolute/path/to.sock")
        return url
    if parts.scheme not in ("http", "https"):
        raise fault(f"has the scheme {parts.scheme or 'none'!r}; use http, https or unix")
    if not parts.hostname:
        raise fault("has no host; write one such as http://127.0.0.1:9001")
    if port == 0:
        raise fault("has port 0, which cannot be connected to; name the model server's port")
    if "@" in parts.netloc:
        raise fault("holds a user or password, which is not sent on; remove it")
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        raise fault("has a query or a fragment; only a path prefix can be given")
    return url


def store_url(url: str) -> str:
    scheme, found, rest = url.partition("://")
    if scheme == "postgres" and found:
        raise fault("has the scheme 'postgres'; write postgresql://")
    if scheme not in ("sqlite", "postgresql") or not found:
        raise fault(
            f"has the scheme {scheme if found else 'none'!r}; use sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DB"
        )
    if scheme == "sqlite" and (not rest.startswith("/") or len(rest) < 2):
        raise fault("names no file; write sqlite:///relative/file.db or sqlite:////absolute/file.db")
    if scheme == "postgresql":
        _network_url(url, database=True)
    return url


def flags_url(url: str) -> str:
    scheme, found, rest = url.partition("://")
    if scheme not in ("local", "redis", "rediss", *SENTINEL_SCHEMES) or not found:
        raise fault(
            f"has the scheme {scheme if found else 'none'!r}; use local://, redis://HOST:6379/0 or {SENTINEL_EXAMPLE}"
        )
    if scheme in SENTINEL_SCHEMES:
        try:
            parse_sentinel_url(url)
        except ValueError as error:
            raise fault(str(error)) from None
        return url
    if scheme == "local" and rest:
        raise fault("has something after local://; remove it")
    if scheme != "local":
        _network_url(url, database=False)
    return url


def _network_url(url: str, *, database: bool) -> None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise fault(
            "is no URL; check the port, and percent-encode special characters of the password"
        ) from None
    if not parts.hostname and not (database and "host=" in parts.query):
        raise fault("has no host; name the server")
    if database and not parts.path.strip("/"):
        raise fault("names no database; add it after the host, as in postgresql://HOST/gateway")


def webhook_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise fault("is no URL; write one such as https://example.org/hook") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise fault("is no http or https URL; write one such as https://example.org/hook")
    return url


def json_path(path: str) -> str:
    try:
        compile_path(path)
    except InvalidError as error:
        raise fault(f"cannot be used ({error}); write one such as $.features") from None
    return path


def key_path(path: str) -> str:
    try:
        compile_key_path(path)
    except InvalidError as error:
        raise fault(f"cannot be used ({error}); write one such as $.user_id") from None
    return path


def ascending(stages: tuple[float, ...]) -> tuple[float, ...]:
    if not stages:
        raise fault("has no stage; give at least one, such as [5, 25, 100]")
    for before, after in pairwise(stages):
        if after <= before:
            raise fault(
                f"is not ascending: {after:g} follows {before:g}; list each percentage once, in rising order"
            )
    return stages


JsonPathText = Annotated[str, AfterValidator(json_path)]
UpstreamUrl = Annotated[str, AfterValidator(upstream_url)]
Names = Annotated[tuple[Name, ...], BeforeValidator(listed)]
Texts = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(listed)]


class Section(BaseModel):
    """Strict types, no unknown key, no change after it was read; credentials never show in a repr."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        validate_default=False,
    )

    def __repr_args__(self) -> Any:
        for name, value in super().__repr_args__():
            yield name, masked(value) if isinstance(value, str) else value
