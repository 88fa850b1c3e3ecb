"""`python -m tests.browser.screenshots`: the pictures of the documentation, taken while README's ten minutes run as they stand.

Nothing is posed: two real model servers, a gateway before them, clients, a canary; this only opens the dashboard beside them and waits
for the moments worth a picture. A picture that would weigh more than `LARGEST` bytes is an error.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2

from tests.browser.environment import running_browser
from tests.guides import readme, shell
from tests.system import PLAIN, ROOT
from tests.worker import eventually

IMAGES = ROOT / "docs" / "images"
LARGEST = 250_000
MODEL = "credit"
DESK = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
# A stage lasts for several pictures.
SLOWER = {"--dwell-s 5 ": "--dwell-s 15 ", "--seconds 60 ": "--seconds 120 "}
STORY_S = 900.0


@contextlib.contextmanager
def _ten_minutes(directory: Path) -> Iterator[tuple[str, str, subprocess.Popen[bytes]]]:
    """README's commands under way, with their gateway up: (URL, token, process)."""
    text, url = readme(directory)
    for there, here in SLOWER.items():
        assert there in text
        text = text.replace(there, here)
    with shell(text, directory / "output", PYTHONPATH=str(ROOT)) as process:
        token = directory / "data" / "admin-token"
        eventually(token.exists, 120.0, "the gateway")
        eventually(lambda: _answers(url, token.read_text().strip()), 60.0, "the gateway's API")
        yield url, token.read_text().strip(), process


def _answers(url: str, token: str) -> bool:
    with contextlib.suppress(httpx2.HTTPError, OSError):
        return _get(url, token, "/admin/models").status_code == 200
    return False


def _get(url: str, token: str, path: str) -> httpx2.Response:
    return httpx2.get(
        url + path, headers={"Authorization": f"Bearer {token}"}, trust_env=False, timeout=10.0, verify=PLAIN
    )


def _opened(browser: Any, url: str, token: str, place: str, **options: Any) -> Any:
    page = browser.new_context(**options).new_page()
    page.goto(f"{url}/{place}")
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="Sign out").wait_for()
    return page


def _save(page: Any, name: str) -> None:
    path = IMAGES / name
    page.mouse.move(1, 1)
    page.screenshot(path=path, animations="disabled")
    size = path.stat().st_size
    if size > LARGEST:
        raise SystemExit(f"{path.relative_to(ROOT)} has {size} bytes, more than {LARGEST}")
    print(f"{path.relative_to(ROOT)} {size} bytes")


def main() -> None:
    """Writes docs/images."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="shots") as name,
        running_browser() as browser,
        _ten_minutes(Path(name)) as (url, token, run),
    ):

        def rollout(is_it: Callable[[dict[str, Any]], bool], what: str) -> None:
            def now() -> bool:
                if run.poll() is not None:
                    raise SystemExit((Path(name) / "output").read_text(errors="replace")[-3000:])
                found = _get(url, token, f"/admin/models/{MODEL}").json()["rollout"]
                return found is not None and is_it(found)

            eventually(now, STORY_S, what)

        desk = _opened(browser, url, token, "#/", viewport=DESK, color_scheme="light")
        phone = _opened(browser, url, token, "#/", viewport=PHONE, color_scheme="dark", device_scale_factor=2)
        way = _opened(browser, url, token, f"#/models/{MODEL}/rollout", viewport=DESK, color_scheme="light")
        rollout(lambda one: one["candidate"] == "v2" and one["percent"] >= 25, "v2 at 25 %")
        desk.bring_to_front()
        desk.locator(".stages [aria-current=step]", has_text="25").wait_for()
        desk.wait_for_timeout(2000)
        _save(desk, "dashboard.png")
        phone.bring_to_front()
        _save(phone, "dashboard-phone.png")
        way.bring_to_front()
        way.locator(".stages [aria-current=step]", has_text="25").wait_for()
        way.wait_for_timeout(2000)
        _save(way, "rollout.png")
        review = _opened(browser, url, token, f"#/models/{MODEL}/review", viewport=DESK, color_scheme="dark")
        review.get_by_role("button", name=re.compile("Draw 10")).click()
        review.get_by_role("heading", name="Item 1 of 10").wait_for()
        _save(review, "review.png")


if __name__ == "__main__":
    main()
