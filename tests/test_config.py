"""The configuration: what is accepted, what is refused and with which words, and where values come from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from app import config
from app.config import Settings, load
from app.config.consistency import METRICS
from app.config.masking import masked
from app.domain.model import Model, RoutingKey, UpstreamTls, Version
from app.domain.performance.tally import for_task
from app.domain.policy import AuthPolicy, JournalPolicy, ServerPolicy, Token
from app.errors import ConfigurationError

MINIMAL = """
models:
  credit:
    production: v1
    versions: {v1: {url: "http://127.0.0.1:9001"}}
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(text)
    return path


def loaded(tmp_path: Path, text: str, environ: dict[str, str] | None = None, **overrides: Any) -> Settings:
    return load(written(tmp_path, text), overrides, environ or {})


def faults(tmp_path: Path, text: str, environ: dict[str, str] | None = None, **overrides: Any) -> list[str]:
    with pytest.raises(ConfigurationError) as refused:
        loaded(tmp_path, text, environ, **overrides)
    for line in refused.value.faults:
        assert "\n" not in line
        assert "; " in line or "?" in line, f"no remedy in: {line}"
    return refused.value.faults


def with_model(tmp_path: Path, changes: str) -> list[str]:
    """The faults of a model that is right but for these lines."""
    document = yaml.safe_load(MINIMAL)
    document["models"]["credit"].update(yaml.safe_load(changes))
    return faults(tmp_path, yaml.safe_dump(document))


# ---- what is accepted


def test_without_a_file_everything_has_its_default() -> None:
    settings = load(None, environ={})
    assert config.models(settings) == ()
    assert config.server(settings) == ServerPolicy()
    assert config.journal(settings) == JournalPolicy(directory="data/journal")
    assert config.auth(settings) == AuthPolicy()
    assert settings.store.url == "sqlite:///data/gateway.db"
    assert settings.flags.url == "local://"


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "models: {}\n", "---\n", "models:\n  # later\n"])
def test_an_empty_file_is_a_gateway_without_models(tmp_path: Path, text: str) -> None:
    if text.endswith("later\n"):
        assert "models" in faults(tmp_path, text)[0]  # a key without a value is a slip, not an empty mapping
    else:
        assert loaded(tmp_path, text).models == {}


def test_a_minimal_model_has_the_defaults_of_the_domain(tmp_path: Path) -> None:
    (model,) = config.models(loaded(tmp_path, MINIMAL))
    assert model == Model("credit", "v1", (Version("v1", ("http://127.0.0.1:9001",)),))


def test_the_example_file_is_accepted_and_names_every_section() -> None:
    example = Path(__file__).parent.parent / "gateway.example.yaml"
    settings = load(example, environ={})
    written_keys = set(yaml.safe_load(example.read_text()))
    assert written_keys == set(Settings.model_fields)
    assert settings.models


def test_every_value_of_a_model_reaches_the_domain(tmp_path: Path) -> None:
    text = """
models:
  credit:
    match: {path_prefix: /models/credit/, strip: true, host: API.example, header: {X-Tenant: acme}}
    protocol: json
    extract: {features: "$.features", prediction: "$['prediction']"}
    task: binary
    routing_key: {json: "$.user.id"}
    production: v1
    versions:
      v1: {url: "http://127.0.0.1:9001"}
      v2: {url: ["http://a:9002", "unix:///run/model.sock"], timeout_s: 2, connect_timeout_s: 0.5, metadata: {git: abc}}
    shadow: {versions: v2, sample: 0.5, max_concurrency: 3, timeout_s: 1, agreement_threshold: 0}
    canary: {stages: [1, 50.5], dwell_s: 0, min_requests: 7, fallback: none, watch_s: 9,
             control: {sample: 0, max_share: 1, mode: concurrent}}
    guard: {error_rate: 0.2, latency_p99_ms: 90, window: 10, min_requests: 10, mode: off}
    evidence: {alpha: 1e-3, margin: 2, unit: key, floor: 0.01}
    labels: {horizon_s: 60, min_coverage: 0}
    drift: {daily_false_alarm_rate: 0.1, numeric_test: ks}
    retraining: {strategy: schedule, metric: f1, baseline: 0.9, every_s: 3600, webhook: "https://example.org/x"}
    privacy: {drop: [ssn], hash: [email], retention_days: 30}
    tls: {ca: ca.pem, certificate: own.pem, key: own.key, server_name: model.internal}
"""
    (model,) = config.models(loaded(tmp_path, text))
    assert (model.match.path_prefix, model.match.strip, model.match.host) == (
        "/models/credit",
        True,
        "api.example",
    )
    assert model.match.headers == (("x-tenant", "acme"),)
    assert model.extract == (("features", "$.features"), ("prediction", "$['prediction']"))
    assert model.routing_key == RoutingKey("json", "$.user.id")
    assert model.versions[1] == Version(
        "v2", ("http://a:9002", "unix:///run/model.sock"), 2.0, 0.5, (("git", "abc"),)
    )
    assert model.shadow_versions == ("v2",)
    assert model.canary.stages == (1.0, 50.5)
    assert model.canary.control.mode == "concurrent"
    assert model.guard.mode == "off"
    assert (model.evidence.alpha, model.evidence.unit) == (1e-3, "key")
    assert (model.drift.daily_false_alarm_rate, model.drift.numeric_test) == (0.1, "ks")
    assert model.retraining.every_s == 3600.0
    assert model.privacy.hash == ("email",)
    assert model.tls == UpstreamTls("ca.pem", "own.pem", "own.key", "model.internal")


