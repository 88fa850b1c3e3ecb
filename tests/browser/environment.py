"""The browser that `make browser` drives: Playwright in an environment of its own, and the system's Chromium.

`python -m tests.browser.environment` brings both ahead of the tests. What cannot be had ends in an error that says what to
do, never in a skipped test. Playwright's own browsers are not used: they come from no package registry.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.interop.environment import CACHE, NotInstalledError, filled

LOCK = Path(__file__).parent / "browser.lock"
PLACE = CACHE / "browser"
NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
APT = ("apt-get", "-o", "DPkg::Lock::Timeout=300")


def chromium() -> str:
    """The path of a Chromium, installed with Debian's package manager where there is none and we may."""
    named = os.environ.get("CHROMIUM")
    found = named or next(filter(None, map(shutil.which, NAMES)), None)
    if found is not None:
        return found
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise NotInstalledError(
            "there is no Chromium: install one (Debian: apt-get install chromium), or name it with CHROMIUM=/path"
        )
    sys.stderr.write("installing chromium\n")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in ((*APT, "update"), (*APT, "install", "-y", "--no-install-recommends", "chromium")):
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode and command[-1] != "update":
            raise NotInstalledError(
                f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
            )
    return chromium() if shutil.which("chromium") else _missing()


def _missing() -> str:
    raise NotInstalledError("the package chromium was installed, yet there is no program of that name")


@contextlib.contextmanager
def running_browser() -> Iterator[Any]:
    """Playwright's `Browser`. Its library is that of the environment; the project's own come first."""
    interpreter = filled(PLACE, LOCK)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = str(interpreter.parent.parent / "lib" / version / "site-packages")
    if library not in sys.path:
        sys.path.append(library)
    playwright = importlib.import_module("playwright.sync_api")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=arguments)
        try:
            yield browser
        finally:
            browser.close()


if __name__ == "__main__":
    filled(PLACE, LOCK)
    chromium()
