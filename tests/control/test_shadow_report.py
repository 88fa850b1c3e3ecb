"""The shadow report's noise floor: what production differs from itself is nobody's disagreement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.control.ports import Batch, ShadowRow
from app.control.shadow_report import ShadowReports
from tests.control_parts import Control, control, prediction


async def copied(parts: Control, first_number: int, count: int, second: str, role: str, every: int) -> None:
    """Answers of v1 copied to `second`, which says .9 instead of .1 on every so many of them."""
    rows = [
        prediction(parts.clock.now(), first_number + n, prediction=0.1, confidence=None) for n in range(count)
    ]
    copies = [
        ShadowRow(row.prediction_id, "credit", second, role, row.timestamp, 0.9 if n % every == 0 else 0.1,
                  None, 15.0, 200, None, None, None)
        for n, row in enumerate(rows)
    ]  # fmt: skip
    await parts.store.load(Batch(rows, copies, (), (), ()))


async def report(parts: Control) -> Any:
    return await ShadowReports(parts.registry, parts.store, parts.clock).report("credit", "v2")


async def test_only_disagreement_beyond_productions_own_is_excess(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        await copied(parts, 0, 400, "v2", "shadow", every=5)
        await copied(parts, 1000, 400, "v1", "control", every=10)
        found = await report(parts)
        assert (found["n"], found["agreement_rate"]) == (400, 0.8)
        assert found["noise_floor"] == {"n": 400, "agreement_rate": 0.9}
        excess = found["excess_disagreement"]
        assert excess["rate"] == pytest.approx(0.1)
        # Newcombe's interval of 80/400 less 40/400, worked out by hand from Wilson's two.
        assert (excess["low"], excess["high"]) == pytest.approx((0.0511, 0.1489), abs=5e-4)


async def test_a_candidate_that_differs_no_more_than_production_from_itself_has_no_excess(
    tmp_path: Path,
) -> None:
    async with control(tmp_path) as parts:
        await copied(parts, 0, 400, "v2", "shadow", every=10)
        await copied(parts, 1000, 400, "v1", "control", every=10)
        excess = (await report(parts))["excess_disagreement"]
        assert excess["low"] < 0.0 < excess["high"]


async def test_agreement_of_95_percent_does_not_hide_five_that_are_badly_wrong(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        await copied(parts, 0, 400, "v2", "shadow", every=20)
        found = await report(parts)
        assert found["agreement_rate"] == 0.95
        assert (found["tails"]["0.5"], found["difference_quantiles"]["0.99"]) == (
            0.05,
            pytest.approx(0.8, rel=0.02),
        )
        assert len(found["worst"]) == 20
        inputs = {
            row["prediction_id"]: row["features"]
            for row in await parts.store.offered([c["prediction_id"] for c in found["worst"]])
        }
        assert all(case["features"] == inputs[case["prediction_id"]] is not None for case in found["worst"])
        assert all(case["prediction"] == 0.1 for case in found["worst"])
        assert all(case["severity"] == pytest.approx(0.8) for case in found["worst"])
        assert found["noise_floor"] is None
        assert found["excess_disagreement"] is None