@pytest.mark.parametrize(
    ("written_as", "means"),
    [
        ("{header: X-User}", RoutingKey("header", "X-User")),
        ("{cookie: sid}", RoutingKey("cookie", "sid")),
        ("{query: user}", RoutingKey("query", "user")),
        ("null", RoutingKey()),
    ],
)
def test_each_source_of_a_routing_key(tmp_path: Path, written_as: str, means: RoutingKey) -> None:
    (model,) = config.models(loaded(tmp_path, MINIMAL + f"    routing_key: {written_as}\n"))
    assert model.routing_key == means


def test_words_that_yaml_1_1_reads_as_something_else_stay_words(tmp_path: Path) -> None:
    text = """
models:
  no:
    guard: {mode: off}
    production: 2024-01-01
    versions: {2024-01-01: {url: "http://127.0.0.1:9001", metadata: {on: yes, at: 12:30:45}}, 1.10: {url: "http://b"}}
"""
    (model,) = config.models(loaded(tmp_path, text))
    assert (model.name, model.production, model.guard.mode) == ("no", "2024-01-01", "off")
    assert [version.name for version in model.versions] == ["2024-01-01", "1.10"]
    assert model.versions[0].metadata == (("at", "12:30:45"), ("on", "yes"))


def test_anchors_and_merges_are_understood(tmp_path: Path) -> None:
    text = """
models:
  a: &common
    match: {path_prefix: /a}
    production: v1
    versions: {v1: {url: "http://127.0.0.1:9001"}}
  b: {<<: *common, match: {path_prefix: /b}}
"""
    one, two = config.models(loaded(tmp_path, text))
    assert (one.match.path_prefix, two.match.path_prefix) == ("/a", "/b")
    assert one.versions == two.versions


def test_the_sqlite_file_follows_the_data_directory_unless_it_is_named(tmp_path: Path) -> None:
    assert loaded(tmp_path, "data_dir: /var/lib/gw").store.url == "sqlite:////var/lib/gw/gateway.db"
    assert loaded(tmp_path, "data_dir: x\nstore: {url: 'sqlite:///y.db'}").store.url == "sqlite:///y.db"


def test_tokens_reach_the_policy_with_digests_in_lower_case(tmp_path: Path) -> None:
    text = f"auth: {{tokens: [{{name: ops, sha256: {'AB' * 32}, scopes: admin}}]}}"
    assert config.auth(loaded(tmp_path, text)) == AuthPolicy((Token("ops", "ab" * 32, ("admin",)),))


# ---- the environment and the command line


def test_a_token_that_is_being_replaced_has_two_digests_and_one_name(tmp_path: Path) -> None:
    text = f"auth: {{tokens: [{{name: ops, sha256: [{'a' * 64}, {'b' * 64}], scopes: [admin]}}]}}"
    tokens = config.auth(loaded(tmp_path, text)).tokens
    assert tokens == (Token("ops", "a" * 64, ("admin",)), Token("ops", "b" * 64, ("admin",)))


def test_the_environment_overrides_the_file_and_the_command_line_both(tmp_path: Path) -> None:
    environ = {"GATEWAY_SERVER__PORT": "9090", "GATEWAY_SERVER__HOST": "0.0.0.0"}
    server = loaded(
        tmp_path, "server: {port: 1, workers: 3}", environ, server={"port": 7, "host": None}
    ).server
    assert (server.port, server.host, server.workers) == (7, "0.0.0.0", 3)


