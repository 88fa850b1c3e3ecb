"""The documentation says what the code does: generated pages are current, every setting is described, links lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from app.config.kinds import Section
from app.config.reflection import fields, kind
from app.config.schema import Settings
from docs.generate import GENERATED, HERE

ROOT = HERE.parent
PAGES = sorted([*ROOT.glob("*.md"), *HERE.rglob("*.md")])


def sections(
    section: type[Section] = Settings, path: tuple[str | int, ...] = ()
) -> Iterator[tuple[str, type[Section]]]:
    yield ".".join(map(str, path)), section
    for name, _ in fields(section):
        for inner in ((*path, name), (*path, name, 0), (*path, name, "NAME")):
            found = kind(inner).section
            if found is not None:
                yield from sections(found, inner)


@pytest.mark.parametrize("name", list(GENERATED))
def test_generated_pages_are_current(name: str) -> None:
    assert (HERE / name).read_text("utf-8") == GENERATED[name](), "run: make docs"


@pytest.mark.parametrize(
    ("path", "section"), list(sections()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_setting_is_described(path: str, section: type[Section]) -> None:
    page = (HERE / "configuration.md").read_text("utf-8")
    for name, info in fields(section):
        assert info.description, f"{path}.{name} has no description"
        assert f"| `{name}` |" in page


def test_the_reference_has_every_key_of_the_contract() -> None:
    """The documented YAML of the example file is all in the schema, and the schema knows nothing undocumented."""
    page = (HERE / "configuration.md").read_text("utf-8")
    example = yaml.safe_load((ROOT / "gateway.example.yaml").read_text())
    for model in example["models"].values():
        for key in model:
            assert f"| `{key}` |" in page


def test_every_error_code_has_a_remedy() -> None:
    """Those of the table, those by status, and those that a route gives by itself; and none that no code gives."""
    from app.api import problems

    source = "\n".join(path.read_text("utf-8") for path in (ROOT / "app" / "api").rglob("*.py"))
    given = set(re.findall(r"\bproblem\(\s*\d+,\s*\"(\w+)\"", source))
    assert {"internal", "client_left", "journal_full"} <= given
    given |= {code for _, _, code in problems.TABLE} | set(problems.CODES.values()) | {"error"}
    assert set(problems.REMEDIES) == given


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_documentation_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http://", "https://", "#", "mailto:")):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name} links to {target}"


def test_the_readme_leads_to_every_page() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    linked = set(re.findall(r"\]\(([^)#\s]+)", readme))
    pages = {str(page.relative_to(ROOT)) for page in HERE.rglob("*.md") if page.parent.name != "decisions"}
    assert pages <= linked
    assert "docs/decisions" in linked


def test_every_guide_is_run_by_a_test() -> None:
    """Its name stands in a test; the tests of guides run all blocks of shell."""
    tests = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*guide*.py"))
    tests += (ROOT / "tests" / "scenarios" / "test_first_canary.py").read_text("utf-8")
    for guide in (HERE / "guides").glob("*.md"):
        assert f'"{guide.name}"' in tests, guide.name


def test_commands_in_the_readme_exist() -> None:
    """Each `make` target and each `model-gateway` command that the README names."""
    readme = (ROOT / "README.md").read_text("utf-8")
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in set(re.findall(r"\bmake ([a-z]+)\b", readme)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"README names `make {target}`"
    from app.cli import cli

    known = {command.name for command in cli.registered_commands} | {
        group.name for group in cli.registered_groups
    }
    for command in set(re.findall(r"model-gateway ([a-z][a-z-]+)", readme)):
        assert command in known, f"README names `model-gateway {command}`"
