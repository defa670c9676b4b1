"""What `kubectl kustomize` makes of deploy/kubernetes, and where pods are in it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from deploy.lint import kustomizations

Object = dict[str, Any]
ROOT = kustomizations.KUBERNETES
FOLDERS = [str(folder.relative_to(ROOT)) for folder in kustomizations.folders()]
SERVERS = [each for each in FOLDERS if each == "base" or each.startswith("overlays/")]
"""Those that have a Deployment of the server."""


@cache
def built(folder: str) -> list[Object]:
    """The objects of a folder, which nobody changes."""
    return kustomizations.build(ROOT / folder)


def of_kind(folder: str, kind: str) -> list[Object]:
    return [each for each in built(folder) if each["kind"] == kind]


def the(folder: str, kind: str) -> Object:
    [found] = of_kind(folder, kind)
    return found


def pods(thing: Object) -> Iterator[Object]:
    """Every pod that an object asks for: what has `containers`, with all that is beside them."""
    if thing["kind"] == "ServingRuntime":
        yield thing["spec"]
    elif thing["kind"] not in {"InferenceService", "ServiceMonitor"}:
        yield from _pods(thing)


def _pods(part: object) -> Iterator[Object]:
    if isinstance(part, dict):
        if "containers" in part:
            yield part
        for each in part.values():
            yield from _pods(each)
    elif isinstance(part, list):
        for each in part:
            yield from _pods(each)


def all_pods() -> Iterator[tuple[str, Object]]:
    """With a name for messages."""
    for folder in FOLDERS:
        for thing in built(folder):
            for pod in pods(thing):
                yield f"{folder}: {kustomizations.title(thing)}", pod


def containers(pod: Object) -> list[Object]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def server(folder: str) -> Object:
    """The server's container."""
    pod = the(folder, "Deployment")["spec"]["template"]["spec"]
    [found] = pod["containers"]
    assert isinstance(found, dict)
    return found


def settings(folder: str) -> dict[str, str]:
    """The variables that the server gets from its ConfigMap."""
    [source] = server(folder)["envFrom"]
    name = source["configMapRef"]["name"]
    [found] = [each for each in of_kind(folder, "ConfigMap") if each["metadata"]["name"] == name]
    return dict(found["data"])


def variables(folder: str) -> dict[str, str]:
    """All of its variables."""
    named = {each["name"]: each["value"] for each in server(folder).get("env", [])}
    return settings(folder) | named