@pytest.mark.parametrize(
    ("variable", "value", "path", "means"),
    [
        ("GATEWAY_DATA_DIR", "/x", ("data_dir",), "/x"),
        (
            "GATEWAY_STORE__URL",
            "postgresql://u:a, b: {c@h/db",
            ("store", "url"),
            "postgresql://u:a, b: {c@h/db",
        ),
        ("gateway_server__port", "9090", ("server", "port"), 9090),
        ("GATEWAY_SERVER__ADMIN_PORT", "null", ("server", "admin_port"), None),
        (
            "GATEWAY_SERVER__TRUSTED_PROXIES",
            "10.0.0.0/8, ::1",
            ("server", "trusted_proxies"),
            ("10.0.0.0/8", "::1"),
        ),
        ("GATEWAY_MODELS__CREDIT__PRODUCTION", "2", ("models", "credit", "production"), "2"),
        (
            "GATEWAY_MODELS__CREDIT__CANARY__STAGES",
            "[1, 5]",
            ("models", "credit", "canary", "stages"),
            (1.0, 5.0),
        ),
        (
            "GATEWAY_MODELS__CREDIT__CANARY__STAGES",
            "1,5",
            ("models", "credit", "canary", "stages"),
            (1.0, 5.0),
        ),
        ("GATEWAY_MODELS__CREDIT__MATCH__STRIP", "true", ("models", "credit", "match", "strip"), True),
        ("GATEWAY_MODELS__CREDIT__GUARD__MODE", "off", ("models", "credit", "guard", "mode"), "off"),
        (
            "GATEWAY_MODELS__CREDIT__RETRAINING__WEBHOOK",
            "",
            ("models", "credit", "retraining", "webhook"),
            None,
        ),
    ],
)
def test_any_key_can_come_from_the_environment(
    tmp_path: Path, variable: str, value: str, path: tuple[str, ...], means: object
) -> None:
    document = yaml.safe_load(MINIMAL)
    document["models"]["credit"]["versions"]["2"] = {"url": "http://127.0.0.1:9002"}
    found: Any = loaded(tmp_path, yaml.safe_dump(document), {variable: value})
    for key in path:
        found = found[key] if isinstance(found, dict) else getattr(found, key)
    assert found == means


def test_a_model_with_dashes_is_reached_by_underscores(tmp_path: Path) -> None:
    text = MINIMAL.replace("credit", "Credit-Risk.v2")
    found = loaded(tmp_path, text, {"GATEWAY_MODELS__CREDIT_RISK_V2__CANARY__DWELL_S": "1"})
    assert found.models["Credit-Risk.v2"].canary.dwell_s == 1.0


def test_a_whole_model_can_come_from_the_environment() -> None:
    environ = {
        "GATEWAY_MODELS__CREDIT__PRODUCTION": "v1",
        "GATEWAY_MODELS__CREDIT__VERSIONS": '{"v1": {"url": "http://127.0.0.1:9001"}}',
    }
    (model,) = config.models(load(None, environ=environ))
    assert model.version("v1") is not None


def test_variables_that_a_container_platform_sets_are_left_alone() -> None:
    environ = {"GATEWAY_PORT": "tcp://10.0.0.1:80", "GATEWAY_SERVICE_HOST": "10.0.0.1", "GATEWAY_TOKEN": "x"}
    assert load(None, environ=environ) == load(None, environ={})


def test_a_fault_from_the_environment_names_the_variable(tmp_path: Path) -> None:
    (line,) = faults(tmp_path, MINIMAL, {"GATEWAY_SERVER__PORT": "many"})
    assert line.startswith("environment GATEWAY_SERVER__PORT: server.port: 'many' ")
    (line,) = faults(tmp_path, MINIMAL, {"GATEWAY_SERVER__PROT": "1"})
    assert line == "environment GATEWAY_SERVER__PROT: server.prot: unknown key; did you mean port?"
    (line,) = faults(tmp_path, MINIMAL, {"GATEWAY_MODELS__CREDIT__CANARY__STAGES": "[1, "})
    assert "GATEWAY_MODELS__CREDIT__CANARY__STAGES" in line


def test_a_fault_from_the_command_line_says_so(tmp_path: Path) -> None:
    (line,) = faults(tmp_path, MINIMAL, server={"port": 70000})
    assert line.startswith("command line: server.port: 70000 is out of range; ")


