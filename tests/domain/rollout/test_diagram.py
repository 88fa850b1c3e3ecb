"""The diagram in the docs is the table that the code runs by."""

from __future__ import annotations

from pathlib import Path

from app.domain.rollout import TRANSITIONS, State, Trigger, diagram

PAGE = Path(__file__).parents[3] / "docs" / "rollouts.md"


def test_the_page_shows_the_diagram_of_the_table() -> None:
    assert f"```mermaid\n{diagram()}\n```" in PAGE.read_text(encoding="utf-8")


def test_every_state_can_be_reached_and_every_one_but_the_last_can_be_left() -> None:
    reached = {State.PENDING} | {target for targets in TRANSITIONS.values() for target in targets}
    left = {state for state, _ in TRANSITIONS}
    assert reached == set(State)
    assert left == set(State) - {State.ROLLED_BACK}


def test_every_state_that_is_not_rolled_back_can_be() -> None:
    assert all((s, Trigger.ROLLBACK) in TRANSITIONS for s in State if s is not State.ROLLED_BACK)
