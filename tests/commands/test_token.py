"""`token new`: a token that is printed once, and the digest that a gateway's file holds."""

from __future__ import annotations

import json
from hashlib import sha256

import pytest
import yaml

from app.config.schema import TokenSection
from tests.commands.conftest import Run


def test_a_token_is_printed_once_and_its_line_is_what_the_file_takes(run: Run) -> None:
    ran = run("token", "new", "--name", "ci", "--scope", "read", "--scope", "feedback")
    token = ran.out.strip()
    assert len(token) >= 43  # 256 bits
    assert token not in ran.err
    (entry,) = yaml.safe_load(ran.err.splitlines()[0].partition("auth.tokens: ")[2])
    section = TokenSection.model_validate(entry)
    assert section.sha256 == (sha256(token.encode()).hexdigest(),)
    assert (section.name, section.scopes) == ("ci", ("read", "feedback"))


def test_no_two_tokens_are_alike(run: Run) -> None:
    made = [json.loads(run("token", "new", "--json").out)["token"] for _ in range(3)]
    assert len(set(made)) == 3


@pytest.mark.parametrize("arguments", [("--scope", "root"), ("--name", "a b"), ("--name", "")])
def test_what_no_file_would_take_is_not_made(run: Run, arguments: tuple[str, ...]) -> None:
    ran = run("token", "new", *arguments)
    assert (ran.status, ran.out) == (2, "")
    assert run("token", "new", "--help").status == 0
