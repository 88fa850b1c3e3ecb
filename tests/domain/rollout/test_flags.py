"""What a rollout does to the flags can always be served, and doing it twice is the same as once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.domain.flags import Flags, faults
from app.domain.rollout import (
    Command,
    DisableCandidate,
    EndWatch,
    PromoteCandidate,
    RestoreProduction,
    SetCanaryPercent,
    StartShadow,
    flags_after,
)

BEFORE = Flags(model="credit", revision=3, production="v1", shadow_versions=("v3",), salt="credit")
COMMANDS: list[Command] = [
    StartShadow("v2"),
    SetCanaryPercent("v2", 5.0, "r1"),
    DisableCandidate("v2", "v1", "worse"),
    PromoteCandidate("v2", "v1"),
    PromoteCandidate("v2", "v1", compared=False),
    RestoreProduction("v2", "v1", "worse"),
    EndWatch("v1"),
]
TWO = [
    (earlier, command)
    for earlier in [None, *COMMANDS]
    for command in COMMANDS
    # A promoted candidate is no canary any more.
    if not (isinstance(earlier, PromoteCandidate) and isinstance(command, SetCanaryPercent))
]


@pytest.mark.parametrize(("earlier", "command"), TWO, ids=lambda c: type(c).__name__)
def test_any_command_after_any_other_leaves_flags_that_can_be_served(
    earlier: Command | None, command: Command
) -> None:
    before = BEFORE if earlier is None else flags_after(BEFORE, earlier, "r1")
    after = flags_after(before, command, "r1")
    assert faults(after, frozenset({"v1", "v2", "v3"})) == []
    assert flags_after(after, command, "r1") == after
    assert after.revision == before.revision


def test_a_stage_gives_the_candidate_its_share_with_the_rollouts_own_salt() -> None:
    after = flags_after(BEFORE, SetCanaryPercent("v2", 25.0, "r1"), "r1")
    assert (after.candidate, after.canary_percent, after.canary_enabled) == ("v2", 25.0, True)
    assert (after.salt, after.rollout_id) == ("r1", "r1")


def test_a_rollback_leaves_production_and_the_shadows_alone() -> None:
    canary = flags_after(BEFORE, SetCanaryPercent("v2", 25.0, "r1"), "r1")
    after = flags_after(canary, DisableCandidate("v2", "v1", "worse"), "r1")
    assert (after.production, after.candidate, after.canary_percent) == ("v1", None, 0.0)
    assert after.shadow_versions == ("v3",)


def test_a_promoted_candidate_is_production_and_no_shadow_of_itself() -> None:
    shadowed = flags_after(BEFORE, StartShadow("v2"), "r1")
    assert shadowed.shadow_versions == ("v3", "v2")
    after = flags_after(shadowed, PromoteCandidate("v2", "v1", compared=False), "r1")
    assert (after.production, after.candidate, after.shadow_versions) == ("v2", None, ("v3",))
    restored = flags_after(after, RestoreProduction("v2", "v1", "worse"), "r1")
    assert restored.production == "v1"


def test_the_former_production_is_a_shadow_while_the_promoted_one_is_watched_and_no_longer() -> None:
    promoted = flags_after(BEFORE, PromoteCandidate("v2", "v1"), "r1")
    assert promoted.shadow_versions == ("v3", "v1")
    assert flags_after(promoted, EndWatch("v1"), "r1").shadow_versions == ("v3",)
    assert flags_after(promoted, RestoreProduction("v2", "v1", "worse"), "r1").shadow_versions == ("v3",)


def test_shadows_that_were_switched_off_stay_off_during_the_watch() -> None:
    off = replace(BEFORE, shadow_enabled=False)
    promoted = flags_after(off, PromoteCandidate("v2", "v1"), "r1")
    assert (promoted.shadow_enabled, promoted.shadow_versions) == (False, ("v3",))
