"""`make lint-deploy` finds nothing in what is there, and finds what is wrong."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.lint.manifests import definitions_in, problems
from tests.deploy.manifests import ROOT, built, the

PROJECT = ROOT.parents[1]
TYPES = PROJECT / ".venv-crds" / "bin" / "python"
"""Has the types of custom resources; `make test` makes it."""


def lint(
    module: str, root: Path, *words: str | Path, python: Path | str = sys.executable
) -> tuple[int, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [python, "-m", f"deploy.lint.{module}", "--root", root, *words],
        cwd=PROJECT,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Without the overlays that are not spoilt."""
    folder = Path(shutil.copytree(ROOT, tmp_path / "kubernetes"))
    for name in ("development", "gpu", "object-store"):
        shutil.rmtree(folder / "overlays" / name)
    return folder


def changed(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_lint_finds_nothing_wrong_with_what_is_applied() -> None:
    code, printed = lint("manifests", ROOT)
    assert code == 0, printed
    assert printed.endswith(" objects, 0 problems\n")


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        pytest.param(
            "base/deployment.yaml",
            "maxUnavailable: 0",
            "maxUnavailible: 0",
            "Deployment seqserve: Kubernetes 1.31: spec.strategy.rollingUpdate",
            id="a field that is none",
        ),
        pytest.param(
            "base/service.yaml",
            "port: 8002",
            "port: metrics",
            "Service seqserve: Kubernetes 1.31: spec.ports.1.port",
            id="a word for a number",
        ),
        pytest.param(
            "base/disruption-budget.yaml",
            "policy/v1",
            "policy/v1beta1",
            "has no PodDisruptionBudget in policy/v1beta1",
            id="a version that is gone",
        ),
        pytest.param(
            "scoring/once/score-job.yaml",
            "          image: seqserve-jobs\n",
            "          imaeg: seqserve-jobs\n",
            "once: Job seqserve-score",
            id="a job",
        ),
        pytest.param(
            "kuberay/rayjob-score.yaml",
            "mountPath: /data",
            "mountpath: /data",
            "RayJob seqserve-score",
            id="a pod within a custom resource",
        ),
        pytest.param(
            "kuberay/rayjob-score.yaml",
            "        - name: submitter\n",
            "        - nome: submitter\n",
            "RayJob seqserve-score-ray",
            id="a pod that submits one",
        ),
        pytest.param(
            "components/autoscaling/autoscaler.yaml",
            "kind: HorizontalPodAutoscaler",
            "kind: HorizontalPodAutoscalar",
            "has no HorizontalPodAutoscalar",
            id="a kind that is none",
        ),
        pytest.param(
            "base/kustomization.yaml",
            "- service.yaml",
            "- services.yaml",
            "services.yaml",
            id="a file that is not there",
        ),
    ],
)
def test_the_lint_refuses(copied: Path, file: str, old: str, new: str, said: str) -> None:
    changed(copied / file, old, new)
    room = Path(file).parts[0]
    # A component is applied by an overlay alone.
    code, printed = lint("manifests", copied / ("overlays" if room == "components" else room))
    assert code == 1
    assert said in printed
    assert "Traceback" not in printed


def test_the_lint_of_nothing_is_no_success(tmp_path: Path) -> None:
    assert lint("manifests", tmp_path)[0] == 1


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_without_definitions_is_refused(tmp_path: Path, there: bool) -> None:
    folder = tmp_path / "crds"
    if there:
        folder.mkdir()
        (folder / "other.yaml").write_text("kind: ConfigMap\n")
    code, printed = lint("manifests", ROOT / "base", "--crds", folder)
    assert code == 1
    assert printed.startswith(f"{folder} has no CustomResourceDefinition")
    assert len(printed.splitlines()) == 1


