"""Model servers for the fault tests; the databases come from `tests/conftest.py`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.misbehaving import MisbehavingUpstream


@pytest.fixture
def v1() -> Iterator[MisbehavingUpstream]:
    with MisbehavingUpstream(default="ok") as server:
        yield server


@pytest.fixture
def v2() -> Iterator[MisbehavingUpstream]:
    with MisbehavingUpstream(default="ok") as server:
        yield server
