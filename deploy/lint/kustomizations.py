"""What `kubectl kustomize` makes of a folder, and which folders there are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

KUBERNETES = Path(__file__).parents[1] / "kubernetes"


class CannotBuildError(Exception):
    """A folder is no kustomization, or there is no kubectl."""


def folders(root: Path = KUBERNETES) -> list[Path]:
    """Whatever can be applied: each kustomization that is no component of others."""
    found = sorted(root.rglob("kustomization.yaml"))
    return [
        path.parent for path in found if yaml.safe_load(path.read_text())["kind"] != "Component"
    ]


def build(folder: Path) -> list[dict[str, Any]]:
    """The objects of a folder, as `kubectl apply --kustomize` would send them.

    Raises:
        CannotBuildError: says why.
    """
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    kubectl = shutil.which("kubectl", path=places)
    if kubectl is None:
        raise CannotBuildError(
            "there is no kubectl here: kubernetes.io/docs/tasks/tools says how to get one"
        )
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True)
    if done.returncode:
        raise CannotBuildError(f"{folder}: {done.stderr.strip()}")
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def all_objects(root: Path = KUBERNETES) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every object of every folder, with the folder.

    Raises:
        CannotBuildError: of the first that cannot be built.
    """
    for folder in folders(root):
        for thing in build(folder):
            yield folder, thing


def title(thing: dict[str, Any]) -> str:
    """For messages: `Deployment seqserve`."""
    return f"{thing.get('kind')} {thing.get('metadata', {}).get('name')}"
