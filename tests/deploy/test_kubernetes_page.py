"""What docs/kubernetes.md has users write and run, built and run as it stands there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml

from deploy.lint import kustomizations
from seqserve_jobs.commands import score
from tests.deploy.manifests import FOLDERS, ROOT, Object, built, containers, of_kind, pods, the
from tests.deploy.pod_security import violations

PROJECT = ROOT.parents[1]
PAGE = (PROJECT / "docs/kubernetes.md").read_text()
OVERLAYS = {
    section.partition("\n")[0].lstrip("# "): text
    for section in re.split(r"^##+ ", PAGE, flags=re.M)
    for text in re.findall(
        r"^```yaml\n(# cluster/kustomization.yaml\n.*?)^```", section, re.M | re.S
    )
}
"""A user's own, by the sections that tell of them."""

SECTIONS = [
    "\n".join(re.findall(r"^```sh\n(.*?)^```", section, re.M | re.S))
    for section in re.split(r"^## ", PAGE, flags=re.M)
]
"""The commands of each chapter, which begins on a fresh cluster."""


def _build(text: str, folder: Path) -> list[Object]:
    shutil.copytree(ROOT, folder / "seqserve/deploy/kubernetes")
    (folder / "cluster").mkdir()
    (folder / "cluster/kustomization.yaml").write_text(text)
    return kustomizations.build(folder / "cluster")