@pytest.mark.parametrize(("told", "passes"), [("true", False), ("", True)])
def test_rules_that_are_not_checked_are_no_success_of_a_build_server(
    tmp_path: Path, told: str, passes: bool
) -> None:
    """The target's own lines for the rules, where there is no promtool."""
    printed = subprocess.run(
        ["make", "--dry-run", "lint-deploy"],
        cwd=PROJECT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.replace("\\\n", "\n")
    [lines] = re.findall(r"^if command -v promtool.*?^ *else .*? fi$", printed, re.S | re.M)
    done = subprocess.run(
        ["/bin/sh", "-ec", lines],
        env={"PATH": str(tmp_path), "CI": told},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) is passes
    assert done.stdout == "promtool is not installed: the rules are not checked\n"


def test_custom_resources_are_as_their_projects_types_have_them() -> None:
    code, printed = lint("custom_resources", ROOT, python=TYPES)
    assert code == 0, printed
    kinds = "InferenceService, PrometheusRule, ServiceMonitor, ServingRuntime"
    assert printed == f"{kinds}: 0 problems\n"


def test_custom_resources_that_are_otherwise_are_refused(copied: Path) -> None:
    runtime = copied / "kserve/serving-runtime.yaml"
    changed(runtime, "supportedModelFormats:", "supportedFormats:")
    changed(runtime, "containerPort: 8002", "containerPort: metrics")
    changed(runtime, "periodSeconds: 10", "period: 10")
    service = copied / "kserve/inference-service.yaml"
    changed(service, "minReplicas: 2", "minReplicas: two")
    changed(service, "storageUri:", "storageURL:")
    changed(copied / "components/monitoring/service-monitor.yaml", "interval:", "intervall:")
    for other in ("kuberay", "scoring", "transfer"):
        shutil.rmtree(copied / other)
    code, printed = lint("custom_resources", copied, python=TYPES)
    assert code == 1
    assert ": 6 problems\n" in printed
    for said in (
        "ServingRuntime seqserve: .spec.supportedFormats: ",
        "ServingRuntime seqserve: .spec.containers[0].ports.1.containerPort: ",
        "ServingRuntime seqserve: .spec.containers[0].livenessProbe.period: ",
        "InferenceService japanese-vowels: .spec.predictor.minReplicas: ",
        "InferenceService japanese-vowels: .spec.predictor.model.storageURL: ",
        "ServiceMonitor seqserve: .spec.endpoints[0].intervall: ",
    ):
        assert said in printed


@pytest.fixture
def crds(tmp_path: Path) -> Path:
    """As `kubectl get crds --output yaml` prints them, of a smaller world."""
    job: dict[str, Any] = {
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": {
                "type": "object",
                "properties": {
                    "entrypoint": {"type": "string"},
                    "backoffLimit": {"x-kubernetes-int-or-string": True, "type": "string"},
                    "shutdownAfterJobFinishes": {"type": "boolean", "nullable": True},
                    "ttlSecondsAfterFinished": {"type": "integer"},
                    "submitterPodTemplate": {
                        "type": "object",
                        "x-kubernetes-preserve-unknown-fields": True,
                    },
                    "rayClusterSpec": {
                        "type": "object",
                        "properties": {"rayVersion": {"type": "string"}},
                        "x-kubernetes-preserve-unknown-fields": True,
                    },
                },
            },
        },
    }
    crd = {
        "kind": "CustomResourceDefinition",
        "spec": {
            "group": "ray.io",
            "names": {"kind": "RayJob"},
            "versions": [{"name": "v1", "schema": {"openAPIV3Schema": job}}],
        },
    }
    (tmp_path / "crds.yaml").write_text(yaml.safe_dump({"kind": "List", "items": [crd]}))
    return tmp_path


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        pytest.param(lambda spec: None, [], id="nothing"),
        pytest.param(lambda spec: spec.update(shutdownAfterJobFinishes=None), [], id="null"),
        pytest.param(lambda spec: spec.update(entrypoint=3), ["$.spec.entrypoint"], id="type"),
        pytest.param(lambda spec: spec.update(retries=3), ["$.spec"], id="unknown field"),
    ],
)
def test_a_ray_job_is_held_against_a_clusters_own_definitions(
    crds: Path, spoil: Callable[[dict[str, Any]], None], said: list[str]
) -> None:
    thing = yaml.safe_load(yaml.safe_dump(the("kuberay", "RayJob")))
    spoil(thing["spec"])
    found = list(problems(thing, definitions_in(crds)))
    assert [each.partition(":")[0] for each in found] == said


def test_every_component_is_in_an_overlay() -> None:
    used = {
        Path(each).name
        for path in (ROOT / "overlays").glob("*/kustomization.yaml")
        for each in yaml.safe_load(path.read_text()).get("components", [])
    }
    assert used == {path.parent.name for path in ROOT.glob("components/*/kustomization.yaml")}
    assert all(built(f"overlays/{path.name}") for path in (ROOT / "overlays").iterdir())