def test_a_variable_that_may_mean_two_models_is_refused(tmp_path: Path) -> None:
    text = (
        MINIMAL
        + MINIMAL.replace("models:\n", "").replace("credit", "a-b")
        + MINIMAL.replace("models:\n", "").replace("credit", "a.b")
    )
    lines = faults(tmp_path, text, {"GATEWAY_MODELS__A_B__PRODUCTION": "v1"})
    assert any("GATEWAY_MODELS__A_B__PRODUCTION: A_B may mean a-b or a.b" in line for line in lines)


# ---- what is refused


def test_a_fault_has_file_path_line_and_remedy(tmp_path: Path) -> None:
    (line,) = faults(tmp_path, "server:\n  prot: 1\n")
    assert line == f"{tmp_path / 'gateway.yaml'}: server.prot: unknown key (line 2); did you mean port?"


def test_all_faults_come_at_once(tmp_path: Path) -> None:
    lines = faults(tmp_path, "server: {port: x, workers: 0}\njournal: {fsync: often}\nmodel: {}\n")
    assert [re.sub(r"^.*?: ([\w.]+): .*", r"\1", line) for line in lines] == [
        "server.port",
        "server.workers",
        "journal.fsync",
        "model",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [1", r"is not valid YAML: .*\(line \d+\); correct"),
        ("server:\n\tport: 1", r"is not valid YAML: .*\(line 2\); indent with spaces"),
        ("- a\n- b", r"is no mapping of sections"),
        ("just text", r"is no mapping of sections"),
        (
            "server: {port: 1}\nserver: {port: 2}",
            r": server: is given twice, first on line 1 \(line 2\); keep one",
        ),
        ("server: {port: 1, port: 2}", r": server.port: is given twice"),
        ("a: 1\n---\nb: 2", r"is not valid YAML: expected a single document"),
        (
            "server: !!python/object:os.system {}",
            r": server: the tag .* is not used here \(line 1\); remove it",
        ),
        ("? [a, b]\n: 1", r"a key must be plain text"),
        ("data_dir: &a [*a]", r"nested too deeply|undefined alias"),
        ("models: {<<: 3}", r"`<<` merges mappings only"),
    ],
)
def test_a_file_that_is_no_configuration_document(tmp_path: Path, text: str, says: str) -> None:
    (line,) = faults(tmp_path, text)
    assert line.startswith(str(tmp_path / "gateway.yaml"))
    assert re.search(says, line), line


def test_a_file_that_expands_beyond_reason_is_refused(tmp_path: Path) -> None:
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    for level in range(1, 9):
        text += f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n"
    (line,) = faults(tmp_path, text)
    assert "expands too far" in line


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(ConfigurationError, match="cannot be read") as refused:
            load(path, environ={})
        assert refused.value.faults[0].startswith(f"{path}: ")
    path = tmp_path / "latin.yaml"
    path.write_bytes("data_dir: gelöscht".encode("latin-1"))
    with pytest.raises(ConfigurationError, match=r"is not UTF-8 \(line 1\); save it"):
        load(path, environ={})


