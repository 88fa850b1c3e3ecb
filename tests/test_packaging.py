"""What is built carries all that it needs at run time: also the history of the tables, which lies beside the package in the sources."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_a_built_package_brings_a_database_up_to_date_without_the_source_tree(tmp_path: Path) -> None:
    built, database = tmp_path / "lib", tmp_path / "gateway.db"
    build = ["setup.py", "-q", "build", "--build-base", str(tmp_path), "build_py", "--build-lib", str(built)]
    subprocess.run([sys.executable, *build], cwd=ROOT, check=True, capture_output=True, timeout=120)
    assert (built / "app" / "ui" / "index.html").exists()
    assert (built / "app" / "migrations" / "env.py").exists()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "app", "migrate"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(built), "GATEWAY_STORE__URL": f"sqlite:///{database}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM predictions").fetchone() == (0,)
