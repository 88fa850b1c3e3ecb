"""What is deployed, judged by other people's programs: Kubernetes' schemas and kustomize, hadolint, systemd, promtool, and the image's
own steps as far as they go without an engine. Nothing here is skipped for a missing program: it is brought, or the test fails."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from tests import bring_servers
from tests.interop.environment import python
from tests.interop.processes import done
from tests.system import ROOT

pytestmark = pytest.mark.interop

DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
# The oldest with sidecars by default, and the newest that the validator knows.
RELEASES = ("1.29.0", "1.37.0")
NO_MANIFEST = {"configuration.yaml", "kustomization.yaml"}


@pytest.mark.parametrize("release", RELEASES)
def test_every_manifest_is_what_kubernetes_schemas_allow(release: str, tmp_path: Path) -> None:
    """Strictly: a misspelt key is an error. Each file as it stands (aliases resolved), and what kustomize makes of all."""
    documents = [
        document
        for path in sorted(KUBERNETES.glob("*.yaml"))
        if path.name not in NO_MANIFEST
        for document in yaml.safe_load_all(path.read_text())
    ]
    file = tmp_path / "all.yaml"
    file.write_text(yaml.safe_dump_all(documents))
    said = done(python("deploy").parent / "kubernetes-validate", "--strict", "-k", release, file)
    assert said.count("passed") == len(documents) >= 10
    kustomize = shutil.which("kubectl")
    if kustomize is not None:
        file.write_text(done(kustomize, "kustomize", KUBERNETES))
        made = [one for one in yaml.safe_load_all(file.read_text()) if one]
        said = done(python("deploy").parent / "kubernetes-validate", "--strict", "-k", release, file)
        assert said.count("passed") == len(made) == len(documents) + 1  # the configuration's map


def test_the_dockerfile_has_nothing_that_its_linter_minds() -> None:
    # DL3042: --no-cache-dir is set by PIP_NO_CACHE_DIR
    done(python("deploy").parent / "hadolint", "--ignore", "DL3042", ROOT / "Dockerfile")


def test_the_rules_do_what_their_tests_say() -> None:
    promtool = bring_servers.prometheus() / "promtool"
    done(promtool, "check", "rules", DEPLOY / "prometheus" / "rules.yml")
    done(promtool, "check", "config", DEPLOY / "prometheus" / "prometheus.yml")
    done(promtool, "test", "rules", DEPLOY / "prometheus" / "rules.test.yml")