@pytest.mark.parametrize(
    ("text", "where", "says"),
    [
        ("on: 1", "on", "unknown key"),
        ("servers: {}", "servers", "did you mean server?"),
        ("port: 80", "port", "it belongs under server"),
        ("server: []", "server", "give a mapping of keys"),
        ("server: null", "server", "give a mapping of keys"),
        ("server: {port: '80'}", "server.port", "'80' has the wrong type (line 1); give a whole number"),
        ("server: {port: 80.5}", "server.port", "give a whole number"),
        ("server: {port: true}", "server.port", "true has the wrong type"),
        ("server: {port: 65536}", "server.port", "at most 65535"),
        ("server: {port: 8080, admin_port: 8080}", "server.admin_port", "same as server.port"),
        ("server: {workers: 0}", "server.workers", "at least 1"),
        ("server: {drain_s: -1}", "server.drain_s", "at least 0"),
        ("server: {receive_timeout_s: 0}", "server.receive_timeout_s", "greater than 0"),
        ("server: {receive_timeout_s: 10s}", "server.receive_timeout_s", "give a number (seconds)"),
        ("server: {drain_s: .inf}", "server.drain_s", "finite"),
        ("server: {drain_s: .nan}", "server.drain_s", "finite"),
        ("server: {trusted_proxies: [10.0.0.1/8]}", "server.trusted_proxies[0]", "10.0.0.0/8"),
        ("server: {tls: {certificate: a.pem}}", "server.tls.key", "is missing"),
        ("data_dir: ''", "data_dir", "is empty"),
        ("data_dir: 5", "data_dir", 'put it in quotes: "5"'),
        ("store: {url: mysql://h/db}", "store.url", "scheme 'mysql'"),
        ("store: {url: postgres://h/db}", "store.url", "write postgresql://"),
        ("store: {url: postgresql:///}", "store.url", "no host"),
        ("store: {url: postgresql://h}", "store.url", "names no database"),
        ("store: {url: postgresql://h:port/db}", "store.url", "is no URL"),
        ("store: {url: gateway.db}", "store.url", "scheme 'none'"),
        ("store: {url: 'sqlite://'}", "store.url", "names no file"),
        ("flags: {url: http://h}", "flags.url", "use local://, redis://"),
        ("flags: {url: redis://}", "flags.url", "no host"),
        ("flags: {url: local://x}", "flags.url", "after local://"),
        ("journal: {fsync: sometimes}", "journal.fsync", "use interval, always or never"),
        ("journal: {fsync_interval_ms: 0}", "journal.fsync_interval_ms", "at least 1"),
        ("journal: {segment_bytes: 100000, max_bytes: 70000}", "journal.segment_bytes", "make it smaller"),
        ("auth: {tokens: [{name: a}]}", "auth.tokens[0].sha256", "is missing"),
        ("models: {'a b': {}}", "models['a b']", "is no name"),
        ("models: {m: 5}", "models.m", "give a mapping of keys"),
    ],
)
def test_each_wrong_key_outside_the_models(tmp_path: Path, text: str, where: str, says: str) -> None:
    line = faults(tmp_path, text)[0]
    assert f": {where}: " in line, line
    assert says in line, line


