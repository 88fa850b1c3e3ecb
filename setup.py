"""Builds the package; with MODEL_GATEWAY_COMPILE=1 the data plane is compiled by mypyc (docs/decisions/0002), otherwise it stays Python.

The history of the tables lies beside the package in the source tree (`migrations/`), and within it in what is built.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

COMPILED = [
    "app/adapters/rows.py",
    "app/api/strict_json.py",
    "app/control/extraction.py",
    "app/control/intake.py",
    "app/domain/evidence/tick.py",
    "app/domain/guard.py",
    "app/domain/outcome.py",
    "app/domain/prediction.py",
    "app/domain/routing.py",
    "app/journal/format.py",
    "app/journal/writer.py",
    "app/journal/reader.py",
    "app/protocols/content.py",
    "app/protocols/features.py",
    "app/protocols/findings.py",
    "app/protocols/json_body.py",
    "app/protocols/json_paths.py",
    "app/protocols/scoring.py",
    "app/proxy/address.py",
    "app/proxy/attempt.py",
    "app/proxy/connection.py",
    "app/proxy/deadlines.py",
    "app/proxy/exchange.py",
    "app/proxy/fields.py",
    "app/proxy/guard.py",
    "app/proxy/passage.py",
    "app/proxy/plane.py",
    "app/proxy/relay.py",
    "app/proxy/request.py",
    "app/proxy/served.py",
    "app/proxy/server.py",
    "app/proxy/shadow.py",
    "app/proxy/statistics.py",
    "app/proxy/upstream.py",
]


def extensions() -> list[object]:
    if os.environ.get("MODEL_GATEWAY_COMPILE") != "1":
        return []
    from mypyc.build import mypycify

    return list(mypycify([*COMPILED, "--config-file=", "--ignore-missing-imports"], opt_level="3"))


class BuildWithHistory(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            built = Path(self.build_lib) / "app" / "migrations"
            shutil.rmtree(built, ignore_errors=True)
            shutil.copytree("migrations", built, ignore=shutil.ignore_patterns("__pycache__"))


if __name__ == "__main__":
    setup(ext_modules=extensions(), cmdclass={"build_py": BuildWithHistory})