@pytest.mark.parametrize("section", OVERLAYS)
def test_an_overlay_of_the_page_is_built_and_takes_all_images_from_the_registry(
    section: str, tmp_path: Path
) -> None:
    things = _build(OVERLAYS[section], tmp_path)
    found = [container for each in things for pod in pods(each) for container in containers(pod)]
    assert found
    for container in found:
        assert container["image"].startswith("registry.example/seqserve-")
        assert ":0.1.0" in container["image"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_images_of_every_folder_can_be_taken_from_a_registry(folder: str, tmp_path: Path) -> None:
    overlay = {
        "resources": [f"../seqserve/deploy/kubernetes/{folder}"],
        "images": [
            {"name": f"seqserve-{each}", "newName": f"registry.example/seqserve-{each}"}
            for each in ("server", "export", "jobs")
        ],
    }
    things = _build(yaml.safe_dump(overlay), tmp_path)
    found = [container for each in things for pod in pods(each) for container in containers(pod)]
    assert [each for each in found if not each["image"].startswith("registry.example/")] == []
    assert found or folder in {"models", "scoring/data"}


def test_an_overlay_says_where_the_object_store_is(tmp_path: Path) -> None:
    things = _build(OVERLAYS["Models from an object store"], tmp_path)
    [told] = [each["data"] for each in things if "MODELS_URL" in each.get("data", {})]
    assert "https://store.example" in told["STORAGE_OPTIONS"]
    [deployment] = [each for each in things if each["kind"] == "Deployment"]
    [fetch] = deployment["spec"]["template"]["spec"]["initContainers"]
    [config] = [each["configMapRef"] for each in fetch["envFrom"] if "configMapRef" in each]
    [source] = [each["metadata"]["name"] for each in things if each.get("data") == told]
    assert config["name"] == source


def test_the_nightly_job_of_a_service_with_tls_and_tokens_has_what_it_needs(tmp_path: Path) -> None:
    things = _build(OVERLAYS["Batch jobs"], tmp_path)
    [job] = [each for each in things if each["kind"] == "CronJob"]
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    told = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    app = typer.Typer()
    app.command()(score)
    command = typer.main.get_command(app)
    known = {parameter.envvar for parameter in command.params}
    assert told.keys() == {"SEQSERVE_CA_FILE", "SEQSERVE_TOKEN_FILE"} <= known
    volumes = {each["name"]: each.get("secret") for each in pod["volumes"]}
    mounts = {each["mountPath"]: volumes[each["name"]] for each in container["volumeMounts"]}
    for file in map(Path, told.values()):
        # And no more: neither the server's key nor who else may do what.
        assert [item["path"] for item in mounts[str(file.parent)]["items"]] == [file.name]
    assert list(violations(pod)) == []
    assert "--model=speakers" in container["args"]
    # All else is what the production overlay makes.
    production = {kustomizations.title(each) for each in built("overlays/production")}
    night = {kustomizations.title(each) for each in built("scoring/nightly")}
    assert {kustomizations.title(each) for each in things} == production | night


def _prerequisites() -> dict[str, list[str]]:
    """By the page's table of folders."""
    found = {}
    for row in re.findall(r"^\| (`.*) \|$", PAGE, re.M):
        cells = [re.findall(r"`([^`]+)`", cell) for cell in row.split(" | ")]
        found.update({folder: cells[2] if len(cells) > 2 else [] for folder in cells[0]})
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_whatever_a_pod_names_is_there_or_is_told_of(folder: str) -> None:
    """Configuration and claims by these files; secrets by somebody who has read the page."""
    first = [thing for each in _prerequisites()[folder] for thing in built(each)]
    there = [*first, *built(folder)]
    assert "Namespace" in {thing["kind"] for thing in there} or folder == "scoring/data"
    assert _lacking(built(folder), there) == set()


def _lacking(things: list[Object], there: list[Object]) -> set[str]:
    names = {(each["kind"], each["metadata"]["name"]) for each in there}
    lacking = set()
    for thing in things:
        for kind, name in _references(thing):
            told = kind == "Secret" and re.search(rf"(generic|tls) {name}\b", PAGE)
            if not told and (kind, name) not in names:
                lacking.add(f"{kind} {name}")
    return lacking


def _references(part: object) -> Iterator[tuple[str, str]]:
    if isinstance(part, dict):
        for key, value in part.items():
            if key == "claimName":
                yield "PersistentVolumeClaim", value
            elif key == "storageUri" and value.startswith("pvc://"):
                yield "PersistentVolumeClaim", value.removeprefix("pvc://")
            elif key == "secretName":
                yield "Secret", value
            elif key in {"configMapRef", "configMap"} and "name" in value:
                yield "ConfigMap", value["name"]
            elif key == "secretRef":
                yield "Secret", value["name"]
            else:
                yield from _references(value)
    elif isinstance(part, list):
        for each in part:
            yield from _references(each)


def test_on_a_fresh_cluster_nothing_is_applied_before_what_it_needs() -> None:
    applied = []
    for commands in SECTIONS:
        there: list[Object] = []
        for place in re.findall(r"kubectl apply --kustomize (\S+)", commands):
            folder = place.removeprefix("seqserve/deploy/kubernetes/")
            things = built("overlays/production" if folder == "cluster" else folder)
            there += things
            spaces = {each["metadata"]["name"] for each in there if each["kind"] == "Namespace"}
            assert {each["metadata"].get("namespace", "seqserve") for each in things} <= spaces
            assert _lacking(things, there) == set(), folder
            applied.append(folder)
    assert {"cluster", "overlays/development", "kserve", "kuberay", "transfer"} <= set(applied)


def test_only_their_own_folders_take_the_claims_along() -> None:
    owners = {
        folder: [each["metadata"]["name"] for each in of_kind(folder, "PersistentVolumeClaim")]
        for folder in FOLDERS
        if of_kind(folder, "PersistentVolumeClaim")
    }
    assert owners.pop("scoring/data") == ["seqserve-data"]
    assert set(map(tuple, owners.values())) == {("seqserve-models",)}
    assert not any(folder.startswith(("scoring", "kserve", "kuberay")) for folder in owners)


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """A `kubectl` whose `exec` runs here, with a pod's claims in folders."""
    for name in ("models", "data", "bin"):
        (tmp_path / "cluster" / name).mkdir(parents=True)
    kubectl = tmp_path / "cluster/bin/kubectl"
    kubectl.write_text(
        "#!/usr/bin/env python3\n"
        "import os, re, sys\n"
        "if 'exec' in sys.argv:\n"
        "    words = sys.argv[sys.argv.index('--') + 1:]\n"
        "    there = lambda word: re.sub('(^| )/(models|data)\\\\b', r'\\1$CLUSTER/\\2', word)\n"
        "    words = [os.path.expandvars(there(word)) for word in words]\n"
        "    os.execvp(words[0], words)\n"
    )
    kubectl.chmod(0o755)
    return tmp_path / "cluster"


def _commands(after: str) -> str:
    [found] = re.findall(rf"^```sh\n((?:(?!```).)*{after}.*?)^```", PAGE, re.M | re.S)
    return str(found)


def _run(commands: str, cluster: Path, where: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-ec", commands],
        cwd=where,
        env=os.environ | {"CLUSTER": str(cluster), "PATH": f"{cluster}/bin:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_model_is_brought_onto_the_claim_whole_and_once(cluster: Path, tmp_path: Path) -> None:
    version = tmp_path / "models/speakers/3"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(b"new")
    commands = _commands("seqserve-transfer -- sh -ec '\n  mkdir -p /models")
    done = _run(commands, cluster, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (cluster / "models/speakers/3/model.onnx").read_bytes() == b"new"
    (version / "model.onnx").write_bytes(b"other")
    [bringing] = re.findall(r"^tar .*?'\n.*?'$", commands, re.M | re.S)
    assert _run(bringing, cluster, tmp_path).returncode != 0
    assert (cluster / "models/speakers/3/model.onnx").read_bytes() == b"new"


def test_sequences_are_brought_and_scores_fetched(cluster: Path, tmp_path: Path) -> None:
    (tmp_path / "sequences").mkdir()
    (tmp_path / "sequences/a.parquet").write_bytes(b"sequences")
    (cluster / "data/scores").mkdir()
    (cluster / "data/scores/night.parquet").write_bytes(b"scores")
    done = _run(_commands("mkdir -p /data/incoming"), cluster, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (cluster / "data/incoming/a.parquet").read_bytes() == b"sequences"
    assert (tmp_path / "scores/night.parquet").read_bytes() == b"scores"


def test_the_transfer_pod_may_write_where_the_page_writes() -> None:
    [pod] = pods(the("transfer", "Job"))
    [container] = pod["containers"]
    mounts = {each["mountPath"]: each.get("readOnly", False) for each in container["volumeMounts"]}
    assert mounts == {"/models": False, "/data": False, "/tmp": False}
    name = the("transfer", "Job")["metadata"]["name"]
    assert set(re.findall(r"job/(seqserve-\S+)", PAGE)) == {name}
    labels = the("transfer", "Job")["spec"]["template"]["metadata"]["labels"]
    policy = the("transfer", "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
