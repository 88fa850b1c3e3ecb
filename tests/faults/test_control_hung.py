"""The control process stands still without having ended: clients are served, and `/readyz` says what is the matter."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.faults.traffic import Traffic, credit, down, up
from tests.misbehaving import MisbehavingUpstream
from tests.ports import free_port
from tests.system import running_gateway


async def test_a_control_process_that_hangs_is_named_by_readyz_until_it_goes_on(
    tmp_path: Path, v1: MisbehavingUpstream
) -> None:
    with running_gateway(tmp_path, credit(v1), port=free_port()) as gateway:
        async with Traffic(gateway.port) as traffic:
            control = gateway.child("control")
            os.kill(control, signal.SIGSTOP)
            try:
                await down(gateway, "control")
                await traffic.more(100)
            finally:
                os.kill(control, signal.SIGCONT)
            await up(gateway)
            await traffic.more(100)
        traffic.all_good()
        assert gateway.child("control") == control  # the same one: it was neither killed nor replaced
