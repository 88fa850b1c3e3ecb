"""Two admins change the same flags, or an admin and a rollout: one wins, the other hears 412 or 409, the audit shows both."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx2

from tests.system import RunningGateway


def test_of_two_changes_to_what_both_have_read_one_wins(gateway: RunningGateway) -> None:
    path = "/admin/models/credit/flags"
    for number in range(5):
        before = gateway.admin("GET", path)
        barrier = threading.Barrier(8)

        def change(
            who: int,
            number: int = number,
            tag: str = before.headers["etag"],
            barrier: threading.Barrier = barrier,
        ) -> httpx2.Response:
            barrier.wait(10)
            patch = {
                "candidate": "v2",
                "canary_percent": 10 * number + who + 1,
                "reason": f"admin {number}-{who}",
            }
            return gateway.admin("PATCH", path, patch, If_Match=tag)

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(change, range(8)))
        assert Counter(a.status_code for a in answers) == {200: 1, 412: 7}
        winner = next(a.json() for a in answers if a.status_code == 200)
        assert gateway.get(path)["canary_percent"] == winner["canary_percent"]
        assert winner["revision"] == before.json()["revision"] + 1
        entries = gateway.get("/admin/audit?model=credit&limit=100")["entries"]
        mine = [e for e in entries if f"admin {number}-" in e["reason"]]
        assert Counter(e["action"].endswith(".refused") for e in mine) == {False: 1, True: 7}
        assert {e["origin"] for e in mine} == {"127.0.0.1"}


def test_without_if_match_each_change_is_on_top_of_the_other(gateway: RunningGateway) -> None:
    path = "/admin/models/credit/flags"
    before = gateway.get(path)["revision"]

    def change(who: int) -> httpx2.Response:
        return gateway.admin("PATCH", path, {"candidate": "v2", "canary_percent": 60 + who, "reason": "x"})

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(change, range(8)))
    assert {a.status_code for a in answers} == {200}
    assert sorted(a.json()["revision"] for a in answers) == list(range(before + 1, before + 9))


def test_a_rollout_and_an_admin_do_not_both_own_the_canary(gateway: RunningGateway) -> None:
    path = "/admin/models/credit"
    gateway.set_flags("credit", reason="clean", candidate=None, canary_percent=0, disabled_versions=[])
    barrier = threading.Barrier(2)

    def start() -> httpx2.Response:
        barrier.wait(10)
        return gateway.admin("POST", f"{path}/rollouts", {"candidate": "v2", "reason": "race"})

    def set_canary() -> httpx2.Response:
        barrier.wait(10)
        canary = {"candidate": "v2", "canary_percent": 50, "canary_enabled": True, "reason": "race"}
        return gateway.admin("PATCH", f"{path}/flags", canary)

    with ThreadPoolExecutor(2) as pool:
        started, patched = (task.result() for task in [pool.submit(start), pool.submit(set_canary)])
    assert started.status_code in (201, 409), started.text
    assert patched.status_code in (200, 409, 412, 422), patched.text
    flags = gateway.get(f"{path}/flags")
    if started.status_code == 201:
        again = gateway.admin("POST", f"{path}/rollouts", {"candidate": "v2", "reason": "second"})
        assert again.status_code == 409
        rollout = gateway.get(f"{path}/rollouts/{started.json()['id']}")
        # Either the rollout's own share stands, or the admin's change took the canary out of its hands and it says so.
        assert flags["rollout_id"] == started.json()["id"] or rollout["state"] != "running", rollout
    else:
        assert (flags["candidate"], flags["rollout_id"]) == ("v2", "")
    assert [e for e in gateway.get("/admin/audit?model=credit&limit=10")["entries"] if e["reason"] == "race"]