@pytest.mark.parametrize(
    ("changes", "where", "says"),
    [
        ("production: v9", "production", "'v9' is no version of this model (line 3); name one of v1"),
        ("production: 1", "production", 'put it in quotes: "1"'),
        ("production: null", "production", "nothing is no text"),
        ("versions: {}", "versions", "give at least one"),
        ("versions: {v1: {}}", "versions.v1.url", "version 'v1' of 'credit' has no address"),
        ("versions: {v1: {url: []}}", "versions.v1.url", "is empty"),
        ("versions: {v1: {url: 127.0.0.1:9001}}", "versions.v1.url[0]", "use http, https or unix"),
        ("versions: {v1: {url: 'ftp://h'}}", "versions.v1.url[0]", "scheme 'ftp'"),
        ("versions: {v1: {url: 'http://'}}", "versions.v1.url[0]", "has no host"),
        ("versions: {v1: {url: 'http://h:0'}}", "versions.v1.url[0]", "port 0"),
        ("versions: {v1: {url: 'http://h:x'}}", "versions.v1.url[0]", "is no URL"),
        ("versions: {v1: {url: 'http://h/?a=1'}}", "versions.v1.url[0]", "has a query"),
        ("versions: {v1: {url: 'http://h/a b'}}", "versions.v1.url[0]", "percent-encode"),
        ("versions: {v1: {url: 'unix://run/x.sock'}}", "versions.v1.url[0]", "names no socket"),
        ("versions: {v1: {url: [http://h, http://h]}}", "versions.v1.url", "names an address twice"),
        ("versions: {v1: {url: http://h, timeout_s: 0}}", "versions.v1.timeout_s", "greater than 0"),
        ("versions: {v1: {url: http://h, timout_s: 1}}", "versions.v1.timout_s", "did you mean timeout_s?"),
        ("shadow: {versions: [v9]}", "shadow.versions[0]", "'v9' is no version"),
        ("shadow: {versions: v1}", "shadow.versions[0]", "is production"),
        ("shadow: {sample: 1.5}", "shadow.sample", "at most 1"),
        ("canary: {stages: []}", "canary.stages", "has no stage"),
        ("canary: {stages: [10, 5]}", "canary.stages", "not ascending: 5 follows 10"),
        ("canary: {stages: [50, 50]}", "canary.stages", "not ascending"),
        ("canary: {stages: [0, 5]}", "canary.stages[0]", "greater than 0"),
        ("canary: {stages: [5, 101]}", "canary.stages[1]", "at most 100"),
        ("canary: {dwell_s: -1}", "canary.dwell_s", "at least 0"),
        ("canary: {fallback: v2}", "canary.fallback", "use production or none"),
        ("canary: {control: {mode: before}}", "canary.control.mode", "use after or concurrent"),
        ("guard: {min_requests: 200}", "guard.min_requests", "the guard would never act"),
        ("guard: {mode: false}", "guard.mode", "use off, advisory"),
        ("evidence: {alpha: 0}", "evidence.alpha", "greater than 0"),
        ("evidence: {margin: 0.5}", "evidence.margin", "at least 1"),
        ("labels: {horizon_s: -5}", "labels.horizon_s", "at least 0"),
        ("drift: {daily_false_alarm_rate: 0}", "drift.daily_false_alarm_rate", "greater than 0"),
        ("drift: {daily_false_alarm_rate: 1}", "drift.daily_false_alarm_rate", "less than 1"),
        ("drift: {numeric_test: kl}", "drift.numeric_test", "use psi or ks"),
        ("drift: {numeric: ks}", "drift.numeric", "did you mean numeric_test?"),
        ("retraining: {cooldown_s: 0}", "retraining.cooldown_s", "greater than 0"),
        ("retraining: {schema_threshold: 0}", "retraining.schema_threshold", "greater than 0"),
        ("retraining: {schema_threshold: 1.5}", "retraining.schema_threshold", "at most 1"),
        ("retraining: {strategy: schedule}", "retraining.every_s", "needed for strategy: schedule"),
        ("retraining: {baseline: 0.9}", "task", "is none, which has no metrics"),
        ("{task: binary, retraining: {metric: f11}}", "retraining.metric", "did you mean f1?"),
        (
            "{task: regression, retraining: {metric: f1}}",
            "retraining.metric",
            "use one of mae, rmse, mape, r2",
        ),
        ("retraining: {webhook: 'file:///etc'}", "retraining.webhook", "no http or https URL"),
        (
            "retraining: {performance_threshold: 0.2, critical_threshold: 0.1}",
            "retraining.critical_threshold",
            "below performance_threshold",
        ),
        ("privacy: {drop: [a], hash: [a]}", "privacy.hash", "also dropped: a"),
        ("privacy: {retention_days: 0}", "privacy.retention_days", "at least 1"),
        ("protocol: grpc", "protocol", "use json, oip, tfserving, mlflow, openai or opaque"),
        ("{protocol: oip, extract: {features: $.x}}", "extract", "is for protocol json"),
        ("extract: {features: features}", "extract.features", "must begin with '$'"),
        ("extract: {feature: $.x}", "extract.feature", "did you mean features?"),
        ("routing_key: {}", "routing_key", "exactly one of"),
        ("routing_key: {header: a, query: b}", "routing_key", "exactly one of"),
        ("routing_key: {header: 'a b'}", "routing_key.header", "not accepted"),
        ("routing_key: {json: '$.a[*]'}", "routing_key.json", "wildcard"),
        ("match: {path_prefix: models}", "match.path_prefix", "write '/models'"),
        ("match: {path_prefix: /admin}", "match.path_prefix", "is the gateway's own"),
        ("match: {path_prefix: /metrics/x}", "match.path_prefix", "is the gateway's own"),
        ("match: {path_prefix: /%61dmin}", "match.path_prefix", "is the gateway's own"),
        ("match: {path_prefix: /a//b}", "match.path_prefix", "empty or a dot segment"),
        ("match: {path_prefix: /a/../b}", "match.path_prefix", "empty or a dot segment"),
        ("match: {path_prefix: '/a?b'}", "match.path_prefix", "percent-encode"),
        ("match: {header: {'a b': c}}", "match.header['a b']", "is no"),
        ("match: {header: {x: ' c'}}", "match.header.x", "cannot stand in a header"),
        ("window: 5", "window", "it belongs under guard"),
        ("tls: {certificate: own.pem}", "tls.key", "needs both files"),
        ("tls: {key: own.key}", "tls.certificate", "needs both files"),
        ("tls: {insecure_skip_verify: true, ca: ca.pem}", "tls.insecure_skip_verify", "meaningless"),
        ("tls: {verify: false}", "tls.verify", "unknown key"),
    ],
)
def test_each_wrong_key_of_a_model(tmp_path: Path, changes: str, where: str, says: str) -> None:
    lines = with_model(tmp_path, changes)
    assert any(f": models.credit.{where}: " in line and says in line for line in lines), lines


