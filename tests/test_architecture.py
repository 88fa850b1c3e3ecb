"""What ARCHITECTURE.md and STYLE promise about the shape of the code, beyond what the import contracts check."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from app.adapters import migrations

ROOT = Path(__file__).parent.parent
APP = ROOT / "app"
MODULES = sorted(path for path in APP.rglob("*.py") if "__pycache__" not in path.parts)
NAMES = [str(path.relative_to(ROOT)) for path in MODULES]
LONGEST = 800  # lines; most are half of that
VAGUE = {"utils", "util", "helper", "helpers", "common", "manager", "managers", "misc"}
# What a worker must not carry: it would start slowly and be large, N times.
HEAVY = [
    "numpy",
    "scipy",
    "sklearn",
    "pyarrow",
    "pandas",
    "fastapi",
    "starlette",
    "uvicorn",
    "pydantic",
    "sqlalchemy",
    "alembic",
    "aiosqlite",
    "asyncpg",
    "redis",
    "structlog",
    "yaml",
    "typer",
    "rich",
    "httpx2",
    "prometheus_client",
    "opentelemetry.sdk",
    "requests",
]


@cache
def tree(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text("utf-8"))


def loaded(code: str) -> list[str]:
    """What of HEAVY an interpreter holds that has run this."""
    code += f"\nimport sys; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.split()


def test_a_worker_loads_nothing_of_the_control_process() -> None:
    assert loaded("import app.main, app.proxy.worker") == []


def test_a_supervisor_loads_what_reads_the_configuration_and_no_more() -> None:
    code = "import app.cli, app.supervisor, app.main, app.proxy.worker, app.control.specification, app.config"
    assert loaded(code) == ["pydantic", "yaml", "typer"]


def test_a_command_that_asks_the_gateway_loads_no_configuration_and_no_table() -> None:
    assert loaded("from app.cli import main; main(['flags', 'get', '--help'])")[-1:] == ["typer"]


# Each with its reason to be in the control process of the embedded default; whatever else is heavy waits until it is needed.
CONTROL = {
    "numpy",
    "fastapi",
    "starlette",
    "uvicorn",
    "pydantic",
    "sqlalchemy",
    "aiosqlite",
    "structlog",
    "prometheus_client",
}


def test_a_control_process_loads_only_what_its_configuration_needs(tmp_path: Path) -> None:
    """With a file that is up to date, neither Alembic nor the other store, nor Redis, nor what reports and exports compute with."""
    url = f"sqlite:///{tmp_path / 'gateway.db'}"
    migrations.upgrade(url)
    code = (
        "import asyncio, app.compose\n"
        "async def opened():\n"
        f"    store = await app.compose.open_store({url!r})\n"
        "    await store.ping()\n"
        "    await store.close()\n"
        "    app.compose.Webhook()\n"
        "asyncio.run(opened())"
    )
    assert set(loaded(code)) - {"rich"} == CONTROL  # rich: structlog loads it when it is there


def test_the_domain_takes_randomness_as_an_argument() -> None:
    """`random` is there for the type of that argument; calling the module itself would be hidden input."""
    drawn = [
        f"{name}:{node.lineno}: {ast.unparse(node)}"
        for name in NAMES
        if name.startswith("app/domain/")
        for node in ast.walk(tree(name))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "random"
        and node.attr != "Random"
    ]
    assert drawn == []


def test_only_the_configuration_reads_the_environment() -> None:
    """But for the interpreter's own variables, which a parent hands on to the interpreters it starts."""
    read = [
        f"{name}:{node.lineno}: {text}"
        for name in NAMES
        if not name.startswith("app/config/")
        for node in ast.walk(tree(name))
        if (text := _read_of_the_environment(node)) and "PYTHON" not in text
    ]
    assert read == []


def _read_of_the_environment(node: ast.AST) -> str:
    if isinstance(node, ast.Call):
        last = getattr(node.func, "attr", getattr(node.func, "id", ""))  # to write out each call takes long
        read = last in ("get", "getenv") and re.search(r"(environ\.get|getenv)$", ast.unparse(node.func))
        return ast.unparse(node) if read else ""
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        return ast.unparse(node) if ast.unparse(node.value) == "os.environ" else ""
    return ""


def test_a_module_says_what_it_is_for() -> None:
    assert [name for name in NAMES if tree(name).body and not ast.get_docstring(tree(name))] == []


def test_a_module_is_named_by_its_noun() -> None:
    assert [name for name in NAMES if set(re.split(r"[/._]", name.removesuffix(".py"))) & VAGUE] == []


def test_a_file_can_be_read_in_one_sitting() -> None:
    long = {name: len((ROOT / name).read_text("utf-8").splitlines()) for name in NAMES}
    assert {name: lines for name, lines in long.items() if lines > LONGEST} == {}


def test_every_package_is_one() -> None:
    """Without `__init__.py` neither the type checker nor the import contracts would look into it."""
    folders = {path.parent for path in MODULES}
    assert [
        str(folder.relative_to(ROOT)) for folder in sorted(folders) if not (folder / "__init__.py").exists()
    ] == []


def test_paths_named_in_the_architecture_exist() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    named = set(re.findall(r"`((?:app|migrations|docs|tests|deploy|benchmarks)/[\w./-]*)`", text))
    assert named
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_nothing_of_this_machine_is_in_the_repository() -> None:
    """Paths and registries of whoever wrote it help nobody and may leak something."""
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    pattern = re.compile(r"(?<![\w.])/(?:root|home/\w+)/|--index-url|--extra-index-url")
    for name in done.stdout.split("\0"):
        path = ROOT / name
        if not name or not path.is_file() or name == "tests/test_architecture.py":
            continue
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        assert not pattern.search(text), f"{name}: {pattern.search(text)}"
