"""The image, as far as it goes without an engine: its build stage's own commands, the program that they made, and the tests of what
was compiled, against what was compiled."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest

from tests.interop.processes import done
from tests.system import ROOT

pytestmark = pytest.mark.interop

# Of the modules that setup.py compiles.
TESTS = (
    "tests/conformance", "tests/control", "tests/domain/evidence", "tests/domain/test_guard.py", "tests/domain/test_outcome.py",
    "tests/domain/test_prediction.py", "tests/domain/test_routing.py", "tests/journal", "tests/protocols", "tests/proxy",
)  # fmt: skip
BESIDE = ("benchmarks", "deploy", "docs", "tests", "gateway.example.yaml", "pyproject.toml", "README.md")
# These replace functions and classes under test, which compiled code does not let happen.
NOT = (
    "tests/proxy/test_cost.py::test_a_request_makes_no_task_and_one_journal_write_a_record",
    "tests/proxy/test_departures.py::test_what_came_in_one_turn_leaves_at_its_end_and_a_full_burst_at_once",
)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image holds in /opt/model-gateway. Nothing else of it is brought by the build stage."""
    build = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)[1]
    place = tmp_path_factory.mktemp("image")
    target = place / "opt"
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    steps = re.findall(r"^(RUN|COPY|WORKDIR) ((?:.*\\\n)*.*)$", build, re.MULTILINE)
    assert [step.split()[0] for kind, step in steps if kind == "RUN"] == [
        "python", "pip", "PYTHONPATH=/build/tools", "printf",
    ]  # fmt: skip
    directory = place
    for kind, step in steps:
        step = step.replace("/opt/model-gateway", str(target)).replace("/build", str(place / "build"))
        if kind == "RUN":
            done("sh", "-c", step, env=environment, cwd=directory)
        elif kind == "WORKDIR":
            directory = Path(step)
            directory.mkdir(parents=True, exist_ok=True)
        else:
            *sources, copied_to = step.split()
            for source in sources:
                if (ROOT / source).is_dir():
                    leave = shutil.ignore_patterns("__pycache__", "*.db*")
                    shutil.copytree(ROOT / source, copied_to, ignore=leave)
                else:
                    shutil.copy(ROOT / source, directory / copied_to)
    return target


def test_its_steps_give_a_gateway_that_writes_nothing_beside_its_files(image: Path) -> None:
    """What a read-only file system and no capability do to a running gateway is in tests/security/test_container.py."""
    program = [image / "bin" / "model-gateway", "check-config", image / "gateway.yaml"]
    shutil.copy(ROOT / "gateway.example.yaml", image / "gateway.yaml")
    clean = {"PATH": os.environ["PATH"], "PYTHONPATH": str(image / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    before = sorted(image.rglob("*"))
    assert "good; models: 1, versions: 2" in done(*program, env=clean, cwd="/")
    assert "model-gateway" in done(program[0], "--version", env=clean, cwd="/")
    assert sorted(image.rglob("*")) == before, "it wrote beside its own files"


def test_every_module_on_the_path_of_a_request_is_compiled(image: Path) -> None:
    modules: list[str] = runpy.run_path(str(ROOT / "setup.py"), run_name="read")["COMPILED"]
    names = [module.removesuffix(".py").replace("/", ".") for module in modules]
    ask = "import importlib, sys; print(*(importlib.import_module(n).__file__ for n in sys.argv[1:]), sep='\\n')"
    clean = {"PATH": os.environ["PATH"], "PYTHONPATH": str(image / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    files = done(image / "bin" / "python", "-c", ask, *names, env=clean, cwd="/").split()
    assert len(files) == len(names) > 30
    assert [file for file in files if not (file.startswith(str(image)) and file.endswith(".so"))] == []


def test_compiled_or_not_it_does_the_same(image: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(image / "src", tree)
    for name in BESIDE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tree / name)
    without = [f"--deselect={name}" for name in NOT]
    said = done(
        sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS, *without, cwd=tree
    )
    assert re.search(r"\b[1-9]\d{2,} passed", said), said[-2000:]
