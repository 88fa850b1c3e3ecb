"""One whole gateway with a token of each scope, for the tests of a process. Each file that exhausts something starts its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.misbehaving import MisbehavingUpstream
from tests.security.tokens import guarded_gateway
from tests.system import RunningGateway


@pytest.fixture(scope="session")
def upstream() -> Iterator[MisbehavingUpstream]:
    with MisbehavingUpstream(default="echo") as server:
        yield server


@pytest.fixture(scope="session")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, upstream: MisbehavingUpstream
) -> Iterator[RunningGateway]:
    with guarded_gateway(tmp_path_factory.mktemp("gateway"), upstream) as running:
        yield running