@pytest.mark.parametrize(
    "prefix", ["/", "/administration", "/models/admin", "/docs2", "/a%20b", "/v1/models"]
)
def test_prefixes_beside_the_gateways_own_are_allowed(tmp_path: Path, prefix: str) -> None:
    (model,) = config.models(loaded(tmp_path, MINIMAL + f"    match: {{path_prefix: {prefix}}}\n"))
    assert model.match.path_prefix == prefix


@pytest.mark.parametrize("task", list(METRICS))
def test_the_metrics_that_can_be_named_are_those_that_are_measured(task: str) -> None:
    """All but the noise floor of the calibration error, which is no goal."""
    tally = for_task(task)
    measured = {figure.name for figure in tally.figures()} - {"ece_noise"} if tally else set()
    assert set(METRICS[task]) == measured


def two_models(one: str, two: str) -> str:
    rest = 'production: v1, versions: {v1: {url: "http://127.0.0.1:9001"}}'
    return f"models:\n  a: {{match: {one}, {rest}}}\n  b: {{match: {two}, {rest}}}\n"


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("{}", "{path_prefix: /}"),
        ("{path_prefix: /m}", "{path_prefix: /m/, strip: true}"),
        ("{path_prefix: /m, host: a.example}", "{path_prefix: /m, host: A.example}"),
        ("{host: a.example}", "{host: 'a.example:8080'}"),
        ("{header: {X-A: '1'}}", "{header: {x-a: '1'}}"),
        ("{header: {X-A: '1'}}", "{header: {X-B: '1'}}"),
    ],
)
def test_two_models_that_match_the_same_requests_are_refused(tmp_path: Path, one: str, two: str) -> None:
    (line,) = faults(tmp_path, two_models(one, two))
    assert ": models.b.match: matches the same requests as models.a" in line


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("{path_prefix: /m}", "{path_prefix: /m/n}"),
        ("{path_prefix: /m}", "{path_prefix: /mm}"),
        ("{}", "{host: a.example}"),
        ("{host: 'a.example:1'}", "{host: 'a.example:2'}"),
        ("{}", "{header: {X-A: '1'}}"),
        ("{header: {X-A: '1'}}", "{header: {X-A: '2'}}"),
        ("{header: {X-A: '1'}}", "{header: {X-A: '1', X-B: '1'}}"),
    ],
)
def test_models_of_which_one_clearly_comes_first_are_allowed(tmp_path: Path, one: str, two: str) -> None:
    assert len(loaded(tmp_path, two_models(one, two)).models) == 2


@pytest.mark.parametrize(
    ("tokens", "where"),
    [
        ("[{name: a, sha256: 00, scopes: [admin]}]", "auth.tokens[0].sha256"),
        (f"[{{name: a, sha256: {'g' * 64}, scopes: [admin]}}]", "auth.tokens[0].sha256[0]"),
        (f"[{{name: a, sha256: {'a' * 63}, scopes: [admin]}}]", "auth.tokens[0].sha256[0]"),
        ("[{name: a, sha256: [], scopes: [admin]}]", "auth.tokens[0].sha256"),
        (f"[{{name: a, sha256: {'a' * 64}, scopes: [root]}}]", "auth.tokens[0].scopes[0]"),
        (f"[{{name: a, sha256: {'a' * 64}, scopes: []}}]", "auth.tokens[0].scopes"),
        (
            f"[{{name: a, sha256: {'a' * 64}, scopes: [read]}}, {{name: a, sha256: {'b' * 64}, scopes: [read]}}]",
            "auth.tokens[1].name",
        ),
        (
            f"[{{name: a, sha256: {'a' * 64}, scopes: [read]}}, {{name: b, sha256: {'A' * 64}, scopes: [read]}}]",
            "auth.tokens[1].sha256",
        ),
    ],
)
def test_each_wrong_token(tmp_path: Path, tokens: str, where: str) -> None:
    assert f": {where}: " in faults(tmp_path, f"auth: {{tokens: {tokens}}}")[0]


# ---- secrets


