"""How the command line answers mistakes, refusals and silence: a line on standard error and the right exit status."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.conftest import Run
from tests.scripted_api import Reply, ScriptedApi

ROOT = Path(__file__).parent.parent.parent
COMMANDS = [
    ["serve"],
    ["demo"],
    ["check-config"],
    ["migrate"],
    ["status"],
    ["flags"],
    ["flags", "get"],
    ["flags", "set"],
    ["rollout"],
    *(
        ["rollout", action]
        for action in ("start", "pause", "resume", "advance", "promote", "rollback", "watch")
    ),
    ["feedback"],
    ["feedback", "import"],
    ["export"],
    ["export", "training-set"],
    ["review"],
    ["replay"],
]


def as_a_user(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_of_the_contract_explains_itself(run: Run, command: list[str]) -> None:
    ran = run(*command, "--help")
    assert ran.status == 0
    assert "Usage: model-gateway" in ran.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bogus"], "No such command"),
        (["flags", "get"], "Missing argument"),
        (["status", "--bogus"], "No such option"),
        (["serve", "--port", "many"], "Invalid value for '--port'"),
        (
            ["serve", "--port", "70000"],
            "command line: server.port: 70000 is out of range; it must be at most 65535",
        ),
        (["serve", "--roles", "proxy,cook"], "--roles: cook is no role; use proxy, recorder, controller"),
        (["serve", "--config", "absent.yaml"], "absent.yaml: cannot be read"),
        (["check-config", "absent.yaml"], "absent.yaml: cannot be read"),
        (["migrate", "--config", "absent.yaml"], "absent.yaml: cannot be read"),
        (["flags", "set", "m", "canary_percnt=5"], "did you mean canary_percent?"),
        (["flags", "set", "m", "canary_percent"], "write KEY=VALUE"),
        (["flags", "set", "m", "canary_percent=much"], "is no number"),
        (["flags", "set", "m", "canary_percent=nan"], "is not between 0 and 100"),
        (["flags", "set", "m", "canary_percent=101"], "is not between 0 and 100"),
        (["flags", "set", "m", "canary_enabled=maybe"], "neither true nor false"),
        (["flags", "set", "m", "production=v1", "production=v2"], "given twice"),
        (["rollout", "start", "m"], "name the version to let in"),
        (["rollout", "start", "m", "v2", "--stages", "a,b"], "no list of numbers"),
        (["review", "m", "--label", "x"], "write PREDICTION_ID=LABEL"),
        (["feedback", "import", "absent.csv"], "absent.csv: No such file"),
        (["feedback", "import", "absent.txt"], "name it with --format"),
        (["export", "training-set", "m", "--format", "xml"], "use parquet, csv or ndjson"),
        (["status", "--url", "ftp://h"], "is no http or https URL"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_answered_with_its_remedy_and_status_2(
    run: Run, arguments: list[str], says: str
) -> None:
    ran = run(*arguments)
    assert ran.status == 2
    assert says in ran.err
    assert ran.out == ""
    assert "Traceback" not in ran.err


def test_a_mistake_never_shows_a_traceback_to_a_user(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("server: {port: eighty}\n")
    done = as_a_user("serve", "--config", "bad.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "bad.yaml: server.port: 'eighty' has the wrong type (line 1); give a whole number\n"


def test_check_config_says_good_or_lists_every_fault(run: Run) -> None:
    Path("good.yaml").write_text("models: {m: {production: v, versions: {v: {url: 'http://h'}}}}\n")
    Path("bad.yaml").write_text("server: {port: x}\nmodel: {}\n")
    good = run("check-config", "good.yaml")
    assert (good.status, good.out) == (0, "good.yaml: good; models: 1, versions: 1\n")
    assert run("check-config", "good.yaml", "--json").json == {"ok": True, "faults": [], "models": ["m"]}
    bad = run("check-config", "bad.yaml")
    assert bad.status == 2
    assert len(bad.err.splitlines()) == 2
    as_json = run("check-config", "bad.yaml", "--json")
    assert as_json.status == 2
    assert as_json.json == {"ok": False, "faults": bad.err.splitlines()}


@pytest.mark.parametrize(
    ("status", "exits"), [(404, 1), (409, 1), (412, 1), (422, 1), (503, 1), (401, 2), (403, 2)]
)
def test_a_refusal_is_1_and_missing_credentials_are_2(
    run: Run, api: ScriptedApi, status: int, exits: int
) -> None:
    api.on("GET /admin/models/m/flags", Reply({"detail": "because of this"}, status))
    ran = run("flags", "get", "m")
    assert ran.status == exits
    assert "because of this" in ran.err


def test_a_refusal_that_is_no_problem_document_is_still_one_line(run: Run, api: ScriptedApi) -> None:
    api.on("GET /admin/models/m/flags", Reply(b"<html>Bad Gateway</html>", 502))
    ran = run("flags", "get", "m")
    assert ran.status == 1
    assert "502" in ran.err
    assert "is this a model gateway?" in ran.err


def test_no_gateway_there_is_said_with_its_address(run: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        ran = run("status", "--url", url)
    assert ran.status == 1
    assert f"no answer from {url}" in ran.err


def test_the_token_comes_from_the_option_then_the_environment_then_the_data_directory(
    run: Run, api: ScriptedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.on("GET /admin/models/m/flags", {"model": "m"})
    Path("data").mkdir()
    Path("data/admin-token").write_text("from-file\n")
    run("flags", "get", "m", "--token", "from-option")
    run("flags", "get", "m")
    monkeypatch.delenv("GATEWAY_TOKEN")
    run("flags", "get", "m")
    run("flags", "get", "m", "--data-dir", "elsewhere")
    sent = [asked.headers.get("authorization") for asked in api.asked]
    assert sent == ["Bearer from-option", "Bearer t", "Bearer from-file", None]


def test_the_token_on_disk_is_not_sent_to_another_host(tmp_path: Path) -> None:
    from app.commands.gateway import _token_on_disk

    (tmp_path / "admin-token").write_text("secret")
    assert _token_on_disk("http://localhost:8080", tmp_path) == "secret"
    assert _token_on_disk("http://[::1]:8080", tmp_path) == "secret"
    assert _token_on_disk("http://gateway.example:8080", tmp_path) is None
    assert _token_on_disk("http://127.0.0.1.example", tmp_path) is None


def test_a_proxy_of_the_environment_never_sees_the_token(
    run: Run, api: ScriptedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    api.on("GET /admin/models/m/flags", {"model": "m"})
    assert run("flags", "get", "m").status == 0


def test_output_cut_off_by_its_reader_is_no_error(tmp_path: Path, api: ScriptedApi) -> None:
    api.on("GET /admin/models/m/training-set", Reply(b'{"a": 1}\n' * 100_000))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GATEWAY_URL": api.url}
    command = f"{sys.executable} -m app export training-set m | head -c 10"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ('{"a": 1}\n{', "")


def test_what_others_sent_cannot_steer_the_terminal(run: Run, api: ScriptedApi) -> None:
    api.on("GET /admin/models/m/flags", {"production": "v1\x1b[2J\x07\x9b31m"})
    ran = run("flags", "get", "m")
    assert "\x1b" not in ran.out
    assert "\x9b" not in ran.out
    assert "v1\\x1b[2J" in ran.out


def test_help_is_quick_because_nothing_heavy_is_loaded(tmp_path: Path) -> None:
    heavy = (
        "numpy",
        "pyarrow",
        "sqlalchemy",
        "fastapi",
        "pydantic",
        "httpx2",
        "sklearn",
        "scipy",
        "uvloop",
        "rich",
    )
    code = f"import sys, app.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_migrate_makes_the_store_and_repeating_it_changes_nothing(run: Run) -> None:
    first = run("migrate", "--json")
    assert first.status == 0, first.err
    assert first.json["before"] is None
    assert Path("data/gateway.db").exists()
    again = run("migrate", "--json").json
    assert again["before"] == again["after"] == first.json["after"]
    assert "up to date" in run("migrate").err


@pytest.mark.parametrize(
    ("url", "status", "says"),
    [
        ("sqlite:///junk.db", 1, "file is not a database"),
        ("sqlite:///junk.db/below.db", 2, "name a place that this user can write to"),
        ("postgresql://u:hunter2@127.0.0.1:9/db", 1, "cannot be reached"),
    ],
)
def test_a_store_that_cannot_be_migrated_is_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, url: str, status: int, says: str
) -> None:
    Path("junk.db").write_text("this is no database\n" * 100)
    monkeypatch.setenv("GATEWAY_STORE__URL", url)
    ran = run("migrate")
    assert ran.status == status
    assert says in ran.err
    assert len(ran.err.splitlines()) == 1
    assert "hunter2" not in ran.err


def test_the_shell_completes_commands(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "_MODEL_GATEWAY_COMPLETE": "complete_bash",
        "COMP_WORDS": "model-gateway rollout st",
        "COMP_CWORD": "2",
    }
    done = subprocess.run(
        [sys.executable, "-m", "app"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == ["start"]
