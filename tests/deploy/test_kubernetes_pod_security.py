"""Every pod keeps the rules of Kubernetes' profile `restricted`, and more."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from tests.deploy.manifests import Object, all_pods, containers, the
from tests.deploy.pod_security import violations

PODS = dict(all_pods())
USER = 10001


def _container(**changes: Any) -> Callable[[Object], None]:  # noqa: ANN401
    return lambda pod: pod["containers"][0]["securityContext"].update(changes)


def _pod(**changes: Any) -> Callable[[Object], None]:  # noqa: ANN401
    return lambda pod: pod["securityContext"].update(changes)


@pytest.mark.parametrize("name", PODS)
def test_a_pod_is_one_that_a_restricted_namespace_takes(name: str) -> None:
    assert list(violations(PODS[name])) == []


def test_the_namespace_takes_no_other() -> None:
    labels = the("base", "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda pod: pod.update(hostNetwork=True), id="host network"),
        pytest.param(lambda pod: pod.update(hostPID=True), id="host pids"),
        pytest.param(lambda pod: pod.update(hostIPC=True), id="host ipc"),
        pytest.param(
            lambda pod: pod["volumes"].append({"name": "root", "hostPath": {"path": "/"}}),
            id="host path",
        ),
        pytest.param(
            lambda pod: pod["containers"][0]["ports"][0].update(hostPort=80), id="host port"
        ),
        pytest.param(
            lambda pod: pod["containers"][0].update(
                readinessProbe={"httpGet": {"host": "10.0.0.1", "port": 80}}
            ),
            id="probe of a host",
        ),
        pytest.param(
            lambda pod: pod["containers"][0].pop("securityContext"), id="no container context"
        ),
        pytest.param(lambda pod: pod.pop("securityContext"), id="no pod context"),
        pytest.param(_container(privileged=True), id="privileged"),
        pytest.param(_container(allowPrivilegeEscalation=True), id="escalation"),
        pytest.param(_container(procMount="Unmasked"), id="proc mount"),
        pytest.param(_container(runAsNonRoot=False), id="root"),
        pytest.param(_container(runAsUser=0), id="user 0"),
        pytest.param(_container(capabilities={}), id="capabilities"),
        pytest.param(
            _container(capabilities={"drop": ["ALL"], "add": ["SYS_ADMIN"]}), id="more capabilities"
        ),
        pytest.param(_container(seccompProfile={"type": "Unconfined"}), id="container seccomp"),
        pytest.param(_pod(seccompProfile={"type": "Unconfined"}), id="pod seccomp"),
        pytest.param(_pod(appArmorProfile={"type": "Unconfined"}), id="apparmor"),
        pytest.param(_pod(seLinuxOptions={"type": "spc_t"}), id="selinux"),
        pytest.param(_pod(sysctls=[{"name": "kernel.msgmax", "value": "1"}]), id="sysctl"),
        pytest.param(_pod(windowsOptions={"hostProcess": True}), id="host process"),
    ],
)
def test_a_pod_that_breaks_a_rule_is_noticed(spoil: Callable[[Object], None]) -> None:
    pod = deepcopy(the("base", "Deployment")["spec"]["template"]["spec"])
    spoil(pod)
    assert list(violations(pod))


@pytest.mark.parametrize("name", PODS)
def test_a_pod_runs_as_the_images_user_and_within_limits(name: str) -> None:
    pod = PODS[name]
    for container in containers(pod):
        context = pod.get("securityContext", {}) | container["securityContext"]
        assert (context["runAsUser"], context["runAsGroup"]) == (USER, USER)
        resources = container["resources"]
        assert {"cpu", "memory"} <= resources["requests"].keys() & resources["limits"].keys()
        # Memory that is promised is memory that is there.
        if container["name"] != "fetch":
            assert resources["requests"]["memory"] == resources["limits"]["memory"]


@pytest.mark.parametrize("name", [name for name in PODS if "Ray" not in name])
def test_a_pod_writes_nowhere_but_into_its_volumes(name: str) -> None:
    pod = PODS[name]
    for container in containers(pod):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        assert not mounts["/tmp"].get("readOnly")
        if container["name"] in {"server", "kserve-container"}:
            assert all(mount["readOnly"] for path, mount in mounts.items() if path != "/tmp")
    for volume in pod["volumes"]:
        if "emptyDir" in volume:
            assert volume["emptyDir"]["sizeLimit"]


@pytest.mark.parametrize("name", [name for name in PODS if "ServingRuntime" not in name])
def test_a_pod_has_no_token_of_the_cluster_and_no_variables_of_its_services(name: str) -> None:
    assert PODS[name]["automountServiceAccountToken"] is False
    # Kubernetes would set SEQSERVE_PORT and others for a service named seqserve.
    assert PODS[name]["enableServiceLinks"] is False