@pytest.mark.parametrize(
    "text",
    [
        "store: {url: 'postgresql://u:hunter2@/db'}",
        "store: {url: 'postgresql://u:hunt/er2@h:x/db'}",
        "store: {url: 'mysql://u:hunter2@h/db'}",
        "flags: {url: 'amqp://:hunter2@h/0'}",
        "auth: {tokens: [{name: a, sha256: hunter2, scopes: [admin]}]}",
        "auth: {tokens: [{name: a, sha256: [hunter2], scopes: [admin]}]}",
        "models: {m: {production: v, versions: {v: {url: 'http://u:hunter2@h'}}}}",
        "models: {m: {retraining: {webhook: 'ftp://h/?token=hunter2'}}}",
        "server: 'redis://u:hunter2@h'",
        "store: {url: 'postgresql://u:hunter2/x@h/db'}",
        "store: {url: 'postgresql:/u:hunter2@h/db'}",
        "store: {url: 'postgresql://u:hunter2'}",
        "flags: {url: 'redis:/hunter2@h'}",
        "flags: {url: 'redis://hunter2@:x/0'}",
        "flags: {url: 'redis+sentinel://hunter2@h:x/m'}",
        "auth: {tokens: [hunter2]}",
        "auth: {tokens: hunter2}",
        "auth: hunter2",
        "auth: {tokens: [{name: 'hunter2 x', sha256: x, scopes: [hunter2]}]}",
        "registry: {mlflow_token: [hunter2]}",
        "registry: {mlflow_token: *hunter2}",
        "registry: {mlflow_token: !hunter2 x}",
        "registry: 'mlflow_token:hunter2'",
        "registry: {mlflow_uri: 'https://hunter2@h:x'}",
        "telemetry: {headers: 'Authorization=hunter2'}",
        "telemetry: {headers: {Authorization: [hunter2]}}",
        "telemetry: {headers: {'Authorization: hunter2': x}}",
        "telemetry: {otlp_endpoint: 'h/hunter2'}",
        "models: {m: {production: v, versions: {v: {url: 'http://hunter2@h'}}}}",
        "models: {m: {production: v, versions: {v: {url: 'http://u:hunter2/x@h'}}}}",
        "models: {m: {production: v, versions: {v: {url: 'http://u:hunter2'}}}}",
        "models: {m: {retraining: {webhook: 'hooks.slack.com/services/hunter2'}}}",
        "models: {m: {retraining: {webhook: ['https://hooks.slack.com/services/hunter2']}}}",
        "models: {m: {retraining: {webhook: 'https://h:hunter2/services'}}}",
        "models: {m: {retraining: 'webhook:https://hooks.slack.com/services/hunter2'}}",
        'models: {m: {production: v, versions: {v: {url: http://h}}, match: {header: {X-Key: "hunter2\\n"}}}}',
    ],
)
def test_a_secret_is_in_no_message(tmp_path: Path, text: str) -> None:
    for line in faults(tmp_path, text):
        assert "hunter2" not in line
        assert "er2" not in line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://u:pw@h:5432/db", "postgresql://***@h:5432/db"),
        ("postgresql://u:p@/w@h/db", "postgresql://***@h/db"),
        ("https://token@h/x", "https://***@h/x"),
        ("redis:/pw@h", "redis:/***@h"),
        ("u:pw@h", "***@h"),
        ("u:a:/pw@h", "***@h"),
        ("http://h:pw/x", "http://h:***/x"),
        ("http://h:80/x", "http://h:80/x"),
        ("http://[::1]:80/x", "http://[::1]:80/x"),
        ("http://h/x?a=1&api_key=pw&b=2", "http://h/x?a=1&api_key=***&b=2"),
        ("sqlite:///data/gateway.db", "sqlite:///data/gateway.db"),
        ("v1", "v1"),
    ],
)
def test_what_a_message_shows_of_a_url(text: str, shown: str) -> None:
    assert masked(text) == shown


def test_a_secret_is_in_no_repr(tmp_path: Path) -> None:
    text = f"""
store: {{url: "postgresql://u:hunter2@h/db"}}
flags: {{url: "redis://:hunter2@h/0"}}
auth: {{tokens: [{{name: a, sha256: {"ab" * 32}, scopes: [admin]}}]}}
models: {{m: {{production: v, versions: {{v: {{url: http://h}}}}, retraining: {{webhook: "https://h/hunter2"}}}}}}
registry: {{mlflow_token: hunter2}}
telemetry: {{headers: {{Authorization: hunter2}}}}
"""
    settings = loaded(tmp_path, text)
    for shown in (repr(settings), str(settings), repr(settings.store), f"{settings.flags}"):
        assert "hunter2" not in shown
        assert "ab" * 32 not in shown
    assert settings.store.url == "postgresql://u:hunter2@h/db"


def test_settings_cannot_be_changed_after_they_were_checked(tmp_path: Path) -> None:
    settings = loaded(tmp_path, MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        settings.server.port = 1
