"""The rules of Kubernetes' Pod Security Standard `restricted`, `baseline` among them.

https://kubernetes.io/docs/concepts/security/pod-security-standards, for pods of Linux.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.deploy.manifests import Object, containers

VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
}
PROFILES = {"RuntimeDefault", "Localhost"}
SELINUX_TYPES = {
    "",
    "container_t",
    "container_init_t",
    "container_kvm_t",
    "container_engine_t",
}


def violations(pod: Object) -> Iterator[str]:
    """What of a pod's spec a namespace with `enforce: restricted` refuses."""
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(name):
            yield name
    for volume in pod.get("volumes", []):
        for kind in volume.keys() - {"name"} - VOLUMES:
            yield f"a volume of {kind}"
    context = pod.get("securityContext", {})
    yield from _of_any_context(context)
    for sysctl in context.get("sysctls", []):
        if sysctl["name"] not in SYSCTLS:
            yield f"sysctl {sysctl['name']}"
    for container in containers(pod):
        for problem in _of_container(container, context):
            yield f"{container['name']}: {problem}"


def _of_container(container: Object, pod: dict[str, Any]) -> Iterator[str]:
    own = container.get("securityContext", {})
    yield from _of_any_context(own)
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield "hostPort"
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        if container.get(probe, {}).get("httpGet", {}).get("host"):
            yield f"{probe} on a host"
    profile = own.get("seccompProfile") or pod.get("seccompProfile") or {}
    capabilities = own.get("capabilities", {})
    rules = {
        "privileged": not own.get("privileged"),
        "procMount": own.get("procMount", "Default") == "Default",
        "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
        "runAsNonRoot": own.get("runAsNonRoot", pod.get("runAsNonRoot")) is True,
        "seccompProfile": profile.get("type") in PROFILES,
        "capabilities are not dropped": "ALL" in capabilities.get("drop", []),
        "capabilities are added": set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"},
    }
    yield from (name for name, holds in rules.items() if not holds)


def _of_any_context(context: dict[str, Any]) -> Iterator[str]:
    if context.get("runAsUser") == 0:
        yield "runAsUser is 0"
    if context.get("runAsNonRoot") is False:
        yield "runAsNonRoot is false"
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield "hostProcess"
    if context.get("seccompProfile", {}).get("type") not in {None, *PROFILES}:
        yield "seccompProfile is Unconfined"
    if context.get("appArmorProfile", {}).get("type") not in {None, *PROFILES}:
        yield "appArmorProfile is Unconfined"
    selinux = context.get("seLinuxOptions", {})
    if selinux.get("type", "") not in SELINUX_TYPES or selinux.get("user") or selinux.get("role"):
        yield "seLinuxOptions"
