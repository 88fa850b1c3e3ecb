"""The flags service: compare-and-set, changes towards safety while the store is down, and what is served
after a restart.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from app.adapters.local import LocalDistribution
from app.control.flags import PENDING_LIMIT
from app.control.ports import AuditEntry
from app.domain.flags import Flags
from app.errors import InvalidError, NotFoundError, StaleRevisionError, UnavailableError
from tests.control_parts import START, Control, FlakyStore, control, model, until

WHO = {"actor": "ops", "origin": "10.0.0.1", "reason": "test"}
CANARY = {"candidate": "v2", "canary_percent": 5.0, "canary_enabled": True}


async def test_a_change_raises_the_revision_and_is_audited_with_before_and_after(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        changed = await parts.flags.change("credit", CANARY, **WHO)
        assert (changed.revision, changed.candidate, changed.canary_percent) == (1, "v2", 5.0)
        [entry] = await parts.store.audit("credit", 10)
        assert (entry["actor"], entry["origin"], entry["action"], entry["reason"]) == (
            "ops",
            "10.0.0.1",
            "flags.set",
            "test",
        )
        assert entry["before"]["candidate"] is None
        assert entry["after"]["candidate"] == "v2"


async def test_a_patch_that_changes_nothing_makes_no_revision(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        assert (await parts.flags.change("credit", {"production": "v1"}, **WHO)).revision == 0
        assert await parts.store.audit("credit", 10) == []


async def test_everything_wrong_with_a_change_is_named_at_once(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        with pytest.raises(InvalidError, match=r"candidate.*v9.*canary_percent.*120"):
            await parts.flags.change("credit", {"candidate": "v9", "canary_percent": 120.0}, **WHO)
        with pytest.raises(InvalidError, match="revision"):
            await parts.flags.change("credit", {"revision": 9}, **WHO)
        with pytest.raises(NotFoundError):
            await parts.flags.change("nobody", {}, **WHO)


async def test_a_canary_share_without_a_candidate_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        for patch in ({"canary_percent": 50.0, "canary_enabled": True}, {**CANARY, "candidate": None}):
            with pytest.raises(InvalidError, match="canary_percent: there is no candidate; name one"):
                await parts.flags.change("credit", patch, **WHO)
        assert parts.flags.current("credit").revision == 0
        # Nothing is asked for that could get lost: as before.
        for patch in ({"canary_enabled": True}, {"canary_percent": 0.0}):
            assert (await parts.flags.change("credit", patch, **WHO)).revision == 0


async def test_a_candidate_that_another_host_has_just_named_can_be_given_a_share(tmp_path: Path) -> None:
    async with control(tmp_path / "a") as here, control(tmp_path / "b", store=here.store) as other:
        await other.flags.change("credit", {"candidate": "v3"}, **WHO)
        changed = await here.flags.change("credit", {"canary_percent": 20.0}, **WHO)
        assert (changed.candidate, changed.canary_percent, changed.revision) == ("v3", 20.0, 2)


async def test_a_share_for_a_candidate_that_was_taken_out_meanwhile_is_too_late_or_refused(
    tmp_path: Path,
) -> None:
    async with control(tmp_path / "a") as here, control(tmp_path / "b", store=here.store) as other:
        await here.flags.change("credit", CANARY, **WHO)
        await other.flags.reconcile()
        await other.flags.change("credit", {"candidate": None}, **WHO)
        with pytest.raises(StaleRevisionError):
            await here.flags.change("credit", {"canary_percent": 20.0}, expected_revision=1, **WHO)
        with pytest.raises(InvalidError, match="there is no candidate"):
            await here.flags.change("credit", {"canary_percent": 20.0}, **WHO)


async def test_of_two_admins_with_the_same_revision_one_wins_and_the_audit_shows_both(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        attempts = [
            parts.flags.change(
                "credit", {"candidate": name}, expected_revision=0, actor=name, origin="", reason=""
            )
            for name in ("v2", "v3")
        ]
        results = await asyncio.gather(*attempts, return_exceptions=True)
        assert [type(one) for one in results] == [Flags, StaleRevisionError]
        actions = {entry["actor"]: entry["action"] for entry in await parts.store.audit("credit", 10)}
        assert actions == {"v2": "flags.set", "v3": "flags.set.refused"}


async def test_a_change_made_on_another_host_in_between_is_seen(tmp_path: Path) -> None:
    async with control(tmp_path / "a") as here, control(tmp_path / "b", store=here.store) as other:
        await other.flags.change("credit", {"candidate": "v3"}, **WHO)
        with pytest.raises(StaleRevisionError):
            await here.flags.change("credit", {"candidate": "v2"}, expected_revision=0, **WHO)
        assert here.flags.current("credit").candidate == "v3"
        changed = await here.flags.change("credit", {"candidate": "v2"}, **WHO)
        assert (changed.revision, changed.candidate) == (2, "v2")


async def test_while_the_store_is_down_only_a_change_towards_safety_is_taken(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        await parts.flags.change("credit", CANARY, **WHO)
        parts.store.down = True
        with pytest.raises(UnavailableError):
            await parts.flags.change("credit", {"canary_percent": 50.0}, **WHO)
        killed = await parts.flags.change("credit", {"canary_enabled": False}, **WHO)
        assert (killed.revision, killed.canary_enabled) == (2, False)
        assert not parts.flags.durable("credit")
        parts.store.down = False
        await parts.flags.reconcile()
        assert parts.flags.durable("credit")
        [stored] = await parts.store.flags()
        assert (stored.revision, stored.canary_enabled) == (2, False)
        assert (await parts.store.audit("credit", 1))[0]["reason"] == "test"


async def test_a_kill_during_an_outage_does_not_undo_what_another_host_changed_meanwhile(
    tmp_path: Path,
) -> None:
    async with control(tmp_path / "a") as other:
        connection = FlakyStore(other.store)  # of this host alone
        async with control(tmp_path / "b", store=connection) as here:
            await here.flags.change("credit", {**CANARY, "shadow_versions": ("v3",)}, **WHO)
            connection.down = True
            await here.flags.change("credit", {"canary_enabled": False}, **WHO)
            await other.flags.change("credit", {"shadow_versions": ()}, **WHO)
            connection.down = False
            await here.flags.reconcile()
            now = here.flags.current("credit")
        assert (now.revision, now.canary_enabled, now.shadow_versions) == (3, False, ())


async def test_after_a_restart_without_the_store_the_last_known_flags_and_versions_are_served(
    tmp_path: Path,
) -> None:
    async with control(tmp_path) as parts:
        async with parts.client() as client:
            reply = await client.put(
                "/admin/models/credit/versions/v4", json={"url": "http://127.0.0.1:9004"}
            )
            assert reply.status_code == 201
        await parts.flags.change("credit", {"production": "v4"}, **WHO)
    async with control(tmp_path, down=True) as parts:
        assert parts.flags.current("credit").production == "v4"
        assert parts.registry.model("credit").version("v4") is not None


async def test_a_kill_that_never_reached_the_store_survives_a_restart(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        await parts.flags.change("credit", CANARY, **WHO)
        parts.store.down = True
        await parts.flags.change("credit", {"disabled_versions": ("v2",)}, **WHO)
    async with control(tmp_path, down=True) as parts:
        assert parts.flags.current("credit").disabled_versions == ("v2",)
        parts.store.down = False
        await parts.flags.reconcile()
        assert (await parts.store.flags())[0].disabled_versions == ("v2",)


async def test_with_nothing_known_and_no_store_only_production_is_served(tmp_path: Path) -> None:
    (tmp_path / "flags.json").write_bytes(b'{"flags": [{"model": "cre')  # a torn file
    async with control(tmp_path, down=True) as parts:
        flags = parts.flags.current("credit")
        assert (flags.production, flags.candidate, flags.revision) == ("v1", None, 0)


async def test_a_version_that_left_the_file_does_not_stop_the_others(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        await parts.flags.change("credit", {"production": "v2", "shadow_versions": ("v3",)}, **WHO)
    left = model(versions=model().versions[:1])
    async with control(tmp_path, left) as parts:
        flags = parts.flags.current("credit")
        assert (flags.production, flags.shadow_versions, flags.revision) == ("v1", (), 1)


async def test_garbage_from_another_host_is_refused_and_counted(tmp_path: Path) -> None:
    distribution = LocalDistribution()
    audit = AuditEntry(START, "ops", "test", "flags.set", "credit", "test")
    async with control(tmp_path, distribution=distribution) as parts:
        following = asyncio.create_task(parts.flags.run())
        await until(lambda: len(distribution._listeners) == 1)
        await distribution.publish(Flags("credit", 7, "no-such-version"))
        await distribution.publish(Flags("unknown", 7, "v1"))
        await distribution.publish(Flags("credit", 900, "v3"))  # looks good, but the store never held it
        await until(lambda: parts.flags.refused == 2)
        assert parts.flags.current("credit").revision == 0
        held = await parts.store.put_flags(Flags("credit", 1, "v2"), 0, audit)
        await distribution.publish(held)
        await until(lambda: parts.flags.current("credit") == held)
        assert parts.flags.refused == 2
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_listeners_hear_of_a_kill_before_it_is_answered_or_stored(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        await parts.flags.change("credit", CANARY, **WHO)
        heard: list[bool] = []
        parts.flags.subscribe(lambda name: heard.append(parts.flags.current(name).canary_enabled))
        parts.store.down = True
        change = asyncio.create_task(parts.flags.change("credit", {"canary_enabled": False}, **WHO))
        await asyncio.sleep(0)
        assert heard == [False]
        await change


async def test_what_waits_for_the_store_is_bounded_and_its_sum_is_kept(tmp_path: Path) -> None:
    async with control(tmp_path) as parts:
        await parts.flags.change(
            "credit", {"candidate": "v2", "canary_percent": 100.0, "canary_enabled": True}, **WHO
        )
        parts.store.down = True
        for step in range(PENDING_LIMIT + 20):
            await _kill_a_little(parts, 99.0 - step * 0.1)
        assert parts.flags.pending == PENDING_LIMIT
        parts.store.down = False
        await parts.flags.reconcile()
        stored = (await parts.store.flags())[0]
        assert stored.canary_percent == pytest.approx(99.0 - (PENDING_LIMIT + 19) * 0.1)


async def _kill_a_little(parts: Control, percent: float) -> None:
    await parts.flags.change("credit", {"canary_percent": percent}, **WHO)
