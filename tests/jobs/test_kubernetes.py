"""The manifests of batch jobs, held against Kubernetes' own schemas without a cluster."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml

from seqserve_jobs.choices import Where
from seqserve_jobs.commands import score

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "deploy" / "kubernetes"
KUBERNETES = "1.31"
"""The oldest that has what they use."""

# Of KubeRay's reference of ray.io/v1 (its schema is in no package): what these manifests use.
RAY_JOB = {
    "entrypoint": str,
    "backoffLimit": int,
    "shutdownAfterJobFinishes": bool,
    "ttlSecondsAfterFinished": int,
    "submitterPodTemplate": dict,
    "rayClusterSpec": dict,
}
RAY_CLUSTER = {
    "rayVersion": str,
    "authOptions": dict,
    "headGroupSpec": dict,
    "workerGroupSpecs": list,
}
HEAD_GROUP = {"rayStartParams": dict, "template": dict}
WORKER_GROUP = {
    "groupName": str,
    "replicas": int,
    "minReplicas": int,
    "maxReplicas": int,
    "template": dict,
}


def read(name: str) -> dict[str, Any]:
    manifest: dict[str, Any] = yaml.safe_load((MANIFESTS / name).read_text())
    return manifest


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    return read("scoring/once/score-job.yaml")


@pytest.fixture(scope="module")
def nightly() -> dict[str, Any]:
    return read("scoring/nightly/score-cronjob.yaml")


@pytest.fixture(scope="module")
def ray_job() -> dict[str, Any]:
    return read("kuberay/rayjob-score.yaml")


def pods(ray_job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    cluster = ray_job["spec"]["rayClusterSpec"]
    yield cluster["headGroupSpec"]["template"]
    for group in cluster["workerGroupSpecs"]:
        yield group["template"]


def parsed(words: list[str]) -> dict[str, Any]:
    """What `seqserve score` makes of a line."""
    app = typer.Typer()
    app.command()(score)
    command = typer.main.get_command(app)
    with command.make_context("score", words) as context:
        return context.params


def test_the_pods_of_a_ray_job_are_such_that_kubernetes_takes(ray_job: dict[str, Any]) -> None:
    for template in pods(ray_job):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **template}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_a_ray_job_has_the_fields_that_kuberay_knows(ray_job: dict[str, Any]) -> None:
    assert (ray_job["apiVersion"], ray_job["kind"]) == ("ray.io/v1", "RayJob")
    spec = ray_job["spec"]
    cluster = spec["rayClusterSpec"]
    known = [(spec, RAY_JOB), (cluster, RAY_CLUSTER), (cluster["headGroupSpec"], HEAD_GROUP)]
    known += [(group, WORKER_GROUP) for group in cluster["workerGroupSpecs"]]
    for found, fields in known:
        assert {name: type(value) for name, value in found.items()} == fields
    start_params = cluster["headGroupSpec"]["rayStartParams"]
    assert all(isinstance(value, str) for value in start_params.values())


def test_a_ray_job_runs_the_version_of_ray_that_is_tested(ray_job: dict[str, Any]) -> None:
    (pinned,) = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert ray_job["spec"]["rayClusterSpec"]["rayVersion"] == pinned


def test_what_a_ray_job_runs_is_a_command_whose_files_every_pod_has(
    ray_job: dict[str, Any],
) -> None:
    seqserve, name, *words = shlex.split(ray_job["spec"]["entrypoint"])
    assert (seqserve, name) == ("seqserve", "score")
    told = parsed(words)
    assert told["engine"] is Where.RAY
    groups = ray_job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    cpus = [
        int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
        * group["replicas"]
        for group in groups
    ]
    assert told["workers"] * (told["lanes"] or 1) == sum(cpus)

    for template in pods(ray_job):
        (container,) = template["spec"]["containers"]
        mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
        files = [*told["input"], told["output"], told["repository"], told["summary"]]
        assert {f"/{Path(file).parts[1]}" for file in files} == mounted
        environment = {variable["name"]: variable["value"] for variable in container["env"]}
        assert environment["RAY_USAGE_STATS_ENABLED"] == "0"
        assert environment["ORT_DISABLE_TELEMETRY"] == "1"


def test_the_job_runs_a_command_that_there_is(job: dict[str, Any]) -> None:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    name, *words = container["args"]
    assert name == "score"
    told = parsed(words)
    assert told["engine"] is Where.LOCAL
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    files = [*told["input"], told["output"], told["repository"], told["summary"]]
    assert {f"/{Path(file).parts[1]}" for file in files} == mounted - {"/tmp"}


def test_the_job_of_a_night_is_answered_by_the_service_into_a_file_of_its_own(
    nightly: dict[str, Any],
) -> None:
    pod = nightly["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    name, *words = container["args"]
    assert name == "score"
    told = parsed(words)
    service = read("base/service.yaml")
    (port,) = [port["port"] for port in service["spec"]["ports"] if port["name"] == "grpc"]
    assert told["server"] == f"{service['metadata']['name']}:{port}"
    assert told["repository"] is None
    # The same for every pod of a night's job, so that the next one goes on; another every night.
    (variable,) = container["env"]
    label = "metadata.labels['batch.kubernetes.io/job-name']"
    assert variable == {"name": "JOB", "valueFrom": {"fieldRef": {"fieldPath": label}}}
    assert Path(told["output"]).stem == Path(told["summary"]).stem == "$(JOB)"
    assert nightly["spec"]["concurrencyPolicy"] == "Forbid"
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {f"/{Path(file).parts[1]}" for file in [*told["input"], told["output"]]} <= mounted


def test_a_job_is_over_where_no_other_pod_could_do_better(
    job: dict[str, Any], nightly: dict[str, Any]
) -> None:
    for spec in (job["spec"], nightly["spec"]["jobTemplate"]["spec"]):
        pod = spec["template"]["spec"]
        (container,) = pod["containers"]
        codes, disrupted = spec["podFailurePolicy"]["rules"]
        # Called wrongly; some sequences refused.
        assert codes["onExitCodes"] == {
            "containerName": container["name"],
            "operator": "In",
            "values": [2, 3],
        }
        assert (codes["action"], disrupted["action"]) == ("FailJob", "Ignore")
        # Such a policy is refused where containers are restarted in place.
        assert pod["restartPolicy"] == "Never"
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
