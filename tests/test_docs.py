"""The documentation says what the code does: generated pages are current, every setting is described, links lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from app.config.reflection import fields, kind
from app.config.schema import Section, Settings
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_documentation_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http://", "https://", "#", "mailto:")):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name} links to {target}"


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
