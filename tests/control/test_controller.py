"""Rollouts as the controller moves them: up by evidence, down at once, and never against whoever changes
flags by hand.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.adapters.local import LocalLease
from app.control.controller import By
from app.domain.model import Canary, ControlMirror, RoutingKey, Shadow
from app.domain.rollout import Action
from app.errors import ConflictError, GatewayError, InvalidError, NotFoundError, UnavailableError
from app.link.messages import GuardTrip, Pair, Pairs, Series, Tick, VersionTick
from tests.control_parts import Control, FlakyStore, control, model, until

OPS = By("ops", "10.0.0.1", "operator")


async def begin(parts: Control, **changes: Any) -> str:
    arguments = {
        "stages": (5.0, 50.0, 100.0),
        "dwell_s": 3.0,
        "min_requests": 50,
        "by": OPS,
        "reason": "try v2",
        **changes,
    }
    row = await parts.controller.begin("credit", "v2", **arguments)
    return str(row["id"])


class HeldElsewhere(LocalLease):
    """Another host leads."""

    async def acquire(self) -> bool:
        return False


async def lead(parts: Control) -> None:
    await parts.controller.look()
    assert parts.controller.leads


async def stored(parts: Control, rollout: str) -> Any:
    return await parts.controller.rollout("credit", rollout)


async def test_a_healthy_candidate_goes_through_all_stages_to_production_and_the_watch_ends(
    tmp_path: Path,
) -> None:
    async with control(tmp_path, model(canary=replace(Canary(), watch_s=5.0))) as parts:
        await lead(parts)
        rollout = await begin(parts)
        flags = parts.flags.current("credit")
        assert (flags.candidate, flags.canary_percent, flags.salt, flags.rollout_id) == (
            "v2",
            5.0,
            rollout,
            rollout,
        )
        seen = [5.0]
        for _ in range(20):
            percent = parts.flags.current("credit").canary_percent
            await parts.second(rollout, canary=30, production=300, percent=percent)
            if parts.flags.current("credit").canary_percent not in (seen[-1], 0.0):
                seen.append(parts.flags.current("credit").canary_percent)
            if parts.flags.current("credit").production == "v2":
                break
        assert seen == [5.0, 50.0, 100.0]
        flags = parts.flags.current("credit")
        assert (flags.production, flags.candidate, flags.canary_percent) == ("v2", None, 0.0)
        for _ in range(8):
            parts.clock.turn(1.0)
            await parts.controller.look()
        row = await stored(parts, rollout)
        assert row["state"] == "promoted"
        assert row["ended_at"] is not None
        assert parts.flags.current("credit").rollout_id == ""
        assert parts.controller.open_rollout("credit") is None
        assert [event["kind"] for event in row["events"] if event["kind"] != "verdict"] == [
            "advance", "advance", "advance", "promote", "close",
        ]  # fmt: skip
        assert all(event["reason"] for event in row["events"])


UNCOMPARED = Canary(control=ControlMirror(sample=0.0))


async def promoted(parts: Control, answered: int = 2000) -> str:
    """v2 as production after v1 answered so many requests beside it."""
    await lead(parts)
    rollout = await begin(parts, dwell_s=1e6)
    await parts.second(rollout, canary=answered // 19, production=answered, percent=5.0)
    await parts.controller.act_on("credit", rollout, Action.PROMOTE, by=OPS, reason="sure")
    assert parts.flags.current("credit").production == "v2"
    return rollout


async def second_alone(parts: Control, rollout: str, requests: int, bad: int, *, pairs: int = 0) -> None:
    """A second of v2 as production; v1 failed on every one of the pairs on which v2 did."""
    good = requests - bad
    tick = int(parts.clock.now().timestamp())
    counts = VersionTick("credit", "v2", "production", 0.0, 1, rollout, requests, bad, 0, {60: good})
    parts.controller.tick("w0", Tick(tick, [counts]))
    both = [Pair("credit", "v2", rollout, n < bad, n < bad, 9000, 9000, "v1") for n in range(pairs)]
    parts.controller.pairs("w0", Pairs(tick, both))
    parts.clock.turn(1.0)
    await parts.controller.look()


async def shadows_off(parts: Control) -> None:
    await parts.flags.change("credit", {"shadow_enabled": False}, actor="ops", origin="", reason="load")


@pytest.mark.parametrize("why", ["no control mirror", "shadows are off", "nothing is sampled"])
async def test_a_promoted_version_that_fails_is_taken_back_also_where_nothing_compares_it(
    tmp_path: Path, why: str
) -> None:
    how = {
        "no control mirror": model(canary=UNCOMPARED),
        "shadows are off": model(),
        "nothing is sampled": model(shadow=Shadow(sample=0.0)),
    }
    async with control(tmp_path, how[why]) as parts:
        if why == "shadows are off":
            await shadows_off(parts)
        rollout = await promoted(parts)
        for _ in range(5):
            await second_alone(parts, rollout, 30, 30)
        flags = parts.flags.current("credit")
        assert (flags.production, flags.candidate, flags.rollout_id) == ("v1", None, "")
        row = await stored(parts, rollout)
        assert row["state"] == "rolled_back"
        last = row["events"][-1]
        assert last["figures"]["former_log_e"] >= last["figures"]["threshold"]
        assert "does worse than 'v1' did before" in last["reason"]
        assert "of 2000)" in last["reason"]


async def test_a_promoted_version_that_nothing_compares_is_watched_without_a_verdict_and_says_so(
    tmp_path: Path,
) -> None:
    async with control(tmp_path, model(canary=replace(UNCOMPARED, watch_s=60.0))) as parts:
        rollout = await promoted(parts)
        for _ in range(30):
            await second_alone(parts, rollout, 50, 1)
        row = await stored(parts, rollout)
        assert (row["state"], row["verdict"]["health"]) == ("promoted", "no_data")
        assert "canary.control.sample" in row["verdict"]["reason"]
        for _ in range(40):
            await second_alone(parts, rollout, 50, 1)
        row = await stored(parts, rollout)
        assert (row["open"], row["events"][-1]["kind"]) == (False, "close")
        assert "nothing compares it" in row["events"][-1]["reason"]


async def test_an_incident_that_pairs_show_to_be_shared_takes_no_promoted_version_back(
    tmp_path: Path,
) -> None:
    async with control(tmp_path) as parts:
        rollout = await promoted(parts)
        for _ in range(60):
            await second_alone(parts, rollout, 30, 30, pairs=3)
        row = await stored(parts, rollout)
        assert (row["state"], row["verdict"]["health"]) == ("promoted", "healthy")
        assert row["evidence"]["former_finding"] == ""


async def test_when_the_copies_stay_away_a_promoted_version_is_held_against_what_was_before(
    tmp_path: Path,
) -> None:
    """A tenth of its answers is to be compared. After 200 without a pair there is none to be hoped for."""
    async with control(tmp_path) as parts:
        rollout = await promoted(parts)
        for _ in range(10):
            await second_alone(parts, rollout, 25, 0)
        row = await stored(parts, rollout)
        assert (row["verdict"]["health"], row["evidence"]["pairs_expected"]) == ("no_data", False)
        assert "has made a pair in" in row["verdict"]["reason"]
        for _ in range(6):
            await second_alone(parts, rollout, 25, 25)
        assert parts.flags.current("credit").production == "v1"


async def test_a_watch_without_a_comparison_outlives_a_restart(tmp_path: Path) -> None:
    async with control(tmp_path, model(canary=UNCOMPARED)) as parts:
        rollout = await promoted(parts)
        for _ in range(2):
            await second_alone(parts, rollout, 30, 30)
        before = parts.controller.open_rollout("credit")
    async with control(tmp_path, model(canary=UNCOMPARED), clock=parts.clock) as parts:
        await lead(parts)
        after = parts.controller.open_rollout("credit")
        assert before is not None
        assert after is not None
        assert after["evidence"]["former_log_e"] == pytest.approx(
            before["evidence"]["former_log_e"], abs=1e-9
        )
        for _ in range(2):
            await second_alone(parts, rollout, 30, 30)
        assert parts.flags.current("credit").production == "v1"


async def test_a_candidate_that_turns_bad_at_100_percent_is_taken_out_also_without_a_control_mirror(
    tmp_path: Path,
) -> None:
    async with control(tmp_path, model(canary=UNCOMPARED)) as parts:
        await lead(parts)
        rollout = await begin(parts, stages=(50.0, 100.0), dwell_s=1e6)
        await parts.second(rollout, canary=1000, production=1000, percent=50.0)
        await parts.controller.act_on("credit", rollout, Action.ADVANCE, by=OPS, reason="fine")
        assert parts.flags.current("credit").canary_percent == 100.0
        for _ in range(5):
            await parts.second(rollout, canary=40, bad=40, percent=100.0)
        assert parts.flags.current("credit").candidate is None
        assert (await stored(parts, rollout))["state"] == "rolled_back"


async def test_a_version_promoted_at_once_is_held_against_productions_last_minute(tmp_path: Path) -> None:
    async with control(tmp_path, model(canary=UNCOMPARED)) as parts:
        await lead(parts)
        for _ in range(20):
            parts.count("", production=50)
            parts.clock.turn(1.0)
        rollout = await begin(parts)
        await parts.controller.act_on("credit", rollout, Action.PROMOTE, by=OPS, reason="sure")
        for _ in range(5):
            await second_alone(parts, rollout, 30, 30)
        assert parts.flags.current("credit").production == "v1"


async def test_a_stage_waits_for_dwell_and_requests_and_silence_is_no_data(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        await lead(parts)
        rollout = await begin(parts)
        for _ in range(10):
            parts.clock.turn(1.0)
            await parts.controller.look()
        row = await stored(parts, rollout)
        assert (row["percent"], row["verdict"]["health"]) == (5.0, "no_data")
        await parts.second(rollout, canary=49, production=900)
        assert parts.flags.current("credit").canary_percent == 5.0
        await parts.second(rollout, canary=1, production=19)
        assert parts.flags.current("credit").canary_percent == 50.0


async def test_a_candidate_that_fails_is_rolled_back_by_evidence_with_its_figures(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        await lead(parts)
        rollout = await begin(parts)
        for _ in range(3):
            await parts.second(rollout, canary=5, production=95)
        await parts.second(rollout, canary=10, bad=10, production=190)
        flags = parts.flags.current("credit")
        assert (flags.production, flags.candidate, flags.rollout_id) == ("v1", None, "")
        row = await stored(parts, rollout)
        assert row["state"] == "rolled_back"
        last = row["events"][-1]
        assert last["kind"] == "rollback"
        assert last["figures"]["log_e"] >= last["figures"]["threshold"]
        [entry] = [one for one in await parts.store.audit("credit", 10) if one["action"] == "rollback"]
        assert (entry["actor"], entry["origin"]) == ("controller", "controller")
        assert "log e" in entry["reason"]
        assert parts.controller.rollbacks == {("credit", "v2", "evidence"): 1}


async def test_an_incident_that_hits_both_versions_rolls_nothing_back(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        await lead(parts)
        rollout = await begin(parts, dwell_s=1e6)
        for _ in range(60):
            await parts.second(rollout, canary=5, bad=2, production=95, production_bad=38)
        assert parts.flags.current("credit").candidate == "v2"


async def test_a_guard_trip_takes_the_candidate_out_without_waiting_for_the_next_look(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        await lead(parts)
        rollout = await begin(parts)
        parts.trip(rollout)
        await until(lambda: parts.flags.current("credit").candidate is None)
        await until(lambda: parts.controller.open_rollout("credit") is None)
        await parts.controller.look()  # comes after what the trip still has to write
        row = await stored(parts, rollout)
        assert row["state"] == "rolled_back"
        assert row["events"][-1]["figures"]["guard_errors"] == 20
        [entry] = [one for one in await parts.store.audit("credit", 10) if one["action"] == "rollback"]
        assert (entry["actor"], entry["origin"]) == ("controller", "guard")
        assert "Error rate 100.0%" in entry["reason"]
        assert parts.controller.rollbacks == {("credit", "v2", "guard"): 1}


async def test_trips_beyond_what_can_be_carried_out_at_once_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.control.controller.MAX_TRIPS", 1)
    async with control(tmp_path, model()) as parts:
        for version in ("v2", "v3", "v4"):
            parts.controller.guard_trip("w0", GuardTrip("credit", version, "", 1, "errors", 20, 20, 0))
        assert Series("gateway_guard_trips_dropped_total", ("busy",), 2) in list(parts.controller.series())


async def test_a_guard_trip_leaves_every_figure_that_the_worker_sent_in_the_rollouts_history(
    tmp_path: Path,
) -> None:
    async with control(tmp_path) as parts:
        await lead(parts)
        rollout = await begin(parts)
        await parts.second(rollout, canary=7, bad=3, production=133, production_bad=1)
        parts.trip(rollout)
        await until(lambda: parts.controller.open_rollout("credit") is None)
        await parts.controller.look()  # comes after what the trip still has to write
        figures = (await stored(parts, rollout))["events"][-1]["figures"]
        told = {
            "guard_requests": 20,
            "guard_errors": 20,
            "guard_reason": "Error rate 100.0% exceeds threshold 5.0%.",
            "guard_flags_revision": 1,
            "guard_writer": "w0",
            "guard_at": 0.0,
            "guard_tripped": True,
        }
        assert told.items() <= figures.items()
        of_the_rollout = {"model", "version", "rollout_id", "at_ns"}
        sent = set(GuardTrip.__struct_fields__) - of_the_rollout
        assert {f"guard_{name}" for name in sent} <= set(figures)
        own = ("candidate_requests", "candidate_errors", "production_requests", "production_errors")
        assert [figures[name] for name in own] == [7, 3, 133, 1]
        assert {f"log_e.{name}" for name in ("errors", "latency")} <= set(figures)


async def test_trips_of_several_workers_roll_back_once_and_an_old_one_is_ignored(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        await lead(parts)
        rollout = await begin(parts)
        for _ in range(4):
            parts.trip(rollout)
        await until(lambda: parts.controller.open_rollout("credit") is None)
        again = await begin(parts)
        parts.trip(rollout)  # of the rollout before
        parts.trip(again, version="v3")  # of no candidate
        await parts.controller.look()
        assert parts.flags.current("credit").rollout_id == again
        assert parts.controller.rollbacks == {("credit", "v2", "guard"): 1}


async def test_a_guard_trip_also_ends_a_canary_that_was_set_by_flags(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        patch = {"candidate": "v2", "canary_percent": 5.0, "canary_enabled": True}
        await parts.flags.change("credit", patch, actor="ops", origin="", reason="")
        parts.trip()
        await until(lambda: parts.flags.current("credit").candidate is None)


async def test_a_guard_trip_works_while_the_store_is_down_and_is_stored_later(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        await lead(parts)
        rollout = await begin(parts)
        parts.store.down = True
        parts.trip(rollout)
        await until(lambda: parts.flags.current("credit").candidate is None)
        await until(lambda: parts.controller.open_rollout("credit") is None)
        for _ in range(3):
            parts.clock.turn(1.0)
            await parts.controller.look()
        parts.store.down = False
        await parts.flags.reconcile()
        parts.clock.turn(3.0)
        await parts.controller.look()
        assert parts.flags.current("credit").candidate is None
        row = await stored(parts, rollout)
        assert (row["state"], row["events"][-1]["kind"]) == ("rolled_back", "rollback")
        assert await parts.store.open_rollouts() == []
        assert "rollback" in {entry["action"] for entry in await parts.store.audit("credit", 10)}


async def test_evidence_rolls_back_while_the_store_is_down(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        await lead(parts)
        rollout = await begin(parts)
        await parts.second(rollout, canary=5, production=95)
        parts.store.down = True
        await parts.second(rollout, canary=15, bad=15, production=190)
        assert parts.flags.current("credit").candidate is None
        parts.store.down = False
        parts.clock.turn(3.0)
        await parts.controller.look()
        assert (await stored(parts, rollout))["state"] == "rolled_back"


async def test_a_rollback_that_the_flags_refuse_at_first_is_tried_again_and_its_history_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with control(tmp_path) as parts:
        await lead(parts)
        rollout = await begin(parts)
        await parts.second(rollout, canary=5, production=95)

        async def refused(*_: object, **__: object) -> None:
            raise ConflictError("not now")

        with monkeypatch.context() as patch:
            patch.setattr(parts.flags, "change", refused)
            await parts.second(rollout, canary=15, bad=15, production=190)
        assert parts.flags.current("credit").candidate == "v2"
        parts.clock.turn(1.0)
        await parts.controller.look()
        assert parts.flags.current("credit").candidate is None
        row = await stored(parts, rollout)
        assert row["state"] == "rolled_back"
        assert [event["kind"] for event in row["events"]].count("rollback") == 1


async def test_nothing_goes_up_while_the_store_is_down(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        await lead(parts)
        rollout = await begin(parts)
        await parts.second(rollout, canary=60, production=900)
        parts.store.down = True
        for _ in range(5):
            await parts.second(rollout, canary=60, production=900)
        assert parts.flags.current("credit").canary_percent == 5.0
        parts.store.down = False
        parts.clock.turn(1.0)
        await parts.controller.look()
        assert parts.flags.current("credit").canary_percent == 50.0


async def test_a_restarted_controller_goes_on_with_state_and_evidence(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        await lead(parts)
        rollout = await begin(parts, dwell_s=100.0)
        for _ in range(10):
            await parts.second(rollout, canary=20, bad=1, production=380, production_bad=14)
        before = parts.controller.open_rollout("credit")
        assert before is not None
    async with control(tmp_path, clock=parts.clock) as parts:
        await lead(parts)
        after = parts.controller.open_rollout("credit")
        assert after is not None
        assert after["evidence"]["requests"] == 200
        assert after["evidence"]["log_e"] == pytest.approx(before["evidence"]["log_e"], abs=1e-6)
        assert after["elapsed_s"] == pytest.approx(10.0)


async def test_a_crash_between_the_event_and_the_flags_is_made_good(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        await lead(parts)
        rollout = await begin(parts, dwell_s=0.0)
        trial = parts.controller._trials.of("credit")
        # as stored just before the flags were to change
        trial.rollout = replace(trial.rollout, stage_index=1)
        trial.carried_out = False
    async with control(tmp_path, clock=parts.clock) as parts:
        assert parts.flags.current("credit").canary_percent == 5.0
        await lead(parts)
        assert parts.flags.current("credit").canary_percent == 50.0
        assert parts.flags.current("credit").rollout_id == rollout


async def test_the_kill_switch_pauses_the_rollout_and_resume_lets_it_in_again(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        await lead(parts)
        rollout = await begin(parts)
        await parts.flags.change("credit", {"canary_enabled": False}, actor="ops", origin="", reason="pager")
        parts.clock.turn(1.0)
        await parts.controller.look()
        row = await stored(parts, rollout)
        assert row["state"] == "paused"
        assert "the canary was disabled" in row["reason"]
        assert not parts.flags.current("credit").canary_enabled
        await parts.controller.act_on("credit", rollout, Action.RESUME, by=OPS, reason="fixed")
        assert parts.flags.current("credit").canary_enabled


async def test_a_disabled_candidate_pauses_and_a_changed_percentage_is_left_alone(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        await lead(parts)
        rollout = await begin(parts, dwell_s=0.0, min_requests=0)
        await parts.flags.change("credit", {"canary_percent": 20.0}, actor="ops", origin="", reason="")
        for _ in range(3):
            await parts.second(rollout, canary=20, production=80, percent=20.0)
        assert parts.flags.current("credit").canary_percent == 20.0
        assert (await stored(parts, rollout))["state"] == "paused"
        # but evidence still takes it out
        await parts.second(rollout, canary=40, bad=40, production=160, percent=20.0)
        assert parts.flags.current("credit").candidate is None


async def test_another_candidate_named_by_hand_ends_the_rollout(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        await lead(parts)
        rollout = await begin(parts)
        await parts.flags.change("credit", {"candidate": "v3"}, actor="ops", origin="", reason="")
        parts.clock.turn(1.0)
        await parts.controller.look()
        assert (await stored(parts, rollout))["state"] == "rolled_back"
        flags = parts.flags.current("credit")
        assert (flags.candidate, flags.rollout_id) == ("v3", "")


async def test_operators_pause_advance_promote_and_roll_back_and_every_act_is_audited(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        await lead(parts)
        rollout = await begin(parts)

        async def act(action: Action) -> Any:
            return await parts.controller.act_on(
                "credit", rollout, action, by=OPS, reason=f"because {action}"
            )

        assert (await act(Action.PAUSE))["state"] == "paused"
        with pytest.raises(ConflictError):
            await act(Action.PAUSE)
        assert (await act(Action.RESUME))["state"] == "canary"
        assert (await act(Action.ADVANCE))["percent"] == 50.0
        assert (await act(Action.PROMOTE))["state"] == "promoted"
        assert parts.flags.current("credit").production == "v2"
        assert (await act(Action.ROLLBACK))["state"] == "rolled_back"
        assert parts.flags.current("credit").production == "v1"
        with pytest.raises(ConflictError):
            await act(Action.ROLLBACK)
        actions = [entry["action"] for entry in reversed(await parts.store.audit("credit", 20))]
        assert actions == [
            "rollout.start",
            "rollout.advance",
            "rollout.pause",
            "rollout.resume",
            "rollout.advance",
            "rollout.promote",
            "rollback",
        ]


async def test_a_promotion_can_be_taken_back_while_the_store_is_down(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        await lead(parts)
        rollout = await begin(parts)
        await parts.controller.act_on("credit", rollout, Action.PROMOTE, by=OPS, reason="sure")
        parts.store.down = True
        await parts.controller.act_on("credit", rollout, Action.ROLLBACK, by=OPS, reason="not so sure")
        assert parts.flags.current("credit").production == "v1"
        parts.store.down = False
        await parts.flags.reconcile()
        assert (await parts.store.flags())[0].production == "v1"


async def test_a_rollback_that_changes_no_flags_takes_effect_while_the_store_is_down_and_is_audited_later(
    tmp_path: Path,
) -> None:
    async with control(tmp_path) as parts:
        await lead(parts)
        rollout = await begin(parts)
        await parts.flags.change(
            "credit", {"candidate": None, "rollout_id": ""}, actor="ops", origin="", reason="enough"
        )
        before = parts.flags.current("credit")
        parts.store.down = True
        row = await parts.controller.act_on(
            "credit", rollout, Action.ROLLBACK, by=OPS, reason="it is out already"
        )
        assert row["state"] == "rolled_back"
        assert parts.flags.current("credit") == before
        parts.store.down = False
        await parts.controller.look()
        reasons = [row["reason"] for row in await parts.store.audit("credit", 10)]
        assert reasons.count("it is out already") == 1
        assert [event["kind"] for event in (await stored(parts, rollout))["events"]][-1] == "rollback"


async def test_what_cannot_begin_says_why(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        await lead(parts)
        with pytest.raises(InvalidError, match="v9"):
            await parts.controller.begin("credit", "v9", by=OPS, reason="")
        with pytest.raises(InvalidError, match="production"):
            await parts.controller.begin("credit", "v1", by=OPS, reason="")
        with pytest.raises(InvalidError, match="stages"):
            await begin(parts, stages=(50.0, 5.0))
        with pytest.raises(NotFoundError):
            await parts.controller.begin("nobody", "v2", by=OPS, reason="")
        await parts.flags.change("credit", {"disabled_versions": ("v2",)}, actor="ops", origin="", reason="")
        with pytest.raises(ConflictError, match="disabled"):
            await begin(parts)
        await parts.flags.change("credit", {"disabled_versions": ()}, actor="ops", origin="", reason="")
        parts.store.down = True
        with pytest.raises(UnavailableError):
            await begin(parts)
        parts.store.down = False
        await begin(parts)
        with pytest.raises(ConflictError, match="open"):
            await begin(parts)


async def test_a_rollout_begun_on_another_host_is_moved_by_the_leader(tmp_path: Path) -> None:
    async with (
        control(tmp_path / "a") as leader,
        control(tmp_path / "b", store=FlakyStore(leader.store)) as other,
    ):
        await lead(leader)
        row = await other.controller.begin("credit", "v2", by=OPS, reason="")
        assert row["state"] == "pending"
        leader.clock.turn(3.0)
        await leader.controller.look()
        assert leader.flags.current("credit").candidate == "v2"
        await other.flags.reconcile()
        await other.controller.act_on("credit", row["id"], Action.ROLLBACK, by=OPS, reason="no")
        await leader.flags.reconcile()
        leader.clock.turn(3.0)
        await leader.controller.look()
        assert leader.controller.open_rollout("credit") is None
        assert leader.flags.current("credit").candidate is None


async def test_a_host_that_does_not_lead_stores_its_rollback_once_the_store_is_back_and_can_begin_again(
    tmp_path: Path,
) -> None:
    async with (
        control(tmp_path / "a") as leader,
        control(tmp_path / "b", store=FlakyStore(leader.store)) as other,
    ):
        other.controller._lease = HeldElsewhere()
        rollout = await begin(other)
        await other.controller.act_on("credit", rollout, Action.ADVANCE, by=OPS, reason="yes")
        await other.controller.look()
        other.store.down = True
        await other.controller.act_on("credit", rollout, Action.ROLLBACK, by=OPS, reason="no")
        assert [row["id"] for row in await leader.store.open_rollouts()] == [rollout]
        other.store.down = False
        await other.controller.look()
        assert not other.controller.leads
        assert await leader.store.open_rollouts() == []
        assert [event["kind"] for event in (await stored(other, rollout))["events"]][-1] == "rollback"
        other.controller._new_id = lambda: "another"
        await begin(other)


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_two_hosts_do_a_model_never_has_two_open_rollouts(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    begun = 0
    async with (
        control(tmp_path / "a") as leader,
        control(tmp_path / "b", store=FlakyStore(leader.store)) as other,
    ):
        hosts, ids = (leader, other), [""]
        numbers = itertools.count()
        for host in hosts:  # both clocks stand still: the parts would give both the same ids
            host.controller._new_id = lambda: f"rollout-{next(numbers)}"

        async def one(host: Control) -> None:
            nonlocal begun
            try:
                if (what := rng.choice(("begin", "begin", "look", *Action))) == "begin":
                    candidate = "v2" if host.flags.current("credit").production == "v1" else "v1"
                    row = await host.controller.begin("credit", candidate, by=OPS, reason="any")
                    ids.append(str(row["id"]))
                    begun += 1
                elif what == "look":
                    await host.controller.look()
                else:
                    await host.controller.act_on("credit", ids[-1], Action(what), by=OPS, reason="any")
            except GatewayError:
                pass  # refused: what counts is what it leaves behind

        for _ in range(40):
            await asyncio.gather(*(one(host) for host in rng.choices(hosts, k=2)))
            assert len(await leader.store.open_rollouts()) <= 1
            for host in hosts:
                host.clock.turn(3.0)
                await host.flags.reconcile()
        assert begun > 1


async def test_a_clock_that_jumps_moves_no_stage_and_loses_no_evidence(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        await lead(parts)
        rollout = await begin(parts, dwell_s=1000.0, min_requests=0)
        for jump in (3600.0, -7200.0, 86_400.0):
            parts.clock.jump(jump)
            await parts.second(rollout, canary=10, production=190)
        row = await stored(parts, rollout)
        assert (row["percent"], row["evidence"]["requests"]) == (5.0, 30)
        assert row["elapsed_s"] == pytest.approx(3.0)


async def test_with_sticky_keys_slow_canaries_are_not_judged_by_two_samples(tmp_path: Path) -> None:
    async with control(tmp_path, model(routing_key=RoutingKey("header", "x-user"))) as parts:
        await lead(parts)
        await begin(parts)
        row = parts.controller.open_rollout("credit")
        assert row is not None
        assert "latency" not in {metric["name"] for metric in row["evidence"]["metrics"]}


async def test_rollouts_are_listed_newest_first_and_unknown_ones_are_not_found(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        await lead(parts)
        first = await begin(parts)
        await parts.controller.act_on("credit", first, Action.ROLLBACK, by=OPS, reason="")
        parts.clock.turn(60.0)
        second = await begin(parts)
        assert [row["id"] for row in await parts.controller.rollouts("credit", 10)] == [second, first]
        with pytest.raises(NotFoundError):
            await parts.controller.rollout("credit", "nothing")
